import { type FileHandle, mkdir, open, rename, rm, stat } from "node:fs/promises"
import { join } from "node:path"
import { checkDigest, type Digest } from "../digest.js"
import { ImageError, ioError } from "../errors.js"
import {
  decodeLayerIndex,
  LAYER_INDEX_HEADER_SIZE,
  type LayerIndex,
  layerDataSize,
} from "../layer/layer-index.js"
import { readLayerApart } from "../layer/read-layer-apart.js"
import { checkLimit, type ImageLimits } from "../limits.js"
import { type BlobSource, VerifiedBlob } from "../sources/blob.js"
import type { LayerDescriptor } from "../spec/manifest.js"
import type { StoreFolder } from "./folder.js"

/** What making one layer's part needs. */
export interface MakePartOptions {
  readonly folder: StoreFolder
  readonly blobs: BlobSource
  readonly layer: LayerDescriptor
  /** What the image's config says the unpacked layer's digest is. */
  readonly diffId: Digest
  readonly limits: ImageLimits
  /** Whether the layer's blob is stored too. */
  readonly keepBlob: boolean
  readonly signal?: AbortSignal | undefined
  /** Sees compressed bytes read so far. */
  readonly onBytes?: (done: number) => void
  /** Sees how many bytes of memory the process that read the layer had at most, unless it died. */
  readonly onPeakMemory?: (bytes: number) => void
}

/** Largest index that is read back: what a million records of the longest names need stays below. */
const INDEX_MAX = 512 * 1024 * 1024

/**
 * Turns one layer into its data part and index, and publishes both under the layer's digest, in one step and
 * only after everything was proven. The layer is decoded in a process of its own.
 */
export async function makePart(options: MakePartOptions): Promise<void> {
  const { folder, layer } = options
  const temporary = folder.temporary()
  try {
    await mkdir(temporary, { mode: 0o700 })
    const blobFile = options.keepBlob ? join(temporary, "blob") : undefined
    await writePart(options, temporary, blobFile)
    if (blobFile) await rename(blobFile, folder.blob(layer.digest))
    await folder.publishFolder(temporary, folder.part(layer.digest))
  } catch (error) {
    await rm(temporary, { recursive: true, force: true })
    throw (error as NodeJS.ErrnoException).syscall ? ioError(error, "cannot write to the image store") : error
  }
}

async function writePart(
  options: MakePartOptions,
  temporary: string,
  blobFile: string | undefined,
): Promise<void> {
  const files: FileHandle[] = []
  const create = async (path: string) => {
    const file = await open(path, "wx+", 0o600)
    files.push(file)
    return file
  }
  try {
    const data = await create(join(temporary, "data"))
    const index = await create(join(temporary, "index"))
    const copy = blobFile ? await create(blobFile) : undefined
    await fillPart(options, data, index, copy)
    await checkPart(options, data, index)
    await Promise.all(files.map(file => file.sync()))
  } finally {
    for (const file of files) await file.close()
  }
}

async function fillPart(
  options: MakePartOptions,
  data: FileHandle,
  index: FileHandle,
  copy: FileHandle | undefined,
): Promise<void> {
  const { blobs, layer, limits, signal, onPeakMemory } = options
  const blob = new VerifiedBlob(blobs, layer, "layer", signal)
  const tee = async (chunk: Buffer) => {
    options.onBytes?.(blob.bytesRead)
    await copy?.writeFile(chunk)
  }
  const task = { compression: layer.compression, limits }
  await readLayerApart({ blob, size: layer.size, task, data, index, signal, tee, onPeakMemory })
}

/** The files come from a process that read hostile content: nothing about them is taken for granted. */
async function checkPart(
  { layer, diffId, limits }: MakePartOptions,
  data: FileHandle,
  index: FileHandle,
): Promise<void> {
  // The tree has as many files as it may have entries, the stream twice as many headers that may be hard links.
  const claimed = await readIndex(index, layer.digest, diffId, 3 * limits.entries)
  const { size } = await data.stat()
  if (size !== claimed.dataSize) {
    const what = `data of layer ${layer.digest} has another size than its index says`
    throw new ImageError("layer-process", what, { size, expected: claimed.dataSize })
  }
}

/** A file that cannot be looked at is no missing one: a good part would be made again, and taken away for it. */
function ignoreMissing(error: NodeJS.ErrnoException): undefined {
  if (error.code !== "ENOENT") throw ioError(error, "cannot read the image store")
}

/**
 * Whether a part is there with all its bytes; one that lost some in a power cut has to be made again.
 *
 * @throws ImageError `io` when it cannot be told
 */
export async function isPartWhole(folder: StoreFolder, digest: Digest): Promise<boolean> {
  const data = await stat(folder.part(digest, "data")).catch(ignoreMissing)
  const file = data && (await open(folder.part(digest, "index")).catch(ignoreMissing))
  if (!file) return false
  try {
    const { buffer, bytesRead } = await file.read(
      Buffer.alloc(LAYER_INDEX_HEADER_SIZE),
      0,
      LAYER_INDEX_HEADER_SIZE,
      0,
    )
    return bytesRead === LAYER_INDEX_HEADER_SIZE && layerDataSize(buffer) === data.size
  } finally {
    await file.close()
  }
}

/**
 * Reads a part's index back.
 *
 * @param diffId - what the image says the layer's tar stream is
 * @throws ImageError `store-corrupt` when it is not there, `index-corrupt`, `digest-mismatch`, `limit`
 */
export async function readPartIndex(
  folder: StoreFolder,
  digest: Digest,
  diffId: Digest,
): Promise<LayerIndex> {
  const file = await open(folder.part(digest, "index")).catch(cause => {
    throw new ImageError("store-corrupt", `data part of layer ${digest} is gone`, { digest }, { cause })
  })
  try {
    return await readIndex(file, digest, diffId)
  } finally {
    await file.close()
  }
}

async function readIndex(
  file: FileHandle,
  digest: Digest,
  diffId: Digest,
  maxRecords?: number,
): Promise<LayerIndex> {
  const { size } = await file.stat()
  checkLimit("layerBytes", size, INDEX_MAX, "size of a layer index")
  const bytes = Buffer.allocUnsafe(size)
  const { bytesRead } = await file.read(bytes, 0, size, 0)
  const index = decodeLayerIndex(bytes.subarray(0, bytesRead), maxRecords)
  checkDigest(`unpacked layer ${digest}`, diffId, index.diffId)
  return index
}
