import fc from "fast-check"
import { describe, expect, test } from "vitest"
import { encodeFrame, FRAME_DATA_MAX, FRAME_HEADER_SIZE, type Frame, FrameDecoder } from "./frame.js"

interface Seen {
  frames: Frame[]
  oversized: number[][]
  broken: string[]
}

function decoder(): { decoder: FrameDecoder; seen: Seen } {
  const seen: Seen = { frames: [], oversized: [], broken: [] }
  return {
    seen,
    decoder: new FrameDecoder({
      frame: frame => seen.frames.push(frame),
      oversized: (...args) => seen.oversized.push(args),
      broken: reason => seen.broken.push(reason),
    }),
  }
}

function header(length: number, streamId: number, type = 2): Buffer {
  const bytes = Buffer.alloc(FRAME_HEADER_SIZE)
  bytes.writeUInt32BE(length, 0)
  bytes.writeUInt32BE(streamId, 4)
  bytes.writeUInt8(type, 8)
  return bytes
}

describe("ttrpc frames", () => {
  test("are length, stream id, type and flags in big-endian order", () => {
    expect([...encodeFrame(0x01020305, 1, 2, Uint8Array.of(7, 8))]).toEqual([
      0, 0, 0, 2, 1, 2, 3, 5, 1, 2, 7, 8,
    ])
  })

  test("come out as they went in, whatever the chunks", () => {
    const frame = fc.record({
      streamId: fc.nat(0xffff_ffff),
      type: fc.nat(255),
      flags: fc.nat(255),
      data: fc.uint8Array({ maxLength: 50 }),
    })
    fc.assert(
      fc.property(
        fc.array(frame, { maxLength: 8 }),
        fc.infiniteStream(fc.integer({ min: 1, max: 23 })),
        (frames, cuts) => {
          const bytes = Buffer.concat(frames.map(f => encodeFrame(f.streamId, f.type, f.flags, f.data)))
          const { decoder: d, seen } = decoder()
          for (let at = 0; at < bytes.length; ) {
            const size = cuts.next().value as number
            d.push(bytes.subarray(at, at + size))
            at += size
          }
          expect(seen.frames.map(f => ({ ...f, data: [...f.data] }))).toEqual(
            frames.map(f => ({ ...f, data: [...f.data] })),
          )
          expect(d.atBoundary).toBe(true)
        },
      ),
    )
  })

  test("A1: data above 4 MiB is skipped without being stored, and what follows is read", () => {
    const { decoder: d, seen } = decoder()
    d.push(header(FRAME_DATA_MAX + 1, 5))
    expect(seen.oversized).toEqual([[5, 2, FRAME_DATA_MAX + 1]])
    for (let left = FRAME_DATA_MAX + 1; left > 0; left -= 65536) d.push(Buffer.alloc(Math.min(left, 65536)))
    d.push(encodeFrame(7, 2, 0, Uint8Array.of(1)))
    expect(seen.frames).toHaveLength(1)
    expect(seen.frames[0]).toMatchObject({ streamId: 7 })
  })

  test("A1: a length of 2^32 - 1 breaks the stream for good", () => {
    const { decoder: d, seen } = decoder()
    d.push(header(0xffff_ffff, 1))
    d.push(encodeFrame(1, 2, 0, Uint8Array.of(1)))
    expect(seen).toMatchObject({ frames: [], oversized: [], broken: [expect.stringContaining("0xffffffff")] })
  })

  test("A2: a truncated header is no frame", () => {
    const { decoder: d, seen } = decoder()
    d.push(header(0, 1).subarray(0, 9))
    expect(seen.frames).toEqual([])
    expect(d.atBoundary).toBe(false)
  })

  test("refuses to encode more than 4 MiB", () => {
    expect(() => encodeFrame(1, 1, 0, new Uint8Array(FRAME_DATA_MAX + 1))).toThrow(RangeError)
  })
})
