import { type FileHandle, open, rename, rm, stat } from "node:fs/promises"
import { join } from "node:path"
import { checkDigest, type Digest } from "../digest.js"
import { ImageError, ioError, isImageError } from "../errors.js"
import { decodeLayerHeader, LAYER_HEADER_MAX, type LayerHeader } from "../layer/layer-header.js"
import { decodeLayerIndex, type LayerIndex } from "../layer/layer-index.js"
import { checkLimit } from "../limits.js"
import { exists } from "./context.js"
import type { StoreFolder } from "./folder.js"

/** Largest index that is read back: what a million records of the longest names need stays below. */
const INDEX_MAX = 512 * 1024 * 1024

/** A file that cannot be looked at is no missing one: a good part would be made again, and taken away for it. */
function ignoreMissing(error: NodeJS.ErrnoException): undefined {
  if (error.code !== "ENOENT") throw ioError(error, "cannot read the image store")
}

/**
 * The header of a part that is there with all its bytes; one that lost some in a power cut has to be made again.
 *
 * @returns undefined when it is not, or is of another version
 * @throws ImageError `io` when it cannot be told
 */
export async function partHeader(folder: StoreFolder, digest: Digest): Promise<LayerHeader | undefined> {
  const data = await stat(folder.part(digest, "data")).catch(ignoreMissing)
  const file = data && (await open(folder.part(digest, "index")).catch(ignoreMissing))
  if (!file) return undefined
  try {
    const { buffer, bytesRead } = await file.read(Buffer.alloc(LAYER_HEADER_MAX), 0, LAYER_HEADER_MAX, 0)
    const header = headerOf(buffer.subarray(0, bytesRead))
    return header?.dataSize === data.size ? header : undefined
  } finally {
    await file.close()
  }
}

function headerOf(bytes: Buffer): LayerHeader | undefined {
  try {
    return decodeLayerHeader(bytes)
  } catch (error) {
    if (isImageError(error)) return undefined
    throw error
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

/** Reads an index from its open file. @throws ImageError as {@link readPartIndex} does */
export async function readIndex(
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

/**
 * Moves a finished part, whose files are synced, to its place. One that is there already gives way file by file, so that
 * images which use it never miss it: its data first, because only a part with its new index counts as the new one.
 */
export async function publishPart(folder: StoreFolder, temporary: string, digest: Digest): Promise<void> {
  if (!(await exists(folder.part(digest)))) return folder.publishFolder(temporary, folder.part(digest))
  for (const name of ["data", "index"] as const)
    await rename(join(temporary, name), folder.part(digest, name))
  await rm(temporary, { recursive: true, force: true })
}
