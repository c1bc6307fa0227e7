import { type FileHandle, mkdir, open, rename, rm, stat } from "node:fs/promises"
import { join } from "node:path"
import { checkDigest, type Digest } from "../digest.js"
import { ImageError, ioError } from "../errors.js"
import {
  decodeLayerIndex,
  encodeLayerIndex,
  LAYER_INDEX_HEADER_SIZE,
  type LayerIndex,
  layerDataSize,
} from "../layer/layer-index.js"
import { PartWriter } from "../layer/part-writer.js"
import { readLayer } from "../layer/read-layer.js"
import { checkLimit, type ImageLimits } from "../limits.js"
import { type BlobSource, VerifiedBlob } from "../sources/blob.js"
import type { LayerDescriptor } from "../spec/manifest.js"
import { type StoreFolder, writeSynced } from "./folder.js"

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
}

/** Largest index that is read back: what `entries` records of the longest names can need stays far below. */
const INDEX_MAX = 1024 * 1024 * 1024

/**
 * Turns one layer into its data part and index, and publishes both under the layer's digest, in one step and
 * only after everything was proven.
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
  const { layer, limits, signal } = options
  const data = await open(join(temporary, "data"), "wx", 0o600)
  let copy: FileHandle | undefined
  try {
    copy = blobFile ? await open(blobFile, "wx", 0o600) : undefined
    const part = new PartWriter(data)
    const blob = new VerifiedBlob(options.blobs, layer, "layer", signal)
    const tee = async (chunk: Buffer) => {
      options.onBytes?.(blob.bytesRead)
      await copy?.writeFile(chunk)
    }
    const { diffId, root } = await readLayer({ blob, compression: layer.compression, part, limits, tee })
    checkDigest(`unpacked layer ${layer.digest}`, options.diffId, diffId)
    const index = encodeLayerIndex({ diffId, dataSize: part.size, root })
    await Promise.all([writeSynced(join(temporary, "index"), index), data.sync(), copy?.sync()])
  } finally {
    await data.close()
    await copy?.close()
  }
}

/** Whether a part is there with all its bytes; one that lost some in a power cut has to be made again. */
export async function isPartWhole(folder: StoreFolder, digest: Digest): Promise<boolean> {
  const data = await stat(folder.part(digest, "data")).catch(() => undefined)
  const file = data && (await open(folder.part(digest, "index")).catch(() => undefined))
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
    checkLimit("layerBytes", (await file.stat()).size, INDEX_MAX, "size of a layer index")
    const index = decodeLayerIndex(await file.readFile())
    checkDigest(`unpacked layer ${digest}`, diffId, index.diffId)
    return index
  } finally {
    await file.close()
  }
}
