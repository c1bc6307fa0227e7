import { chmod, mkdtemp, rm, stat } from "node:fs/promises"
import { createServer, connect as netConnect, type Server, type Socket } from "node:net"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterEach, beforeEach, expect, test } from "vitest"
import { VsockDevice } from "./device.js"
import { RingGuest } from "./testing/ring-guest.js"
import { UnixBridge, type UnixBridgeOptions } from "./unix-bridge.js"

let folder: string
let device: VsockDevice
let ring: RingGuest
let bridge: UnixBridge
let servers: Server[]

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "vsock-bridge-"))
  device = new VsockDevice({ guestCid: 3 })
  ring = new RingGuest(device)
  servers = []
  bridge = await serve()
})

afterEach(async () => {
  await bridge.close()
  ring[Symbol.dispose]()
  for (const server of servers) server.close()
  await rm(folder, { recursive: true })
})

function serve(options: Partial<UnixBridgeOptions> = {}): Promise<UnixBridge> {
  return UnixBridge.serve(device, { path: join(folder, "v.sock"), ...options })
}

/** A host program: collects what it reads. */
function program(): { socket: Socket; text: () => string; closed: Promise<void> } {
  const socket = netConnect(bridge.path)
  let text = ""
  socket.on("data", chunk => (text += chunk)).on("error", () => undefined)
  const closed = new Promise<void>(resolve => socket.once("close", () => resolve()))
  return { socket, text: () => text, closed }
}

/** A host service on `<path>_port`. */
async function service(port: number, onConnection: (socket: Socket) => void): Promise<void> {
  const server = createServer({ allowHalfOpen: true }, socket =>
    onConnection(socket.on("error", () => undefined)),
  )
  servers.push(server)
  await new Promise<void>(resolve => server.listen(`${bridge.path}_${port}`, resolve))
}

async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise(resolve => setTimeout(resolve, 1))
}

test("a host program reaches a guest port with CONNECT, and bytes behind the line are not lost", async () => {
  ring.guest.listen(80, { onData: (bytes, socket) => socket.write(bytes.slice()) })
  const { socket, text } = program()

  socket.write("CONNECT 80\nhello")
  await until(() => text().endsWith("hello"))

  expect(text()).toMatch(/^OK \d+\nhello$/)
})

test("half-closes pass through the bridge in both directions", async () => {
  let got = ""
  ring.guest.listen(80, {
    onData: bytes => (got += Buffer.from(bytes)),
    onEnd(guest) {
      guest.write(new TextEncoder().encode(`got ${got.length}`))
      guest.close()
    },
  })
  const { socket, text, closed } = program()

  socket.write("CONNECT 80\n")
  socket.end("x".repeat(500_000))
  await closed

  expect(text()).toMatch(/^OK \d+\ngot 500000$/)
  await until(() => device.connectionCount === 0)
})

test("a guest reaches a host program that listens on PATH_port", async () => {
  let got = ""
  await service(1234, socket => socket.pipe(socket))

  const guest = await ring.guest.connect(1234, { onData: bytes => (got += Buffer.from(bytes)) })
  guest.write(new TextEncoder().encode("over the bridge"))
  await until(() => got === "over the bridge")

  guest.close()
  await until(() => device.connectionCount === 0)
})

test("V8: a guest's request to a missing host socket gets an RST", async () => {
  await expect(ring.guest.connect(999)).rejects.toThrow()
  expect(device.connectionCount).toBe(0)
})

test("V8: a listener of the device comes before a socket file", async () => {
  device.listen(1234, stream => stream.on("error", () => undefined).end("from the listener"))
  await service(1234, socket => socket.end("from the socket"))
  let got = ""

  await ring.guest.connect(1234, { onData: bytes => (got += Buffer.from(bytes)) })
  await until(() => got !== "")

  expect(got).toBe("from the listener")
})

test("V8: CONNECT lines that are wrong, too long, cut off or refused end in a closed socket", async () => {
  for (const line of [
    "CONNECT\n",
    "CONNECT x\n",
    "CONNECT -1\n",
    "CONNECT 4294967296\n",
    "GET / HTTP/1.1\r\n",
    `CONNECT ${"1".repeat(100)}`,
    "CONNECT 81\n",
  ]) {
    const { socket, text, closed } = program()
    socket.write(line)
    await closed
    expect(text()).toBe("")
  }
  const { socket, closed } = program()
  socket.end("CONNEC")
  await closed
  expect(device.connectionCount).toBe(0)
})

test("V8: a host program that never says CONNECT is dropped in time, and more than allowed at once", async () => {
  await bridge.close()
  bridge = await serve({ handshakeTimeoutMs: 20, maxPending: 2 })
  const silent = [program(), program(), program()]

  await Promise.all(silent.map(({ closed }) => closed))
})

test("V5: guest requests that wait for a host socket are capped, further ones refused", async () => {
  await bridge.close()
  bridge = await serve({ maxPending: 2 })
  await service(1234, socket => socket.resume())

  const results = await Promise.allSettled(Array.from({ length: 5 }, () => ring.guest.connect(1234)))

  expect(results.map(({ status }) => status)).toEqual([
    "fulfilled",
    "fulfilled",
    "rejected",
    "rejected",
    "rejected",
  ])
  await ring.guest.connect(1234)
})

test("V8: a host program that vanishes shows as end of stream, and as an RST to a guest that goes on writing", async () => {
  let ended = false
  let guestClosed = false
  ring.guest.listen(80, {
    onEnd(guest) {
      ended = true
      guest.write(new Uint8Array(100_000))
    },
    onClose: () => (guestClosed = true),
  })
  const { socket, text } = program()
  socket.write("CONNECT 80\n")
  await until(() => text() !== "")

  socket.destroy()

  await until(() => ended && guestClosed)
  await until(() => device.connectionCount === 0)
})

test("V8: EPIPE towards the host program ends the guest's connection", async () => {
  let guestClosed = false
  ring.guest.listen(80, { onClose: () => (guestClosed = true) })
  await service(1234, socket => socket.destroy())

  const guest = await ring.guest.connect(1234, { onClose: () => (guestClosed = true) })
  guest.write(new Uint8Array(100_000))

  await until(() => guestClosed)
  await until(() => device.connectionCount === 0)
})

test("A9: the socket is for its owner only, in a folder for its owner only", async () => {
  expect((await stat(bridge.path)).mode & 0o777).toBe(0o600)
  await bridge.close()
  await chmod(folder, 0o755)

  await expect(serve()).rejects.toMatchObject({ code: "bridge-path" })

  await chmod(folder, 0o700)
  bridge = await serve()
})

test("a path that is taken or too long is refused", async () => {
  await expect(serve()).rejects.toMatchObject({ code: "bridge-path" })
  await expect(serve({ path: join(folder, "x".repeat(100)) })).rejects.toMatchObject({ code: "bridge-path" })
})
