import { ZstdDecoder } from "../layer/zstd.js"
import { ZstdFrames } from "../layer/zstd-frames.js"
import type { ImageLimits } from "../limits.js"
import type { ReadBytes } from "./bit-reader.js"

const CHUNK = 256 * 1024

/** A frame of a zstd file, which refers to nothing before it. */
export interface ZstdStart {
  /** Where it begins in the file, in bits. */
  readonly bit: number
  /** How much comes before it when unpacked, in bytes. */
  readonly output: number
  /** A span may have several frames: this one need not begin another. */
  readonly isFirst: false
}

/**
 * Finds where the frames of a zstd file begin. They are unpacked, since not every frame says how much it holds.
 *
 * @param read - the file, from its start
 * @param onFrame - called for each frame, in order
 * @returns bytes of all frames unpacked
 * @throws ImageError `compression-invalid`, `limit`
 * @see RFC 8878, 3.1
 */
export function findZstdFrames(
  read: ReadBytes,
  limits: ImageLimits,
  onFrame: (frame: ZstdStart) => void,
): number {
  const frames = new ZstdFrames(limits)
  const decoder = new ZstdDecoder()
  let output = 0
  for (const chunk of chunksOf(read)) {
    for (const piece of frames.push(chunk)) {
      if (piece.kind === "header") onFrame({ bit: 8 * piece.position, output, isFirst: false })
      for (const bytes of decoder.decode(piece)) output += bytes.length
    }
  }
  frames.end()
  return output
}

function* chunksOf(read: ReadBytes): Generator<Buffer> {
  for (;;) {
    const chunk = Buffer.allocUnsafeSlow(CHUNK)
    const count = read(chunk)
    if (count === 0) return
    yield chunk.subarray(0, count)
  }
}
