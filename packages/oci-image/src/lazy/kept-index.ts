import { type FileHandle, mkdir, open, readFile, rm } from "node:fs/promises"
import { join } from "node:path"
import { checkDigest, type Digest } from "../digest.js"
import { ioError, isImageError } from "../errors.js"
import { decodeLayerIndex, type LayerIndex } from "../layer/layer-index.js"
import { checkLimit, type ImageLimits } from "../limits.js"
import type { LayerDescriptor } from "../spec/manifest.js"
import { exists } from "../store/context.js"
import { type StoreFolder, writeSynced } from "../store/folder.js"
import { readPartIndex } from "../store/parts.js"
import { buildSpanIndex, type WholeLayer } from "./build-span-index.js"
import { decodeSpanIndex, encodeSpanIndex, type SpanIndex } from "./span-index.js"

/** Largest file that is read back. */
const FILE_MAX = 1024 * 1024 * 1024
/** Spans that a start asks for at most, remembered. */
const START_MAX = 10_000

/** A layer that one can begin with while it is not there. */
export interface KeptIndex {
  readonly layer: LayerIndex
  readonly spans: SpanIndex
  /** Numbers of the spans that the last start needed, in order. */
  readonly start: readonly number[]
}

/**
 * Makes and keeps the index of a layer whose part and blob are in the store, unless it is kept already.
 *
 * @returns false for a layer that can only be read whole
 * @throws ImageError `io`, and what reading the layer throws
 */
export async function keepIndex(
  folder: StoreFolder,
  { digest, compression }: LayerDescriptor,
  diffId: Digest,
  limits: ImageLimits,
): Promise<boolean> {
  if (await exists(folder.lazy(digest, "spans"))) return true
  // Proven to be of the layer that the image means.
  await readPartIndex(folder, digest, diffId)
  const temporary = folder.temporary()
  try {
    await mkdir(temporary, { mode: 0o700 })
    const index = await readFile(folder.part(digest, "index"))
    const spans = await findIndex(folder, digest, { index, compression, limits }, join(temporary, "scratch"))
    if (!spans) return false
    await writeSynced(join(temporary, "index"), index)
    await writeSynced(join(temporary, "spans"), encodeSpanIndex(spans))
    await folder.publishFolder(temporary, folder.lazy(digest))
    return true
  } catch (error) {
    throw (error as NodeJS.ErrnoException).syscall
      ? ioError(error, "cannot keep the index of a layer")
      : error
  } finally {
    await rm(temporary, { recursive: true, force: true })
  }
}

async function findIndex(
  folder: StoreFolder,
  digest: Digest,
  layer: Omit<WholeLayer, "blob" | "data">,
  scratchPath: string,
): Promise<SpanIndex | undefined> {
  const files: FileHandle[] = []
  const opened = async (path: string, flags: string) => {
    const file = await open(path, flags, 0o600)
    files.push(file)
    return file
  }
  try {
    const blob = await opened(folder.blob(digest), "r")
    const data = await opened(folder.part(digest, "data"), "r")
    return await buildSpanIndex({ ...layer, blob, data }, await opened(scratchPath, "wx+"))
  } finally {
    for (const file of files) await file.close()
    await rm(scratchPath, { force: true })
  }
}

/**
 * Reads what is kept of a layer.
 *
 * @param diffId - what the image says the layer's tar stream is
 * @param blobSize - what it says of the blob, in bytes
 * @returns undefined when nothing is, or what is there is damaged or of another version
 * @throws ImageError `io`
 */
export async function readKeptIndex(
  folder: StoreFolder,
  digest: Digest,
  diffId: Digest,
  blobSize: number,
): Promise<KeptIndex | undefined> {
  const [index, spans] = await Promise.all([
    readIfThere(folder.lazy(digest, "index")),
    readIfThere(folder.lazy(digest, "spans")),
  ])
  if (!index || !spans) return undefined
  try {
    const kept = { layer: decodeLayerIndex(index), spans: decodeSpanIndex(spans) }
    checkDigest(`unpacked layer ${digest}`, diffId, kept.layer.diffId)
    const isSame = kept.spans.blobSize === blobSize && kept.spans.dataSize === kept.layer.dataSize
    return isSame ? { ...kept, start: await readStart(folder, digest) } : undefined
  } catch (error) {
    if (isImageError(error) && error.code !== "io") return undefined
    throw error
  }
}

/** Remembers which spans a start needed. What is not written in time is not missed. */
export async function keepStart(
  folder: StoreFolder,
  digest: Digest,
  spans: readonly number[],
): Promise<void> {
  const bytes = Buffer.from(Uint32Array.from(spans.slice(0, START_MAX)).buffer)
  if (await exists(folder.lazy(digest))) await folder.replaceFile(folder.lazy(digest, "start"), bytes, false)
}

/** Numbers that are none are left out by whoever fetches; one of another machine's byte order would be. */
async function readStart(folder: StoreFolder, digest: Digest): Promise<number[]> {
  const bytes = await readIfThere(folder.lazy(digest, "start"))
  if (!bytes) return []
  const count = Math.min(START_MAX, bytes.length >> 2)
  return Array.from({ length: count }, (_, i) => bytes.readUInt32LE(4 * i))
}

async function readIfThere(path: string): Promise<Buffer | undefined> {
  try {
    const file = await open(path, "r")
    try {
      checkLimit("layerBytes", (await file.stat()).size, FILE_MAX, "size of a kept index")
      return await file.readFile()
    } finally {
      await file.close()
    }
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined
    throw ioError(error, "cannot read the image store")
  }
}
