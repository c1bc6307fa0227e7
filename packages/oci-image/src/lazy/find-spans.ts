import { fstatSync, read, readSync } from "node:fs"
import { promisify } from "node:util"
import { type CompressedInput, decompress } from "../layer/decompress.js"
import type { LayerIndex } from "../layer/layer-index.js"
import type { LayerTask } from "../layer/layer-task.js"
import type { Compression } from "../spec/media-types.js"
import { findCheckpoints } from "./checkpoints.js"
import { FileRuns } from "./file-runs.js"
import { SpanCutter } from "./span-cutter.js"
import type { Packing, SpanIndex } from "./span-index.js"

const CHUNK = 256 * 1024
const readFd = promisify(read)
/** What spans of a layer are, by how it is packed. */
const PACKING: Readonly<Record<Compression, Packing>> = { none: "none", gzip: "deflate", zstd: "zstd" }

/** What can be said without looking at the data part. */
export type FoundSpans = Omit<SpanIndex, "dataDigest">

/**
 * Finds where everything of a data part lies in the layer's blob, by decoding the blob once more: what is hostile is done
 * by the process that reads layers.
 *
 * @param blob - descriptor of the blob, from its start
 * @param layer - the layer as it was stored
 * @returns undefined for a layer that can only be read whole: sparse files, gzip blocks or zstd frames of many megabytes
 * @throws ImageError `compression-invalid`, `tar-…`, `limit`
 */
export async function findSpans(
  blob: number,
  { root, dataSize }: LayerIndex,
  { compression, limits }: LayerTask,
): Promise<FoundSpans | undefined> {
  const blobSize = fstatSync(blob).size
  const checkpoints = findCheckpoints(readerOf(blob), compression, blobSize, limits)
  if (!checkpoints) return undefined
  const packing = PACKING[compression]
  const cutter = new SpanCutter(checkpoints, packing)
  const files = new FileRuns(limits)
  for await (const chunk of decompress(new BlobInput(blob), compression, limits)) {
    cutter.push(chunk)
    files.push(chunk)
  }
  const [spans, runs] = [cutter.finish(), files.match(root)]
  return spans && runs && { packing, blobSize, dataSize, spans, runs }
}

function readerOf(fd: number): (into: Uint8Array) => number {
  let position = 0
  return into => {
    const count = readSync(fd, into, 0, into.length, position)
    position += count
    return count
  }
}

class BlobInput implements CompressedInput {
  readonly #fd: number
  bytesRead = 0

  constructor(fd: number) {
    this.#fd = fd
  }

  async next(): Promise<Buffer | undefined> {
    const chunk = Buffer.allocUnsafeSlow(CHUNK)
    const { bytesRead } = await readFd(this.#fd, chunk, 0, CHUNK, this.bytesRead)
    this.bytesRead += bytesRead
    return bytesRead > 0 ? chunk.subarray(0, bytesRead) : undefined
  }
}
