import { closeSync, fstatSync, openSync, readSync } from "node:fs"
import { open } from "node:fs/promises"
import { decompress } from "../layer/decompress.js"
import type { TreeNode } from "../layer/tree.js"
import type { ImageLimits } from "../limits.js"
import { readRange } from "../sources/beneath.js"
import type { Compression } from "../spec/media-types.js"
import { type Checkpoint, findCheckpoints } from "./checkpoints.js"
import { FileRuns } from "./file-runs.js"
import { SpanCutter } from "./span-cutter.js"
import { digestOfRuns, type Run, type SpanIndex } from "./span-index.js"

/** A layer that was read, and of which everything is there. */
export interface WholeLayer {
  /** Files of its blob and of its data part. */
  readonly blob: string
  readonly data: string
  readonly root: TreeNode
  readonly compression: Compression
  readonly limits: ImageLimits
}

/**
 * Finds where everything of a data part lies in the layer's blob, by reading both once more.
 *
 * @returns undefined for a layer that can only be read whole: zstd, sparse files, gzip blocks of many megabytes
 * @throws ImageError `compression-invalid`, `tar-…`, `limit`, `io`
 */
export async function buildSpanIndex(layer: WholeLayer): Promise<SpanIndex | undefined> {
  const blobSize = sizeOf(layer.blob)
  const checkpoints = checkpointsOf(layer, blobSize)
  if (!checkpoints) return undefined
  const packed = layer.compression !== "none"
  const cutter = new SpanCutter(checkpoints, packed)
  const files = new FileRuns(layer.limits)
  for await (const chunk of tarStream(layer)) {
    cutter.push(chunk)
    files.push(chunk)
  }
  const [spans, runs] = [cutter.finish(), files.match(layer.root)]
  if (!spans || !runs) return undefined
  return {
    packed,
    blobSize,
    dataSize: sizeOf(layer.data),
    dataDigest: await digestOfData(layer.data, runs),
    spans,
    runs,
  }
}

function sizeOf(path: string): number {
  const fd = openSync(path, "r")
  try {
    return fstatSync(fd).size
  } finally {
    closeSync(fd)
  }
}

/** Synchronously: it is computing that takes the time, and the file was read a moment ago. */
function checkpointsOf({ blob, compression }: WholeLayer, blobSize: number): Checkpoint[] | undefined {
  const fd = openSync(blob, "r")
  try {
    return findCheckpoints(into => readSync(fd, into), compression, blobSize)
  } finally {
    closeSync(fd)
  }
}

async function* tarStream({ blob, compression, limits }: WholeLayer): AsyncGenerator<Buffer> {
  const file = await open(blob, "r")
  try {
    const chunks = readRange(file, 0, Number.POSITIVE_INFINITY)
    let bytesRead = 0
    const input = {
      get bytesRead() {
        return bytesRead
      },
      async next() {
        const { done, value } = await chunks.next()
        if (done) return undefined
        bytesRead += value.length
        return value
      },
    }
    yield* decompress(input, compression, limits)
  } finally {
    await file.close()
  }
}

async function digestOfData(path: string, runs: readonly Run[]): Promise<Buffer> {
  const file = await open(path, "r")
  try {
    return await digestOfRuns(file, runs)
  } finally {
    await file.close()
  }
}
