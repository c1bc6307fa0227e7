import { expect, test } from "vitest"
import { connect } from "./connect.js"
import type { Connection } from "./connection.js"
import {
  VIRTIO_VSOCK_OP_CREDIT_UPDATE,
  VIRTIO_VSOCK_OP_REQUEST,
  VIRTIO_VSOCK_OP_RESPONSE,
  VIRTIO_VSOCK_OP_RST,
  VIRTIO_VSOCK_OP_RW,
  VIRTIO_VSOCK_OP_SHUTDOWN,
  VIRTIO_VSOCK_SHUTDOWN_MASK,
  VIRTIO_VSOCK_SHUTDOWN_SEND,
} from "./defs.js"
import { VsockListener } from "./listener.js"
import type { VsockStream } from "./streams.js"
import { joinGuest, type Wire } from "./testing/wire.js"

const REQUEST = { srcPort: 5000, dstPort: 1024, op: VIRTIO_VSOCK_OP_REQUEST }

function strayOps(wire: Wire): number[] {
  return wire.guest.stray.map(header => header.op)
}

test("V1: packets from a wrong CID are dropped without an answer", async () => {
  const wire = joinGuest()
  new VsockListener(wire.muxer, 1024, 128)

  for (const srcCid of [0, 1, 2, 4, 0xffff_ffff, 3 + 2 ** 32]) wire.guest.raw({ ...REQUEST, srcCid })
  await wire.settle()

  expect(wire.muxer.stats.dropped).toBe(6)
  expect(wire.muxer.size).toBe(0)
  expect(wire.guest.stray).toEqual([])
})

test("V1: packets to a CID other than the host's get an RST from there", async () => {
  const wire = joinGuest()
  new VsockListener(wire.muxer, 1024, 128)

  for (const dstCid of [0, 1, 3, 77, 2 ** 32 + 2]) wire.guest.raw({ ...REQUEST, dstCid })
  await wire.settle()

  expect(wire.guest.stray.map(header => [header.op, header.srcCid, header.srcPort, header.dstPort])).toEqual(
    [0, 1, 3, 77].map(cid => [VIRTIO_VSOCK_OP_RST, cid, 1024, 5000]),
  )
  expect(wire.muxer.size).toBe(0)
})

test("V1: an unknown type gets an RST of that type, an unknown op ends the connection", async () => {
  const wire = joinGuest()
  new VsockListener(wire.muxer, 1024, 128)

  wire.guest.raw({ ...REQUEST, type: 9 })
  wire.guest.raw({ ...REQUEST, op: 99 })
  await wire.settle()
  expect(wire.guest.stray.map(header => [header.op, header.type])).toEqual([
    [VIRTIO_VSOCK_OP_RST, 9],
    [VIRTIO_VSOCK_OP_RST, 1],
  ])

  const socket = await open(wire)
  wire.guest.sendFrom(socket, 99)
  await wire.settle()
  expect(socket.closed).toBe(true)
  expect(wire.muxer.size).toBe(0)
})

test("V1: flags on data, and payload on a control packet, end the connection", async () => {
  for (const [op, flags, payload] of [
    [VIRTIO_VSOCK_OP_RW, 1, new Uint8Array(3)],
    [VIRTIO_VSOCK_OP_CREDIT_UPDATE, 0, new Uint8Array(3)],
  ] as const) {
    const wire = joinGuest()
    new VsockListener(wire.muxer, 1024, 128)
    const socket = await open(wire)

    wire.guest.sendFrom(socket, op, flags, payload)
    await wire.settle()

    expect(socket.closed).toBe(true)
  }
})

test("V1: SHUTDOWN with no known flag does nothing", async () => {
  const wire = joinGuest()
  new VsockListener(wire.muxer, 1024, 128)
  const socket = await open(wire)

  wire.guest.sendFrom(socket, VIRTIO_VSOCK_OP_SHUTDOWN, 0)
  wire.guest.sendFrom(socket, VIRTIO_VSOCK_OP_SHUTDOWN, 0xffff_fffc)
  await wire.settle()

  expect(socket.closed).toBe(false)
})

test("V2: a length beyond the buffer or beyond 64 KiB ends the connection", async () => {
  for (const [len, size] of [
    [101, 100],
    [0xffff_ffff, 100],
    [65_537, 65_537],
  ] as const) {
    const wire = joinGuest()
    new VsockListener(wire.muxer, 1024, 128)
    const socket = await open(wire)

    wire.guest.raw(
      { srcPort: socket.port, dstPort: socket.hostPort, op: VIRTIO_VSOCK_OP_RW, len },
      new Uint8Array(size),
    )
    await wire.settle()

    expect(socket.closed).toBe(true)
    expect(wire.muxer.stats.malformed).toBe(1)
  }
})

test("V3: fwd_cnt ahead of what was sent ends the connection", async () => {
  const wire = joinGuest()
  new VsockListener(wire.muxer, 1024, 128)
  const socket = await open(wire)

  socket.fwdCnt = 1
  wire.guest.sendFrom(socket, VIRTIO_VSOCK_OP_CREDIT_UPDATE)
  await wire.settle()

  expect(socket.closed).toBe(true)
})

test("V5: requests beyond the connection limit are refused, and freed places are given again", async () => {
  const wire = joinGuest({ maxConnections: 8 })
  new VsockListener(wire.muxer, 1024, 128)

  const attempts = Array.from({ length: 20 }, () => wire.guest.connect(1024))
  const results = Promise.allSettled(attempts)
  await wire.settle()

  const settled = await results
  expect(settled.filter(result => result.status === "fulfilled")).toHaveLength(8)
  expect(wire.muxer.size).toBe(8)
  await attempts[0]!.then(socket => socket.close())
  await wire.settle()
  await open(wire)
  expect(wire.muxer.size).toBe(8)
})

test("V5: requests that nobody takes are refused beyond the backlog", async () => {
  const wire = joinGuest()
  new VsockListener(wire.muxer, 1024, 4)

  const results = Promise.allSettled(Array.from({ length: 10 }, () => wire.guest.connect(1024)))
  await wire.settle()

  expect((await results).filter(result => result.status === "fulfilled")).toHaveLength(4)
})

test("a connection that ends while nobody has taken it frees its place in the backlog", async () => {
  const wire = joinGuest()
  const listener = new VsockListener(wire.muxer, 1024, 1)
  const first = await open(wire)
  first.reset()
  await wire.settle()

  const second = await open(wire)

  const { value } = await listener[Symbol.asyncIterator]().next()
  expect(value.remotePort).toBe(second.port)
})

test("V5: a connection left behind by an orderly close gives its place to a new one", async () => {
  const wire = joinGuest({ maxConnections: 1 })
  const listener = new VsockListener(wire.muxer, 1024, 128)
  wire.guest.raw(REQUEST)
  await wire.settle()
  const stream = (await listener[Symbol.asyncIterator]().next()).value as VsockStream
  wire.guest.raw({ ...REQUEST, op: VIRTIO_VSOCK_OP_SHUTDOWN, flags: VIRTIO_VSOCK_SHUTDOWN_SEND })
  stream.resume().end()
  await wire.settle()
  expect(wire.muxer.size).toBe(1)

  await open(wire)

  expect(wire.muxer.size).toBe(1)
})

test("V5: connections that ended with unread bytes count, and the oldest makes room", async () => {
  const wire = joinGuest({ maxConnections: 4 })
  const streams: VsockStream[] = []
  const failures: string[] = []
  new VsockListener(wire.muxer, 1024, 128, stream => {
    streams.push(stream.on("error", error => failures.push(`${streams.indexOf(stream)} ${error.message}`)))
  })

  for (let i = 0; i < 6; i++) {
    const socket = await open(wire)
    socket.write(new Uint8Array(1000))
    socket.close()
    await wire.settle()
  }

  expect([wire.muxer.size, wire.muxer.unreadSize]).toEqual([0, 4])
  expect(failures.map(text => text[0])).toEqual(["0", "1"])
  for (const stream of streams) stream.resume()
  await wire.settle()
  expect(wire.muxer.unreadSize).toBe(0)
})

test("V6: an RST for an unknown connection is not answered, anything else is, once", async () => {
  const wire = joinGuest()
  const ops = [
    VIRTIO_VSOCK_OP_RESPONSE,
    VIRTIO_VSOCK_OP_SHUTDOWN,
    VIRTIO_VSOCK_OP_RW,
    VIRTIO_VSOCK_OP_CREDIT_UPDATE,
  ]

  wire.guest.raw({ ...REQUEST, op: VIRTIO_VSOCK_OP_RST })
  for (const op of ops) wire.guest.raw({ ...REQUEST, op })
  await wire.settle()

  expect(strayOps(wire)).toEqual(ops.map(() => VIRTIO_VSOCK_OP_RST))
})

test("V6: a second REQUEST on a connection ends it", async () => {
  const wire = joinGuest()
  new VsockListener(wire.muxer, 1024, 128)
  const socket = await open(wire)

  wire.guest.sendFrom(socket, VIRTIO_VSOCK_OP_REQUEST)
  await wire.settle()

  expect(socket.closed).toBe(true)
  expect(wire.muxer.size).toBe(0)
})

test("V6: a REQUEST on the ports of a closing connection is a new connection", async () => {
  const wire = joinGuest()
  const listener = new VsockListener(wire.muxer, 1024, 128)
  wire.guest.raw(REQUEST)
  await wire.settle()
  const iterator = listener[Symbol.asyncIterator]()
  const stream = (await iterator.next()).value as VsockStream
  wire.guest.raw({ ...REQUEST, op: VIRTIO_VSOCK_OP_SHUTDOWN, flags: VIRTIO_VSOCK_SHUTDOWN_SEND })
  stream.resume().end()
  await wire.settle()

  wire.guest.raw(REQUEST)
  await wire.settle()

  expect(strayOps(wire).at(-1)).toBe(VIRTIO_VSOCK_OP_RESPONSE)
  expect((await iterator.next()).value.remotePort).toBe(5000)
})

test("V6: data after SHUTDOWN ends the connection", async () => {
  const wire = joinGuest()
  new VsockListener(wire.muxer, 1024, 128)
  const socket = await open(wire)

  wire.guest.sendFrom(socket, VIRTIO_VSOCK_OP_SHUTDOWN, VIRTIO_VSOCK_SHUTDOWN_SEND)
  wire.guest.sendFrom(socket, VIRTIO_VSOCK_OP_RW, 0, Uint8Array.of(1))
  await wire.settle()

  expect(socket.closed).toBe(true)
})

test("V6: both ends close at the same time", async () => {
  const wire = joinGuest()
  const listener = new VsockListener(wire.muxer, 1024, 128)
  const socket = await open(wire)
  const stream = (await listener[Symbol.asyncIterator]().next()).value as VsockStream
  stream.resume()
  socket.shutdown()
  await wire.settle()
  stream.end()
  await new Promise(resolve => stream.once("close", resolve))

  wire.guest.sendFrom(socket, VIRTIO_VSOCK_OP_SHUTDOWN, VIRTIO_VSOCK_SHUTDOWN_MASK)
  await wire.settle()

  expect(wire.muxer.size).toBe(0)
  expect(socket.closed).toBe(true)
})

test("V6: RSTs that the guest leaves no room for stop reception, not the process", async () => {
  const wire = joinGuest()
  wire.stalled = true

  while (!wire.muxer.congested) wire.guest.raw({ ...REQUEST, op: VIRTIO_VSOCK_OP_RW })
  expect(wire.muxer.stats.packetsFromGuest).toBe(256)
  wire.stalled = false
  await wire.settle()

  expect(wire.muxer.congested).toBe(false)
  expect(wire.muxer.stats.resetsSent).toBe(256)
})

test("connections take turns: a bulk sender does not starve a small one", async () => {
  const wire = joinGuest()
  wire.guest.listen(80)
  const connecting = [connect(wire.muxer, 80, {}), connect(wire.muxer, 80, {})]
  await wire.settle()
  const [bulk, small] = await Promise.all(connecting)
  const order: number[] = []
  const note = (stream: VsockStream) => () => order.push(stream.localPort)

  bulk!.write(Buffer.alloc(250_000), note(bulk!))
  small!.write("x", note(small!))
  await wire.settle()

  expect(order).toEqual([small!.localPort, bulk!.localPort])
})

test("1,000 connections at once, each with its own bytes", async () => {
  const wire = joinGuest()
  new VsockListener(wire.muxer, 1024, 128, stream => stream.pipe(stream))
  const got = new Map<number, string>()
  const open = Array.from({ length: 1000 }, () =>
    wire.guest.connect(1024, {
      onData: (bytes, socket) => got.set(socket.port, (got.get(socket.port) ?? "") + Buffer.from(bytes)),
    }),
  )
  await wire.settle()
  const sockets = await Promise.all(open)

  for (const socket of sockets) socket.write(Buffer.from(`I am ${socket.port}`))
  await wire.settle()
  expect([...got].every(([port, text]) => text === `I am ${port}`)).toBe(true)
  expect(got.size).toBe(1000)

  for (const socket of sockets) socket.close()
  await wire.settle()
  expect(wire.muxer.size).toBe(0)
})

test("a fallback acceptor may answer later, or refuse", async () => {
  const wire = joinGuest()
  const asked: Connection[] = []
  wire.muxer.fallback = { incoming: connection => void asked.push(connection) }
  const opened = wire.guest.connect(7)
  const refused = wire.guest.connect(8)
  refused.catch(() => undefined)
  await wire.settle()

  asked[0]!.accept()
  asked[1]!.reset()
  await wire.settle()

  expect((await opened).hostPort).toBe(7)
  await expect(refused).rejects.toThrow()
})

test("a port has one listener, until that is closed", () => {
  const { muxer } = joinGuest()
  const listener = new VsockListener(muxer, 1024, 128)

  expect(() => new VsockListener(muxer, 1024, 128)).toThrow(
    expect.objectContaining({ code: "address-in-use" }),
  )
  listener.close()
  new VsockListener(muxer, 1024, 128).close()
})

async function open(wire: Wire) {
  const socket = wire.guest.connect(1024)
  await wire.settle()
  return await socket
}
