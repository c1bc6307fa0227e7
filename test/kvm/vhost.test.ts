// Devices whose rings the host's kernel serves, in the machine itself.
import { execFile, execFileSync, spawn } from "node:child_process"
import { createHash, randomBytes } from "node:crypto"
import { closeSync, existsSync } from "node:fs"
import { createServer } from "node:http"
import { createServer as createTcpServer } from "node:net"
import { fileURLToPath } from "node:url"
import { promisify } from "node:util"
import { openTap } from "@ts-vmm/virtio-devices/net/tap"
import { VhostNetDevice, VhostVsockDevice } from "@ts-vmm/virtio-devices/vhost"
import { afterEach, beforeEach, describe, expect, test } from "vitest"
import { staticProgram } from "../fixtures/static-program.js"
import { driver, type GuestShell, startShell } from "./guest-shell.js"

const MIB = 2 ** 20
const BIG = 16 * MIB
const TAP = "vhost0"
const HOST = "10.11.0.1"
const GUEST = "10.11.0.2"
const CID = 42
const PORT = 1024
const closers: (() => unknown)[] = []

afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close()
})

/** What a program of the host wrote. */
const say = async (program: string, ...args: string[]) => (await promisify(execFile)(program, args)).stdout
const ip = (line: string) => execFileSync("ip", line.split(" "), { stdio: "pipe" })
const sha256 = (bytes: Uint8Array) => createHash("sha256").update(bytes).digest("hex")
const missing = (...paths: string[]) => paths.find(path => !existsSync(path))

async function boot(...options: Parameters<typeof startShell>): Promise<GuestShell> {
  const shell = await startShell(...options)
  closers.push(() => shell.dispose())
  return shell
}

const noNet = missing("/dev/vhost-net", "/dev/net/tun", "/sbin/ip", "/bin/busybox")

describe.skipIf(noNet)(
  `a network card of the kernel${noNet ? ` (skipped: there is no ${noNet})` : ""}`,
  () => {
    beforeEach(() => {
      ip(`tuntap add ${TAP} mode tap`)
      closers.push(() => ip(`link del ${TAP}`))
      ip(`addr add ${HOST}/24 dev ${TAP}`)
      ip(`link set ${TAP} up`)
    })

    const up = `ip addr add ${GUEST}/24 dev eth0; ip link set eth0 up`
    const ping = () => say("busybox", "ping", "-c", "3", "-W", "20", GUEST)

    test("answers, carries much either way, and is the same after its driver came again", async () => {
      const card = VhostNetDevice.open(openTap({ name: TAP }), { mac: "02:00:00:00:00:42", mtu: 1400 })
      const { machine, run } = await boot({ devices: [card], memoryMiB: 192 })
      expect(await run(`${up}; cat /sys/class/net/eth0/address /sys/class/net/eth0/mtu`)).toBe(
        "02:00:00:00:00:42\n1400",
      )
      expect(await ping()).toContain(" 0% packet loss")
      const { down, upload } = await serveBig()
      const startedAt = performance.now()
      expect(await run(`wget -q -O - http://${HOST}:${down.port}/ | sha256sum | cut -c1-64`)).toBe(
        down.digest,
      )
      console.info(`16 MiB to the guest: ${Math.round(performance.now() - startedAt)} ms`)
      const made = await run(`head -c ${BIG} /dev/urandom > /big; sha256sum < /big | cut -c1-64`)
      await run(`nc ${HOST} ${upload.port} < /big`)
      expect(await upload.digest).toBe(made)
      const name = "$(basename $(readlink -f /sys/class/net/eth0/device/..))"
      const drivers = "/sys/bus/platform/drivers/virtio-mmio"
      expect(
        await run(
          `n=${name}; echo -n $n > ${drivers}/unbind; ls /sys/class/net; echo -n $n > ${drivers}/bind`,
        ),
      ).toBe("lo")
      await run(up)
      expect(await ping()).toContain(" 0% packet loss")
      expect(machine.state).toBe("running")
    })

    test("comes to a machine whose memory is this process's alone, and goes: the tap device is free again", async () => {
      const { machine, run } = await boot({ emptySlots: 1 })
      for (let round = 0; round < 2; round++) {
        const card = VhostNetDevice.open(openTap({ name: TAP }))
        const address = machine.plug(card)
        await run(`${driver("bind", address)}; ${up}`)
        expect(await ping()).toContain(" 0% packet loss")
        if (round === 0) expect(await run(`${driver("unbind", address)}; ls /sys/class/net`)).toBe("lo")
        // The second time its driver has it yet.
        await machine.unplug(card)
      }
      expect(await run("echo alive")).toBe("alive")
      openTap({ name: TAP }).fds.forEach(fd => {
        closers.push(() => closeSync(fd))
      })
    })
  },
)

/** What a guest gets much from, and what it can send much to. */
async function serveBig() {
  const big = randomBytes(BIG)
  const web = createServer((_request, response) => response.end(big))
  const hash = createHash("sha256")
  let arrived: (digest: string) => void
  const digest = new Promise<string>(resolve => {
    arrived = resolve
  })
  const sink = createTcpServer(socket => {
    let left = BIG
    socket.on("data", bytes => {
      hash.update(bytes)
      left -= bytes.length
      if (left === 0) socket.end()
    })
    socket.on("close", () => arrived(hash.digest("hex")))
  })
  const ports = []
  for (const server of [web, sink]) {
    closers.push(() => server.close())
    await new Promise<void>(resolve => server.listen(0, HOST, resolve))
    ports.push((server.address() as { port: number }).port)
  }
  const [webPort = 0, sinkPort = 0] = ports
  return {
    down: { port: webPort, digest: sha256(big) },
    upload: { port: sinkPort, digest },
  }
}

/** Sends 4 MiB to a guest's echo, and says whether the same came back. */
const CLIENT = `
import os, socket, sys, threading
sent = os.urandom(4 << 20)
one = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
one.connect((int(sys.argv[1]), int(sys.argv[2])))
def send():
    one.sendall(sent)
    one.shutdown(socket.SHUT_WR)
threading.Thread(target=send).start()
got = bytearray()
while part := one.recv(65536):
    got += part
print(len(got), got == sent)
`

/** Says where from one connection came, and sends back what it got. */
const LISTENER = `
import socket, sys
one = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
one.bind((socket.VMADDR_CID_ANY, int(sys.argv[1])))
one.listen()
print("listening", flush=True)
connection, (cid, port) = one.accept()
connection.sendall(b"%d said " % cid + connection.recv(100))
`

const noVsock = missing("/dev/vhost-vsock", "/usr/bin/python3")

describe.skipIf(noVsock)(
  `sockets of the kernel${noVsock ? ` (skipped: there is no ${noVsock})` : ""}`,
  () => {
    const program = fileURLToPath(new URL("../fixtures/vsock-echo", import.meta.url))

    test("the host reaches the guest, and the guest the host", async () => {
      const vsock = VhostVsockDevice.open({ guestCid: CID })
      expect(() => VhostVsockDevice.open({ guestCid: CID })).toThrow(
        expect.objectContaining({ code: "ioctl", errnoName: "EADDRINUSE" }),
      )
      const { run } = await boot({ devices: [vsock] }, { "vsock-echo": staticProgram(program) })
      await run(`vsock-echo ${PORT} > /echo & until grep -q listening /echo; do sleep 0.1; done`)
      for (let round = 0; round < 2; round++) {
        const said = await say("python3", "-c", CLIENT, `${CID}`, `${PORT}`)
        expect(said).toBe(`${4 * MIB} True\n`)
      }
      const listener = spawn("python3", ["-c", LISTENER, `${PORT}`], { stdio: ["ignore", "pipe", "inherit"] })
      closers.push(() => listener.kill())
      await new Promise(resolve => listener.stdout.once("data", resolve))
      expect(await run(`vsock-echo ${PORT} 2`)).toBe(`${CID} said hello`)
    })
  },
)
