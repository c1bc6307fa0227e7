import { finished, pipeline } from "node:stream/promises"
import { expect, test } from "vitest"
import { connect } from "./connect.js"
import { VIRTIO_VSOCK_OP_RST, VIRTIO_VSOCK_OP_RW, VIRTIO_VSOCK_SHUTDOWN_RCV } from "./defs.js"
import { VsockListener } from "./listener.js"
import type { VsockStream } from "./streams.js"
import { accepted } from "./testing/accepted.js"
import type { GuestSocket } from "./testing/guest.js"
import { joinGuest, type Wire } from "./testing/wire.js"

const text = (value: string) => new TextEncoder().encode(value)

async function read(stream: VsockStream): Promise<string> {
  let all = ""
  for await (const chunk of stream) all += chunk
  return all
}

test("the host connects to a guest port, and bytes go both ways", async () => {
  const wire = joinGuest()
  wire.guest.listen(80, { onData: (bytes, socket) => socket.write(bytes) })

  const connecting = connect(wire.muxer, 80, {})
  await wire.settle()
  const stream = await connecting
  stream.write("ping")
  await wire.settle()

  expect(String(stream.read())).toBe("ping")
  expect(stream).toMatchObject({ remoteCid: 3, remotePort: 80 })
})

test("connecting to a port nobody listens on is refused", async () => {
  const wire = joinGuest()

  const connecting = connect(wire.muxer, 80, {})
  connecting.catch(() => undefined)
  await wire.settle()

  await expect(connecting).rejects.toMatchObject({ code: "connection-refused", port: 80 })
  expect(wire.muxer.size).toBe(0)
})

test("connect gives up in time, and by signal, and tells the guest when it had asked", async () => {
  const wire = joinGuest()
  wire.guest.listen(80)
  wire.stalled = true
  const controller = new AbortController()

  const attempts = Promise.allSettled([
    connect(wire.muxer, 80, { timeoutMs: 1 }),
    connect(wire.muxer, 80, { signal: controller.signal }),
  ])
  controller.abort(new Error("changed my mind"))
  const tooLate = connect(wire.muxer, 80, { signal: controller.signal })

  await expect(tooLate).rejects.toMatchObject({ code: "aborted" })
  expect(await attempts).toMatchObject([{ reason: { code: "timeout" } }, { reason: { code: "aborted" } }])
  wire.stalled = false
  await wire.settle()
  expect(wire.guest.size).toBe(0)
  expect(wire.muxer.size).toBe(0)
})

test("end() shuts one way down and leaves the other one open", async () => {
  const wire = joinGuest()
  let ended = false
  const [stream, socket] = await accepted(wire, { onEnd: () => (ended = true) })

  stream.end("last words")
  await wire.settle()
  expect(ended).toBe(true)
  socket.write(text("still here"))
  socket.close()
  await wire.settle()

  expect(await read(stream)).toBe("still here")
  await finished(stream)
  expect(socket.closed).toBe(true)
  expect(wire.muxer.size).toBe(0)
})

test("the guest's half-close ends reading and leaves writing open", async () => {
  const wire = joinGuest()
  let got = ""
  const [stream, socket] = await accepted(wire, { onData: bytes => (got += Buffer.from(bytes)) })

  let asked = ""
  stream.on("data", chunk => (asked += chunk))
  socket.write(text("question"))
  socket.shutdown()
  await wire.settle()
  expect([asked, stream.readableEnded]).toEqual(["question", true])
  stream.end("answer")
  await wire.settle()

  expect(got).toBe("answer")
  expect(socket.closed).toBe(true)
  expect(stream.closed).toBe(true)
  expect(wire.muxer.size).toBe(0)
})

test("bytes written right before the guest closes are all read", async () => {
  const wire = joinGuest()
  const [stream, socket] = await accepted(wire)
  const sent = "x".repeat(200_000)

  socket.write(text(sent))
  socket.close()
  await wire.settle()

  expect(socket.closed).toBe(true)
  expect(await read(stream)).toBe(sent)
  expect(stream.closed).toBe(true)
})

test("bytes that came before a reset of the connection or of the device are read before the error", async () => {
  for (const [end, code] of [
    [(_wire: Wire, socket: GuestSocket) => socket.reset(), "connection-reset"],
    [(wire: Wire) => wire.muxer.dropAll("device-reset"), "device-reset"],
  ] as const) {
    const wire = joinGuest()
    const [stream, socket] = await accepted(wire)
    let got = ""
    stream.pause()
    stream.on("data", chunk => (got += chunk))
    const failure = new Promise(resolve => stream.on("error", resolve))
    socket.write(text("precious"))
    end(wire, socket)
    await wire.settle()
    expect(stream.destroyed).toBe(false)

    stream.resume()

    expect(await failure).toMatchObject({ code })
    expect(got).toBe("precious")
  }
})

test("bytes of a connection that was reset before anybody took it can still be read", async () => {
  const wire = joinGuest()
  const listener = new VsockListener(wire.muxer, 1024, 128)
  const socket = wire.guest.connect(1024)
  await wire.settle()
  await socket.then(guest => {
    guest.write(text("late but here"))
    guest.reset()
  })
  await wire.settle()

  const { value: stream } = await listener[Symbol.asyncIterator]().next()
  let got = ""
  const failure = new Promise(resolve => stream.on("error", resolve))
  stream.on("data", (chunk: Buffer) => (got += chunk))

  expect(await failure).toMatchObject({ code: "connection-reset" })
  expect(got).toBe("late but here")
})

test("a write to a connection that is gone fails at once when nobody reads the stream", async () => {
  const wire = joinGuest()
  const [stream, socket] = await accepted(wire)
  const failure = new Promise(resolve => stream.on("error", resolve))
  socket.write(text("unread"))
  socket.reset()
  await wire.settle()
  expect(stream.destroyed).toBe(false)

  stream.write("anybody there?")

  expect(await failure).toMatchObject({ code: "connection-reset" })
})

test("V6: destroy() sends an RST, and the guest's packets in flight meet no connection", async () => {
  const wire = joinGuest()
  const [stream, socket] = await accepted(wire)

  stream.destroy()
  socket.write(text("too late"))
  await wire.settle()

  expect(socket.closed).toBe(true)
  expect(wire.muxer.size).toBe(0)
  expect(wire.guest.stray).toHaveLength(1)
  expect(wire.guest.stray[0]).toMatchObject({ op: VIRTIO_VSOCK_OP_RST })
})

test("writing to a guest that takes no more ends in broken-pipe, after its own bytes were read", async () => {
  const wire = joinGuest()
  const [stream, socket] = await accepted(wire)
  socket.autoRead = false
  let got = ""
  stream.pause()
  stream.on("data", chunk => (got += chunk))
  const failure = new Promise(resolve => stream.on("error", resolve))
  const written = new Promise(resolve => stream.write(Buffer.alloc(1 << 20), resolve))
  await wire.settle()

  socket.write(text("stop it"))
  socket.shutdown(VIRTIO_VSOCK_SHUTDOWN_RCV)
  await wire.settle()
  stream.resume()

  expect(await failure).toMatchObject({ code: "broken-pipe" })
  expect(await written).toBeFalsy()
  expect(got).toBe("stop it")
})

test("an echo whose guest stops reading and closes ends by itself", async () => {
  const wire = joinGuest()
  const [stream, socket] = await accepted(wire)
  socket.autoRead = false
  const failure = new Promise(resolve => stream.on("error", resolve))
  stream.pipe(stream)

  socket.write(new Uint8Array(socket.bufAlloc + 150_000))
  socket.close()
  await wire.settle()

  expect(await failure).toMatchObject({ code: "broken-pipe" })
})

test("a stream whose guest closed fully ends by itself", async () => {
  const wire = joinGuest()
  const [stream, socket] = await accepted(wire)
  stream.resume()

  socket.close()
  await wire.settle()
  await finished(stream)

  expect(stream.writableFinished).toBe(true)
  expect(wire.muxer.size).toBe(0)
})

test("V7: a slow host reader stops the guest at buf_alloc, and reading on lets it go on", async () => {
  const wire = joinGuest({ bufAlloc: 64 * 1024 })
  const [stream, socket] = await accepted(wire)

  socket.write(new Uint8Array(1 << 20))
  await wire.settle()
  expect(socket.queued).toBe((1 << 20) - 64 * 1024)
  socket.close()

  let length = 0
  stream.on("data", chunk => (length += chunk.length))
  await wire.settle()
  expect(length).toBe(1 << 20)
})

test("V7: a slow guest reader holds the host's writes back", async () => {
  const wire = joinGuest()
  const [stream, socket] = await accepted(wire)
  socket.autoRead = false
  let done = false

  stream.write(Buffer.alloc(1 << 20), () => (done = true))
  await wire.settle()
  expect(done).toBe(false)
  expect(socket.unread.reduce((sum, part) => sum + part.length, 0)).toBe(socket.bufAlloc)

  while (!done) {
    socket.readAll()
    await wire.settle()
  }
})

test("V7: 4 MiB each way at the same time, with random chunk sizes, arrive unchanged", async () => {
  const wire = joinGuest({}, 3700)
  const size = 4 << 20
  const byteAt = (i: number) => (i * 7 + (i >> 13)) & 0xff
  let wrong = 0
  let toGuest = 0
  let toHost = 0
  const [stream, socket] = await accepted(wire, {
    onData(bytes) {
      for (const byte of bytes) if (byte !== byteAt(toGuest++)) wrong++
    },
  })
  stream.on("data", (chunk: Buffer) => {
    for (const byte of chunk) if (byte !== byteAt(toHost++)) wrong++
  })

  socket.write(Uint8Array.from({ length: size }, (_, i) => byteAt(i)))
  socket.shutdown()
  const sending = pipeline(function* () {
    for (let at = 0, n = 1; at < size; at += n, n = ((n * 31) % 90_000) + 1) {
      yield Buffer.from(Uint8Array.from({ length: Math.min(n, size - at) }, (_, i) => byteAt(at + i)))
    }
  }, stream)
  while (toGuest < size || toHost < size) await wire.settle()
  await sending

  expect([toGuest, toHost, wrong]).toEqual([size, size, 0])
}, 60_000)

test("many small writes in one tick leave in few packets", async () => {
  const wire = joinGuest()
  let got = ""
  const [stream] = await accepted(wire, { onData: bytes => (got += Buffer.from(bytes)) })
  const before = wire.muxer.stats.packetsToGuest

  for (let i = 0; i < 1000; i++) stream.write("a")
  await wire.settle()

  expect(got).toHaveLength(1000)
  expect(wire.muxer.stats.packetsToGuest - before).toBeLessThanOrEqual(2)
})

test("V4: a flood of one-byte packets costs its bytes, not an object each", async () => {
  const wire = joinGuest()
  const [stream, socket] = await accepted(wire)

  for (let i = 0; i < 100_000; i++) socket.write(Uint8Array.of(i & 0xff))
  let chunks = 0
  let length = 0
  stream.on("data", chunk => {
    chunks++
    length += chunk.length
  })
  await wire.settle()

  expect(length).toBe(100_000)
  expect(chunks).toBeLessThan(10)
})

test("V3: a guest that sends beyond its credit is reset, what it was allowed to send is delivered", async () => {
  const wire = joinGuest({ bufAlloc: 100 })
  const [stream, socket] = await accepted(wire)
  const failure = new Promise(resolve => stream.on("error", resolve))
  let got = 0
  socket.write(new Uint8Array(100))
  wire.guest.sendFrom(socket, VIRTIO_VSOCK_OP_RW, 0, new Uint8Array(1))

  stream.on("data", chunk => (got += chunk.length))
  await wire.settle()

  expect(await failure).toMatchObject({ code: "protocol-violation" })
  expect(got).toBe(100)
  expect(socket.closed).toBe(true)
})

test("what a consumer throws is its own: other connections go on", async () => {
  const wire = joinGuest()
  const listener = new VsockListener(wire.muxer, 1024, 128)
  const sockets = [wire.guest.connect(1024), wire.guest.connect(1024)]
  await wire.settle()
  const iterator = listener[Symbol.asyncIterator]()
  const streams = [(await iterator.next()).value, (await iterator.next()).value] as VsockStream[]
  let got = ""
  streams[0]!.on("data", () => {
    throw new Error("bug in a consumer")
  })
  streams[1]!.on("data", chunk => (got += chunk))
  await wire.settle()

  for (const socket of sockets) (await socket).write(text("hi"))
  await expect(wire.settle()).rejects.toThrow("bug in a consumer")
  await wire.settle()

  expect(got).toBe("hi")
})
