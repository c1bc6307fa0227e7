import { randomSource } from "@ts-vmm/virtio-devices/testing"
import { expect, test } from "vitest"
import { connect } from "./connect.js"
import { VMADDR_CID_HOST } from "./defs.js"
import { VsockListener } from "./listener.js"
import type { VsockHeader } from "./packet.js"
import type { VsockStream } from "./streams.js"
import { joinGuest } from "./testing/wire.js"

const PACKETS = 8_000
const LISTENED = [1024, 1025]

test.each([1, 0xdeadbeef, 42])(
  "random packets (seed %i) neither throw, nor leak, nor stop honest ones",
  async seed => {
    const random = randomSource(seed)
    const wire = joinGuest({ maxConnections: 64, bufAlloc: 4096 })
    const streams = new Set<VsockStream>()
    for (const port of LISTENED) {
      new VsockListener(wire.muxer, port, 8, stream => {
        streams.add(stream)
        stream.on("error", () => undefined).on("close", () => streams.delete(stream))
        if (port === LISTENED[0]) stream.pipe(stream)
        else if (random(2) === 0) stream.end("bye")
      })
    }

    for (let i = 0; i < PACKETS; i++) {
      wire.guest.raw(randomHeader(random), new Uint8Array(random(10) === 0 ? random(5000) : random(20)))
      wire.stalled = random(4) === 0
      if (random(50) === 0) void connect(wire.muxer, random(6), {}).then(keep, () => undefined)
      if (random(20) === 0) await wire.settle()
      expect(wire.muxer.size + wire.muxer.unreadSize).toBeLessThanOrEqual(64)
      for (const stream of streams) expect(stream.readableLength).toBeLessThanOrEqual(4096)
    }

    wire.stalled = false
    wire.guest.stray.length = 0
    wire.muxer.closeAll()
    await wire.settle()
    for (const stream of streams) stream.resume()
    await wire.settle()
    expect([wire.muxer.size, streams.size]).toEqual([0, 0])
    let got = ""
    const socket = wire.guest.connect(LISTENED[0]!, { onData: bytes => (got += Buffer.from(bytes)) }, 99)
    await wire.settle()
    ;(await socket).write(Buffer.from("honest"))
    await wire.settle()
    expect(got).toBe("honest")

    function keep(stream: VsockStream): void {
      streams.add(stream)
      stream.on("error", () => undefined).on("close", () => streams.delete(stream))
    }
  },
)

/** Mostly plausible: few ports, known ops, small numbers; now and then anything. */
function randomHeader(random: (below: number) => number): Partial<VsockHeader> {
  const wild = () => random(30) === 0
  const anything = () => random(0x1_0000_0000)
  const header: Partial<VsockHeader> = {
    srcPort: wild() ? anything() : random(6),
    dstPort: wild() ? anything() : random(3) === 0 ? 0x4000_0000 + random(64) : LISTENED[random(2)]!,
    op: wild() ? random(0x10000) : random(9),
    flags: random(3) === 0 ? random(4) : 0,
    dstCid: wild() ? anything() : VMADDR_CID_HOST,
    type: wild() ? random(4) : 1,
    bufAlloc: wild() ? anything() : random(3) * 100,
    fwdCnt: random(5) === 0 ? random(200) : 0,
  }
  if (wild()) header.srcCid = random(5)
  if (wild()) header.len = anything()
  return header
}
