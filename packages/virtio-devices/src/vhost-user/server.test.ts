import { existsSync, mkdtempSync, rmSync, statSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { setTimeout } from "node:timers/promises"
import { closeFd, eventFd, Mapping, signal, socketPair, unixConnect } from "@ts-vmm/native"
import { afterEach, describe, expect, test } from "vitest"
import { VIRTIO_F_VERSION_1 } from "../features.js"
import { RngDevice } from "../rng/device.js"
import { VhostUserFrontend } from "./frontend.js"
import { settledFds } from "./raw-peer.js"
import { type ServeOptions, serveVhostUser, type VhostUserServer } from "./server.js"

const closers: (() => void)[] = []
afterEach(() => {
  for (const close of closers.splice(0).reverse()) close()
})

function serve(options: Partial<ServeOptions> = {}): { server: VhostUserServer; socketPath: string } {
  const folder = mkdtempSync(join(tmpdir(), "server-"))
  closers.push(() => rmSync(folder, { recursive: true }))
  const socketPath = join(folder, "device.sock")
  const server = serveVhostUser(new RngDevice({ fill: into => into.fill(7) }), { socketPath, ...options })
  closers.push(() => server.close())
  return { server, socketPath }
}

async function connect(socketPath: string): Promise<VhostUserFrontend> {
  const frontend = await VhostUserFrontend.connect({ socketPath }, { timeoutMs: 20_000 })
  closers.push(() => frontend.close())
  return frontend
}

/** Sends one request for 64 bytes and waits for it in guest memory. */
async function useDevice(frontend: VhostUserFrontend): Promise<number> {
  using ram = Mapping.create({ name: "ram", size: 1 << 16 })
  const kick = eventFd()
  const view = new DataView(ram.buffer)
  await frontend.setFeatures(VIRTIO_F_VERSION_1)
  await frontend.setMemoryTable([{ guestAddress: 0, size: ram.size, userAddress: 0n, fd: ram.fd }])
  await frontend.startRing(0, { size: 16, desc: 0n, avail: 0x1000n, used: 0x2000n, kickFd: kick })
  view.setBigUint64(0, 0x4000n, true)
  view.setUint32(8, 64, true)
  view.setUint16(12, 2, true)
  view.setUint16(0x1002, 1, true)
  signal(kick)
  for (let i = 0; i < 500 && view.getUint16(0x2002, true) === 0; i++) await setTimeout(2)
  closeFd(kick)
  return view.getUint8(0x4000 + 63)
}

describe("vhost-user server", () => {
  test("the socket is private, and removed by close", () => {
    const { server, socketPath } = serve()
    expect(statSync(socketPath).mode & 0o777).toBe(0o600)
    server.close()
    server.close()
    expect(existsSync(socketPath)).toBe(false)
  })

  test("front ends are served one after the other, the device reset between", async () => {
    const { server, socketPath } = serve()
    const events: string[] = []
    server.on("connected", () => events.push("connected"))
    server.on("disconnected", error => events.push(error ? error.code : "left"))
    for (let round = 1; round <= 3; round++) {
      const frontend = await connect(socketPath)
      expect(await useDevice(frontend)).toBe(7)
      frontend.close()
      while (server.connected) await setTimeout(1)
      expect(server.counters.activations).toBe(round)
      expect(server.counters.resets).toBe(round)
    }
    expect(events).toEqual(["connected", "left", "connected", "left", "connected", "left"])
  })

  test("a second front end waits until the first leaves", async () => {
    const { server, socketPath } = serve()
    const first = await connect(socketPath)
    const second = connect(socketPath)
    await settledFds()
    expect(server.counters.connections).toBe(1)
    first.close()
    expect(await useDevice(await second)).toBe(7)
  })

  test("H6: a peer that says nothing, or half a word, keeps nobody else waiting", async () => {
    const { server, socketPath } = serve({ messageTimeoutMs: 50 })
    const other = serve()
    const silent = unixConnect(socketPath)
    // Eight bytes of a header.
    signal(silent)
    const healthy = await connect(other.socketPath)
    expect(await useDevice(healthy)).toBe(7)
    while (server.counters.protocolErrors === 0) await setTimeout(2)
    closeFd(silent)
    expect(server.closed).toBe(false)
  })

  test("over an fd it serves one front end and closes with it", async () => {
    const [ours, theirs] = socketPair()
    const server = serveVhostUser(new RngDevice({ fill: into => into.fill(7) }), { fd: theirs })
    closers.push(() => server.close())
    const frontend = await VhostUserFrontend.connect({ fd: ours })
    expect(await useDevice(frontend)).toBe(7)
    frontend.close()
    while (!server.closed) await setTimeout(1)
    expect(server.connected).toBe(false)
  })

  test("a server that was used leaves no fd behind", async () => {
    const before = await settledFds()
    const { server, socketPath } = serve()
    await useDevice(await connect(socketPath))
    server.close()
    for (const close of closers.splice(0).reverse()) close()
    expect(await settledFds()).toBe(before)
  })

  test("bad use is told at once", () => {
    const device = new RngDevice()
    const codeOf = (options: ServeOptions) => {
      try {
        closers.push(() => serveVhostUser(device, options).close())
        closers.pop()!()
      } catch (error) {
        return (error as { code?: string }).code ?? (error as Error).name
      }
      return undefined
    }
    expect(codeOf({})).toBe("TypeError")
    expect(codeOf({ socketPath: "/x", fd: 3 })).toBe("TypeError")
    expect(codeOf({ socketPath: `/tmp/${"x".repeat(120)}` })).toBe("socket-path")
    expect(codeOf({ socketPath: "/nonexistent/folder/x.sock" })).toBe("ENOENT")
    const { socketPath } = serve()
    expect(codeOf({ socketPath })).toBe("EADDRINUSE")
  })
})
