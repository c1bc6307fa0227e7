import type { FileHandle } from "node:fs/promises"
import { ImageError } from "../errors.js"
import { LayerChild } from "../layer/layer-child.js"
import { heapFor, limitsFor, patienceFor } from "../layer/layer-task.js"
import type { ImageLimits } from "../limits.js"
import type { Compression } from "../spec/media-types.js"
import { decodeSpanIndex, digestOfRuns, type SpanIndex } from "./span-index.js"

/** Largest index that is taken. */
const INDEX_MAX = 1024 * 1024 * 1024

/** A layer that was read, and of which everything is there. */
export interface WholeLayer {
  /** Its blob, from the start on, its data part, and its index as it is stored. */
  readonly blob: FileHandle
  readonly data: FileHandle
  readonly index: Buffer
  readonly compression: Compression
  readonly limits: ImageLimits
}

/**
 * Finds where everything of a data part lies in the layer's blob. The blob is decoded by a process of its own, as when
 * the part was made; what that says is checked for holding together.
 *
 * @param scratch - an empty file
 * @returns undefined for a layer that can only be read whole: zstd, sparse files, gzip blocks of many megabytes
 * @throws ImageError `layer-process`, `index-corrupt`, `limit`, and what decoding the layer throws
 */
export async function buildSpanIndex(layer: WholeLayer, scratch: FileHandle): Promise<SpanIndex | undefined> {
  const { size: blobSize } = await layer.blob.stat()
  await findSpansApart(layer, blobSize, scratch)
  const { size } = await scratch.stat()
  if (size === 0) return undefined
  if (size > INDEX_MAX)
    throw new ImageError("layer-process", "a span index is longer than any can be", { size })
  const bytes = Buffer.allocUnsafe(size)
  await scratch.read(bytes, 0, size, 0)
  const found = decodeSpanIndex(bytes)
  if (found.blobSize !== blobSize || found.dataSize !== (await layer.data.stat()).size)
    throw new ImageError("layer-process", "a span index is for another layer than was asked for")
  return { ...found, dataDigest: await digestOfRuns(layer.data, found.runs) }
}

async function findSpansApart(layer: WholeLayer, blobSize: number, scratch: FileHandle): Promise<void> {
  const { compression, limits } = layer
  await using child = new LayerChild({
    files: [layer.blob.fd, scratch.fd],
    heap: heapFor(limits, blobSize),
    signal: undefined,
  })
  const task = { purpose: "spans", compression, limits: limitsFor(limits, blobSize) } as const
  await child.begin({ ...task, size: layer.index.length }, patienceFor(blobSize))
  await child.write(layer.index)
  const { error } = await child.finish()
  if (error) throw error
}
