import type { ImageLimits } from "../limits.js"
import type { Compression } from "../spec/media-types.js"
import type { ReadBytes } from "./bit-reader.js"
import { findDeflateBlocks } from "./deflate-blocks.js"
import { findZstdFrames } from "./zstd-starts.js"

/** Tar stream that one span has at least, but for the last, in bytes. More costs more to fetch, less more to keep. */
export const SPAN_BYTES = 1024 * 1024
/** Tar stream that one span has at most: it is unpacked in memory. */
export const SPAN_MAX = 16 * 1024 * 1024
/** Most spans of a layer. */
const SPANS_MAX = 20_000

/** A place in a blob from which it is read on; a span reaches from one to the next. */
export interface Checkpoint {
  readonly bit: number
  readonly output: number
  /** Nothing before it is needed. */
  readonly isFirst: boolean
}

/**
 * Divides a blob into spans.
 *
 * @param blobSize - in bytes
 * @returns where spans begin, and the end; undefined when the blob cannot be divided: blocks or frames that are too long
 * @throws ImageError `compression-invalid`, `limit`
 */
export function findCheckpoints(
  read: ReadBytes,
  compression: Compression,
  blobSize: number,
  limits: ImageLimits,
): Checkpoint[] | undefined {
  if (blobSize === 0) return undefined
  const all = DIVIDE[compression](read, blobSize, limits)
  const isFit = all.every((one, i) => i === 0 || one.output - (all[i - 1] as Checkpoint).output <= SPAN_MAX)
  return isFit && all.length <= SPANS_MAX ? all : undefined
}

type Divide = (read: ReadBytes, blobSize: number, limits: ImageLimits) => Checkpoint[]

const DIVIDE: Readonly<Record<Compression, Divide>> = {
  none: (_, blobSize) => evenly(blobSize),
  gzip: (read, blobSize) => byStarts(blobSize, found => findDeflateBlocks(read, found)),
  zstd: (read, blobSize, limits) => byStarts(blobSize, found => findZstdFrames(read, limits, found)),
}

function evenly(blobSize: number): Checkpoint[] {
  const count = Math.ceil(blobSize / SPAN_BYTES)
  const starts = Array.from({ length: count }, (_, i) => i * SPAN_BYTES)
  return [...starts, blobSize].map(output => ({ bit: 8 * output, output, isFirst: true }))
}

/** @param find - tells of every place that can be read from, and how much there is in all */
function byStarts(blobSize: number, find: (tell: (start: Checkpoint) => void) => number): Checkpoint[] {
  const found: Checkpoint[] = []
  const output = find(block => {
    const last = found.at(-1)
    // What unpacks to nothing is no span, and no span reaches into the next member.
    if (last?.output === block.output) found[found.length - 1] = block
    else if (!last || block.isFirst || block.output - last.output >= SPAN_BYTES) found.push(block)
  })
  if (found.at(-1)?.output === output) found.pop()
  return [...found, { bit: 8 * blobSize, output, isFirst: true }]
}
