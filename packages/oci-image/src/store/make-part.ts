import { mkdir, open, readFile, rename, rm } from "node:fs/promises"
import { join } from "node:path"
import { checkDigest, type Digest } from "../digest.js"
import { ImageError, ioError } from "../errors.js"
import { decodeLayerIndex, encodeLayerIndex, type LayerIndex } from "../layer/layer-index.js"
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
  const copy = blobFile ? await open(blobFile, "wx", 0o600) : undefined
  try {
    const part = new PartWriter(data)
    const blob = new VerifiedBlob(options.blobs, layer, "layer", signal)
    const tee = async (chunk: Buffer) => {
      options.onBytes?.(blob.bytesRead)
      await copy?.writeFile(chunk)
    }
    const { diffId, root } = await readLayer({ blob, compression: layer.compression, part, limits, tee })
    checkDigest(`unpacked layer ${layer.digest}`, options.diffId, diffId)
    await writeSynced(join(temporary, "index"), encodeLayerIndex({ diffId, dataSize: part.size, root }))
    await data.sync()
    await copy?.sync()
  } finally {
    await data.close()
    await copy?.close()
  }
}

/**
 * Reads a part's index back.
 *
 * @returns undefined when the part is not there
 * @throws ImageError `index-corrupt`, `digest-mismatch`, `limit`
 */
export async function readPartIndex(
  folder: StoreFolder,
  digest: Digest,
  diffId: Digest,
): Promise<LayerIndex | undefined> {
  const path = folder.part(digest, "index")
  const file = await open(path).catch(error => {
    if (error.code === "ENOENT") return undefined
    throw ioError(error, "cannot read the image store")
  })
  if (!file) return undefined
  try {
    checkLimit("layerBytes", (await file.stat()).size, INDEX_MAX, "size of a layer index")
    const index = decodeLayerIndex(await readFile(file))
    checkDigest(`unpacked layer ${digest}`, diffId, index.diffId)
    await checkDataSize(folder, digest, index.dataSize)
    return index
  } finally {
    await file.close()
  }
}

async function checkDataSize(folder: StoreFolder, digest: Digest, expected: number): Promise<void> {
  const data = await open(folder.part(digest, "data"))
  try {
    const { size: actual } = await data.stat()
    if (actual === expected) return
    throw new ImageError(
      "store-corrupt",
      `data part of layer ${digest} has ${actual} bytes, not ${expected}`,
      { expected, actual },
    )
  } finally {
    await data.close()
  }
}
