import { Readable } from "node:stream"
import { pipeline } from "node:stream/promises"
import { expect, test } from "vitest"
import {
  VIRTIO_VSOCK_EVENT_TRANSPORT_RESET,
  VIRTIO_VSOCK_OP_RW,
  VMADDR_PORT_ANY,
  VSOCK_TX_QUEUE,
} from "./defs.js"
import { VsockDevice } from "./device.js"
import type { VsockStream } from "./streams.js"
import { RingGuest } from "./testing/ring-guest.js"

/** For streams that a test leaves open when its device goes away. */
const ignore = () => undefined
const text = (value: string) => new TextEncoder().encode(value)

test("the guest's CID is in config space, and nothing else is", () => {
  const device = new VsockDevice({ guestCid: 0x01020304 })
  const whole = new Uint8Array(12).fill(0xee)
  const part = new Uint8Array(2)

  device.readConfig(0, whole)
  device.readConfig(2, part)

  expect([...whole]).toEqual([4, 3, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0])
  expect([...part]).toEqual([2, 1])
})

test("arguments out of range are refused", async () => {
  for (const guestCid of [0, 2, 2.5, -3, 2 ** 32 - 1, Number.NaN]) {
    expect(() => new VsockDevice({ guestCid })).toThrow(expect.objectContaining({ code: "invalid-argument" }))
  }
  const device = new VsockDevice({ guestCid: 3 })
  await expect(device.connect(-1)).rejects.toMatchObject({ code: "invalid-argument" })
  expect(() => device.listen(2 ** 32)).toThrow(expect.objectContaining({ code: "invalid-argument" }))
})

test("an echo through real rings, opened from both sides", async () => {
  const device = new VsockDevice({ guestCid: 3 })
  using ring = new RingGuest(device)
  let got = ""
  device.listen(1024, stream => void pipeline(stream, stream).catch(ignore))
  ring.guest.listen(80, { onData: (bytes, socket) => socket.write(bytes.slice()) })

  const socket = await ring.guest.connect(1024, { onData: bytes => (got += Buffer.from(bytes)) })
  socket.write(text("from the guest"))
  const stream = await device.connect(80)
  stream.on("error", ignore)
  stream.write("from the host")
  await ring.settle()

  expect(got).toBe("from the guest")
  expect(String(stream.read())).toBe("from the host")
})

test("a connection asked for before the driver is up waits for it", async () => {
  const device = new VsockDevice({ guestCid: 3 })
  const connecting = device.connect(80)

  using ring = new RingGuest(device)
  ring.guest.listen(80)

  expect((await connecting).on("error", ignore).remotePort).toBe(80)
})

const MIB = 1 << 20

test.each([
  { rxBufferSize: 45, size: 20_000 },
  { rxBufferSize: 3776, size: 1024 * MIB },
  { rxBufferSize: 65_580, size: 64 * MIB },
])(
  "V7: $size bytes each way at once, receive buffers of $rxBufferSize",
  { timeout: 120_000 },
  async options => {
    const { rxBufferSize, size } = options
    const device = new VsockDevice({ guestCid: 3 })
    using ring = new RingGuest(device, { rxBufferSize })
    const parts = Array.from({ length: Math.ceil(size / MIB) }, () => Buffer.alloc(Math.min(size, MIB)))
    const received = { host: 0, guest: 0 }
    const bothEnded = new Promise<void>(resolve => {
      device.listen(1024, stream => {
        stream.on("data", chunk => (received.host += chunk.length)).on("close", resolve)
        Readable.from(parts).pipe(stream)
      })
    })

    const socket = await ring.guest.connect(1024, { onData: bytes => (received.guest += bytes.length) })
    for (const part of parts) socket.write(part)
    socket.shutdown()
    await bothEnded
    await ring.settle()

    expect(received).toEqual({ host: size, guest: size })
    expect(device.connectionCount).toBe(0)
  },
)

test("every buffer with credit alone is given back", async () => {
  const device = new VsockDevice({ guestCid: 3 })
  using ring = new RingGuest(device)
  ring.guest.listen(80)
  const stream = await device.connect(80)
  stream.on("error", ignore)

  stream.write(Buffer.alloc(2 * MIB))
  await ring.settle()
  const { availIndex, usedIndex } = ring.runtime.queueState(VSOCK_TX_QUEUE)!

  expect(device.stats.bytesToGuest).toBe(2 * MIB)
  expect(availIndex).toBeGreaterThan(2)
  expect(usedIndex).toBe(availIndex)
})

test("a large write costs few interrupts", async () => {
  const device = new VsockDevice({ guestCid: 3 })
  using ring = new RingGuest(device)
  ring.guest.listen(80)
  const stream = await device.connect(80)
  stream.on("error", ignore)
  await ring.settle()
  const before = ring.interrupts

  stream.write(Buffer.alloc(200_000))
  await ring.settle()

  expect(device.stats.packetsToGuest).toBeGreaterThan(50)
  expect(ring.interrupts - before).toBeLessThan(4)
})

test("V9: a reset of the device ends its streams, a new driver starts afresh, and learns of it", async () => {
  const device = new VsockDevice({ guestCid: 3 })
  device.listen(1024, stream => stream.on("error", ignore).pipe(stream))
  const ring = new RingGuest(device)
  ring.guest.listen(80)
  const stream = await device.connect(80)
  const failure = new Promise(resolve => stream.on("error", resolve))
  const connecting = device.connect(81)

  ring[Symbol.dispose]()

  expect(await failure).toMatchObject({ code: "device-reset" })
  await expect(connecting).rejects.toMatchObject({ code: "device-reset" })
  expect(device.connectionCount).toBe(0)
  using again = new RingGuest(device)
  await again.settle()
  expect(again.takeEvents()).toEqual([VIRTIO_VSOCK_EVENT_TRANSPORT_RESET])
  let got = ""
  const socket = await again.guest.connect(1024, { onData: bytes => (got += Buffer.from(bytes)) })
  socket.write(text("new life"))
  await again.settle()
  expect(got).toBe("new life")
})

test("V9: resetTransport drops connections of a guest that goes on, and gives it a new CID", async () => {
  const device = new VsockDevice({ guestCid: 3 })
  using ring = new RingGuest(device)
  ring.guest.listen(80)
  const stream = await device.connect(80)
  const failure = new Promise(resolve => stream.on("error", resolve))

  device.resetTransport(9)
  await ring.settle()

  expect(await failure).toMatchObject({ code: "device-reset" })
  expect(ring.takeEvents()).toEqual([VIRTIO_VSOCK_EVENT_TRANSPORT_RESET])
  const config = new Uint8Array(8)
  device.readConfig(0, config)
  expect(config[0]).toBe(9)
})

test("V6: more unanswerable packets than RSTs may wait: reception stops and goes on, none is lost", async () => {
  const device = new VsockDevice({ guestCid: 3 })
  using ring = new RingGuest(device)
  for (let i = 0; i < 2000; i++) {
    ring.guest.raw({ srcPort: i, dstPort: 7, op: VIRTIO_VSOCK_OP_RW }, new Uint8Array(1))
  }

  await ring.settle()

  expect(new Set(ring.guest.stray.map(header => header.dstPort)).size).toBe(2000)
})

test("V2: a packet cut short is dropped and counted", async () => {
  const device = new VsockDevice({ guestCid: 3 })
  using ring = new RingGuest(device)

  for (const length of [1, 43]) ring.transmitRaw(new Uint8Array(length))
  await ring.settle()

  expect(device.stats.malformed).toBe(2)
  expect(ring.runtime.broken).toBeUndefined()
})

test("a receive buffer with no room for a packet breaks the device, and a reset mends it", async () => {
  const device = new VsockDevice({ guestCid: 3 })
  const ring = new RingGuest(device, { rxBufferSize: 44 })
  const connecting = device.connect(80)
  await ring.settle()
  expect(ring.runtime.broken).toMatchObject({ code: "protocol-violation" })

  ring[Symbol.dispose]()

  await expect(connecting).rejects.toMatchObject({ code: "device-reset" })
  using again = new RingGuest(device)
  again.guest.listen(80)
  expect((await device.connect(80)).on("error", ignore).remotePort).toBe(80)
})

test("V2: a header cut into several descriptors is read whole", async () => {
  const device = new VsockDevice({ guestCid: 3 })
  let got = ""
  device.listen(1024, stream => stream.on("error", ignore).on("data", chunk => (got += chunk)))
  using ring = new RingGuest(device)
  ring.headerPieces = 5

  const socket = await ring.guest.connect(1024)
  socket.write(text("in pieces"))
  await ring.settle()

  expect(got).toBe("in pieces")
})

test("VMADDR_PORT_ANY listens on a free port", () => {
  const device = new VsockDevice({ guestCid: 3 })

  const ports = [device.listen(VMADDR_PORT_ANY), device.listen(VMADDR_PORT_ANY)].map(({ port }) => port)

  expect(new Set(ports).size).toBe(2)
})

test("close() ends listeners, streams and waiting calls, and the guest's sockets", async () => {
  const device = new VsockDevice({ guestCid: 3 })
  using ring = new RingGuest(device)
  const taken = device.listen(1024)
  const socket = await ring.guest.connect(1024)
  const stream = (await taken[Symbol.asyncIterator]().next()).value as VsockStream
  const next = taken[Symbol.asyncIterator]().next()
  ring.guest.listen(80)
  const connecting = device.connect(80)

  device.close()

  await expect(connecting).rejects.toMatchObject({ code: "closed" })
  expect(await next).toMatchObject({ done: true })
  await ring.settle()
  expect([stream.destroyed, stream.errored, socket.closed]).toEqual([true, null, true])
  device.listen(1024)
})
