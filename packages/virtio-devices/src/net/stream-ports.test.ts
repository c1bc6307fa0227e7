import { fstatSync, openSync, readdirSync } from "node:fs"
import { Socket } from "node:net"
import { socketPair } from "@ts-vmm/native"
import { describe, expect, onTestFinished, test, vi } from "vitest"
import { direct, MockDriver } from "../testing/index.js"
import { NetDevice, type NetPort, StreamPort, type StreamPortOptions } from "./index.js"
import { SocketPort } from "./socket/index.js"

const [RECEIVE, TRANSMIT] = [0, 1]
const HEADER = new Uint8Array(12)
const MTU = 65_520

const frameOf = (length: number, fill: number) => Buffer.alloc(length, fill)
const withLength = (frame: Uint8Array) => {
  const prefix = Buffer.alloc(4)
  prefix.writeUInt32BE(frame.length)
  return Buffer.concat([prefix, frame])
}

/** Frames of many sizes, each of its own byte. */
const FRAMES = Array.from({ length: 120 }, (_, i) =>
  frameOf([60, 1514, 14, 65_534, 9000, 255, 243, 244][i % 8] as number, i),
)

/** The frames of what came on a stream. */
class Frames {
  readonly all: Buffer[] = []
  #bytes = Buffer.alloc(0)

  add(bytes: Buffer): void {
    this.#bytes = Buffer.concat([this.#bytes, bytes])
    while (this.#bytes.length >= 4) {
      const end = 4 + this.#bytes.readUInt32BE()
      if (end > 4 + MTU + 14) throw new Error("out of step")
      if (this.#bytes.length < end) return
      this.all.push(this.#bytes.subarray(4, end))
      this.#bytes = this.#bytes.subarray(end)
    }
  }
}

/** Compared by hash of content: a difference in megabytes is not worth printing. */
const summaryOf = (frames: readonly Uint8Array[]) =>
  frames.map(
    frame => `${frame.length} of ${frame[0]}${frame.every(byte => byte === frame[0]) ? "" : ", mixed"}`,
  )

const PORTS: { name: string; make(fd: number, options?: StreamPortOptions): NetPort }[] = [
  { name: "a stream port", make: (fd, options) => new StreamPort(new Socket({ fd }), options) },
  { name: "a socket port", make: (fd, options) => new SocketPort(fd, options) },
]

describe.each(PORTS)("$name", ({ make }) => {
  /** A port, and the other end of its cable. */
  function connect(options?: StreamPortOptions): { port: NetPort; peer: Socket } {
    const [ours, theirs] = socketPair()
    const port = make(ours, options)
    const peer = new Socket({ fd: theirs })
    peer.on("error", () => undefined)
    onTestFinished(() => {
      port.close()
      peer.destroy()
    })
    return { port, peer }
  }

  /** With a device on it, and a driver that has `buffers` for what comes. */
  async function connectDevice(options?: StreamPortOptions) {
    const { port, peer } = connect(options)
    const device = new NetDevice(port, { mtu: MTU })
    const driver = await MockDriver.attach(device, direct, {
      queueSizes: [256, 256, 64],
      regions: [{ start: 0, size: 32 * 2 ** 20 }],
      heapStart: 65_536,
    })
    onTestFinished(() => driver[Symbol.asyncDispose]())
    return { port, peer, device, driver }
  }

  test("frames keep their bounds, whatever the pieces they come in", async () => {
    const { port, peer } = connect()
    const got: Buffer[] = []
    port.attach(
      frame => got.push(Buffer.from(frame)) > 0,
      () => undefined,
    )
    const frames = [60, 1500, 1, 0, 14].map((length, i) => frameOf(length, i))
    const bytes = Buffer.concat(frames.map(withLength))
    for (let at = 0; at < bytes.length; at += 7) {
      peer.write(bytes.subarray(at, at + 7))
      if (at % 5 === 0) await new Promise(resolve => setImmediate(resolve))
    }
    await vi.waitFor(() => expect(got).toHaveLength(4))
    expect(summaryOf(got)).toEqual(summaryOf(frames.filter(frame => frame.length > 0)))
  })

  test("N4: frames that come keep their bytes and order, also when the guest has no room now and then", async () => {
    const { port, peer } = connect()
    const got: Buffer[] = []
    let turn = 0
    port.attach(
      frame => {
        if (turn++ % 3 === 0) return false
        got.push(Buffer.from(frame))
        return true
      },
      () => undefined,
    )
    peer.write(Buffer.concat(FRAMES.map(withLength)))
    while (got.length < FRAMES.length) {
      await new Promise(resolve => setImmediate(resolve))
      port.resume()
    }
    expect(summaryOf(got)).toEqual(summaryOf(FRAMES))
  })

  test("frames reach a guest, each behind an empty header", async () => {
    const { peer, driver } = await connectDevice()
    const room = 12 + MTU + 14
    const buffers = FRAMES.map(() => driver.writable(room))
    for (const buffer of buffers) driver.queue(RECEIVE).post([buffer])
    driver.port.kick(RECEIVE)
    peer.write(Buffer.concat(FRAMES.map(withLength)))
    const got: Buffer[] = []
    for (let i = 0; i < FRAMES.length; i++) {
      const { length } = await driver.nextUsed(RECEIVE)
      const packet = Buffer.alloc(length)
      driver.memory.read(buffers[i]?.address as number, packet)
      expect(packet.subarray(0, 12)).toEqual(Buffer.from([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]))
      got.push(packet.subarray(12))
    }
    expect(summaryOf(got)).toEqual(summaryOf(FRAMES))
  })

  test("what a guest sends arrives in order and without loss, however slowly it is read", async () => {
    const { peer, driver, device } = await connectDevice()
    peer.pause()
    for (const frame of FRAMES) {
      const middle = frame.length >> 1
      const pieces = [HEADER, frame.subarray(0, middle), frame.subarray(middle)]
      if (driver.queue(TRANSMIT).free < pieces.length) break
      driver.queue(TRANSMIT).post(pieces.map(piece => driver.readable(piece)))
    }
    driver.port.kick(TRANSMIT)
    const sent = FRAMES.slice(0, 256 / 3)
    expect(device.counters.framesSent).toBeLessThan(sent.length)
    const got = new Frames()
    while (got.all.length < sent.length) {
      await new Promise(resolve => setImmediate(resolve))
      const bytes = peer.read(10_000) ?? peer.read()
      if (bytes) got.add(bytes)
    }
    expect(summaryOf(got.all)).toEqual(summaryOf(sent))
    for (let i = 0; i < sent.length; i++) await driver.nextUsed(TRANSMIT)
    expect(device.counters).toMatchObject({
      framesSent: sent.length,
      bytesSent: sent.reduce((sum, frame) => sum + frame.length, 0),
      dropped: 0,
    })
  })

  test("a guest that changes a frame while it is sent changes no other, and not how long it is", async () => {
    const { peer, driver } = await connectDevice()
    peer.pause()
    const buffers = Array.from({ length: 40 }, (_, i) => driver.readable(frameOf(30_000, i)))
    for (const buffer of buffers) driver.queue(TRANSMIT).post([driver.readable(HEADER), buffer])
    driver.port.kick(TRANSMIT)
    for (const { address } of buffers) driver.memory.write(address as number, Buffer.alloc(30_000, 0xff))
    const got = new Frames()
    peer.on("data", bytes => got.add(bytes)).resume()
    await vi.waitFor(() => expect(got.all).toHaveLength(buffers.length))
    expect(got.all.map(frame => frame.length)).toEqual(buffers.map(() => 30_000))
  })

  test("a length that no frame has ends it with an error", async () => {
    const onEnd = vi.fn<(error: Error | undefined) => void>()
    const { port, peer } = connect({ onEnd })
    port.attach(
      () => true,
      () => undefined,
    )
    peer.write(Buffer.from([0x7f, 0, 0, 0]))
    await vi.waitFor(() => expect(onEnd).toHaveBeenCalledOnce())
    expect(onEnd.mock.lastCall?.[0]?.message).toMatch(/a frame of 2130706432 bytes/)
    port.close()
    expect(onEnd).toHaveBeenCalledOnce()
  })

  test("N8: when the other end is gone it says so once, and leads nowhere", async () => {
    const onEnd = vi.fn()
    const { peer, driver } = await connectDevice({ onEnd })
    peer.pause()
    const send = () => {
      for (let i = 0; i < 100; i++)
        driver.queue(TRANSMIT).post([driver.readable(HEADER), driver.readable(frameOf(9000, i))])
      driver.port.kick(TRANSMIT)
    }
    send()
    peer.destroy()
    await vi.waitFor(() => expect(onEnd).toHaveBeenCalledOnce())
    for (let i = 0; i < 100; i++) await driver.nextUsed(TRANSMIT)
    send()
    for (let i = 0; i < 100; i++) await driver.nextUsed(TRANSMIT)
    expect(onEnd).toHaveBeenCalledOnce()
  })

  test("closed, it has left no fd, and nothing is said of it", async () => {
    const onEnd = vi.fn()
    const before = readdirSync("/proc/self/fd").length
    const { port, peer } = connect({ onEnd })
    port.attach(
      () => true,
      () => undefined,
    )
    port.close()
    port.close()
    expect(port.send(frameOf(60, 1))).toBe(true)
    port.resume()
    peer.destroy()
    await vi.waitFor(() => expect(readdirSync("/proc/self/fd").length).toBeLessThanOrEqual(before))
    expect(onEnd).not.toHaveBeenCalled()
  })
})

test("a socket port closes the fd that it cannot use", () => {
  const fd = openSync("/dev/null", "r") // which no event loop can wait for
  expect(() => new SocketPort(fd)).toThrow(expect.objectContaining({ code: "EPERM" }))
  expect(() => fstatSync(fd)).toThrow(expect.objectContaining({ code: "EBADF" }))
})
