// QEMU 7.2 as the vhost-user front end, with Debian's own cloud kernel as the driver of our network card on a tap device,
// in a network namespace that the test makes.
//
// `vectors=0`: QEMU 7.2 without KVM ends with SIGSEGV as soon as the guest unmasks an MSI-X vector of a virtio-net-pci behind
// vhost-user, whatever the back end does. hw/net/vhost_net.c switches guest notifier masks off for vhost-user, and
// hw/virtio/virtio-pci.c then looks up the vector's irqfd in a table that is made with KVM only. Other vhost-user devices
// keep their masks. With the old interrupt line there is no vector. And one queue pair: for each more QEMU 7.2 adds the
// same memory once more (VHOST_USER_ADD_MEM_REG), which a back end has to refuse as an overlap.
import { type ChildProcess, execFileSync, spawn } from "node:child_process"
import { createHash } from "node:crypto"
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { fileURLToPath } from "node:url"
import { NET_HEADER_SIZE, NetDevice, type NetPort } from "@ts-vmm/virtio-devices/net"
import { openTap, TapPort } from "@ts-vmm/virtio-devices/net/tap"
import { serveVhostUser } from "@ts-vmm/virtio-devices/vhost-user"
import { afterAll, beforeAll, describe, expect, test } from "vitest"
import { makeInitramfs, stockKernel } from "../fixtures/stock-kernel.js"
import { startQemu } from "./qemu.js"

const SCRIPT = fileURLToPath(new URL("guest/net.sh", import.meta.url))
const TIMEOUT_MS = 240_000
const MAC = "02:00:00:00:00:51"
const NAMESPACE = `tsvmm-qemu-${process.pid}`
const TAP = `tsvq${process.pid % 1_000_000}`
const BYTES = 16 * 2 ** 20

/** Answers HTTP with a pattern, and as many bytes on a plain connection with their digest. */
const SERVER = `
const { createHash } = require("node:crypto")
const pattern = Buffer.alloc(${BYTES}, "0123456789abcdef")
require("node:http").createServer((_, response) => response.end(pattern)).listen(8080, "10.0.0.2")
require("node:net").createServer(socket => {
  const hash = createHash("sha256")
  let left = ${BYTES}
  socket.on("error", () => undefined).on("data", chunk => {
    hash.update(chunk)
    left -= chunk.length
    if (left === 0) socket.end(hash.digest("hex"))
  })
}).listen(8081, "10.0.0.2", () => console.log("ready"))
`

const skipped =
  process.getuid?.() !== 0
    ? "making interfaces needs root"
    : existsSync("/dev/net/tun")
      ? undefined
      : "there is no /dev/net/tun"

/** Ethernet's header and an MTU of 1500: whatever is longer, the kernel has to cut up. */
const LONGEST_FRAME = 14 + 1500

/** How many frames there are of which size, acknowledgements for one, is a matter of how fast host and guest are. */
class CountingTap extends TapPort {
  cutUp = 0

  override sendPacket(...sent: Parameters<NonNullable<NetPort["packets"]>["sendPacket"]>): boolean {
    this.#count(sent[2].readableLength - NET_HEADER_SIZE)
    return super.sendPacket(...sent)
  }

  override send(...sent: Parameters<TapPort["send"]>): boolean {
    this.#count(sent[0].length)
    return super.send(...sent)
  }

  #count(length: number): void {
    if (length > LONGEST_FRAME) this.cutUp++
  }
}

const ip = (...args: string[]) => execFileSync("ip", args, { stdio: "pipe" })

describe.skipIf(skipped !== undefined)(
  `our network card under QEMU 7.2 with Debian's stock kernel${skipped ? ` (skipped: ${skipped})` : ""}`,
  () => {
    const folder = mkdtempSync(`${tmpdir()}/ts-vmm-qemu-`)
    const said = new Map<string, string>()
    const fromHost = createHash("sha256").update(Buffer.alloc(BYTES, "0123456789abcdef")).digest("hex")
    let peer: ChildProcess | undefined
    let device: NetDevice
    let port: CountingTap

    beforeAll(async () => {
      ip("netns", "add", NAMESPACE)
      const tap = openTap({ name: TAP, create: true })
      ip("link", "set", TAP, "netns", NAMESPACE)
      ip("-n", NAMESPACE, "addr", "add", "10.0.0.2/24", "dev", TAP)
      ip("-n", NAMESPACE, "link", "set", TAP, "up")
      peer = spawn("ip", ["netns", "exec", NAMESPACE, process.execPath, "-e", SERVER], { stdio: "pipe" })
      await new Promise(resolve => peer?.stdout?.once("data", resolve))
      port = new CountingTap(tap)
      device = new NetDevice(port, { mac: MAC })
      const faults: Error[] = []
      const socketPath = `${folder}/net.sock`
      const server = await serveVhostUser(device, { socketPath })
      server.on("deviceFailed", error => faults.push(error))
      server.on("disconnected", error => error && faults.push(error))
      const kernel = stockKernel()
      const script = readFileSync(SCRIPT, "utf8")
      const initramfs = makeInitramfs({ folder, kernel, modules: ["virtio_pci", "virtio_net"], script })
      const slots = [{ socketPath, device: `virtio-net-pci,mac=${MAC},vectors=0,romfile=`, queuePairs: 1 }]
      const machine = startQemu({ kernel, initramfs, slots, timeoutMs: TIMEOUT_MS })
      try {
        const text = await machine.ended
        if (process.env["TS_VMM_SHOW_CONSOLE"]) console.log(text)
        for (const line of text.split(/\r?\n/)) {
          const match = /^([a-z -]+): (.*)$/.exec(line)
          if (match) said.set(match[1] as string, match[2] as string)
        }
        expect(faults).toEqual([])
      } finally {
        machine.child.kill("SIGKILL")
        await server.close()
        port.close()
      }
    }, TIMEOUT_MS + 30_000)
    afterAll(() => {
      peer?.kill("SIGKILL")
      ip("netns", "del", NAMESPACE)
      rmSync(folder, { recursive: true, force: true })
    })

    test("net: the guest sees its address and its queue", () => {
      expect(said.get("net mac")).toBe(MAC)
      expect(said.get("net queues")).toBe("1")
    })

    test("net: bytes are equal both ways, also after the interface was down", () => {
      expect(said.get("net from host")).toBe(fromHost)
      expect(said.get("net to host")).toHaveLength(64)
      expect(said.get("net to host reply")).toBe(said.get("net to host"))
      expect(said.get("net again")).toBe(fromHost)
    })

    test("net: every frame of the driver was sound, and many were for the kernel to cut up", () => {
      expect(device.counters.dropped).toBe(0)
      // As long as frames can be, there would be 256 of them.
      expect(port.cutUp).toBeGreaterThan(200)
    })
  },
)
