import type { Compression } from "../spec/media-types.js"
import type { ReadBytes } from "./bit-reader.js"
import { findDeflateBlocks } from "./deflate-blocks.js"

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
 * @returns where spans begin, and the end; undefined when the blob cannot be divided: zstd, or blocks that are too long
 * @throws ImageError `compression-invalid`
 */
export function findCheckpoints(
  read: ReadBytes,
  compression: Compression,
  blobSize: number,
): Checkpoint[] | undefined {
  if (compression === "zstd" || blobSize === 0) return undefined
  const all = compression === "none" ? evenly(blobSize) : byBlocks(read, blobSize)
  const isFit = all.every((one, i) => i === 0 || one.output - (all[i - 1] as Checkpoint).output <= SPAN_MAX)
  return isFit && all.length <= SPANS_MAX ? all : undefined
}

function evenly(blobSize: number): Checkpoint[] {
  const count = Math.ceil(blobSize / SPAN_BYTES)
  const starts = Array.from({ length: count }, (_, i) => i * SPAN_BYTES)
  return [...starts, blobSize].map(output => ({ bit: 8 * output, output, isFirst: true }))
}

function byBlocks(read: ReadBytes, blobSize: number): Checkpoint[] {
  const found: Checkpoint[] = []
  const output = findDeflateBlocks(read, block => {
    const last = found.at(-1)
    // What unpacks to nothing is no span, and no span reaches into the next member.
    if (last?.output === block.output) found[found.length - 1] = block
    else if (!last || block.isFirst || block.output - last.output >= SPAN_BYTES) found.push(block)
  })
  if (found.at(-1)?.output === output) found.pop()
  return [...found, { bit: 8 * blobSize, output, isFirst: true }]
}
