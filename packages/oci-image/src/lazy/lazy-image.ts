import { createHash } from "node:crypto"
import { type FileHandle, mkdir, open, readFile, rename, rm } from "node:fs/promises"
import { join } from "node:path"
import { checkDigest, type Digest, digestHex, finishDigest } from "../digest.js"
import { ioError } from "../errors.js"
import { isPartOf } from "../layer/layer-header.js"
import { readRange } from "../sources/beneath.js"
import type { BlobSource } from "../sources/blob.js"
import type { FoundImage } from "../sources/source.js"
import type { ConfigDocument, ImageConfig } from "../spec/config.js"
import type { StoreContext } from "../store/context.js"
import { writeSynced } from "../store/folder.js"
import { mergeImage, metadataPieces } from "../store/make-image.js"
import { partHeader, readPartIndex } from "../store/parts.js"
import { type KeptIndex, keepStart, readKeptIndex } from "./kept-index.js"
import { LazyPart } from "./lazy-part.js"
import { restingFetch } from "./resting-fetch.js"

/** A file of the disk; of one that arrives as it is needed, `prepare` comes before reading. */
export interface LazyDiskPart {
  readonly path: string
  /** Bytes: a multiple of 4096. */
  readonly size: number
  prepare?(offset: number, length: number): Promise<void> | undefined
}

/** A layer on its way. */
interface LazyLayer {
  readonly digest: Digest
  readonly part: LazyPart
  readonly file: FileHandle
  readonly blob: FileHandle | undefined
  readonly folder: string
  readonly kept: KeptIndex
}

/**
 * An image that one can begin with before it is there: its tree is known from an earlier time, its content is fetched
 * as it is needed. What arrives is this object's alone, until all is there: then it is put into the store.
 */
export class LazyImage implements AsyncDisposable {
  readonly digest: Digest
  readonly configDigest: Digest
  readonly config: ImageConfig
  readonly #context: StoreContext
  readonly #temporary: string
  readonly #layers: readonly LazyLayer[]
  readonly #disk: readonly LazyDiskPart[]

  private constructor(
    context: StoreContext,
    { digest, manifest }: FoundImage,
    { config }: ConfigDocument,
    {
      temporary,
      layers,
      disk,
    }: { temporary: string; layers: readonly LazyLayer[]; disk: readonly LazyDiskPart[] },
  ) {
    this.digest = digest
    this.configDigest = manifest.config.digest
    this.config = config
    this.#context = context
    this.#temporary = temporary
    this.#layers = layers
    this.#disk = disk
  }

  /**
   * Opens an image whose layers are all in the store or known from an earlier time.
   *
   * @returns undefined when one is not, or the source cannot give parts of blobs
   * @throws ImageError `io`, `limit`
   */
  static async open(
    context: StoreContext,
    image: FoundImage,
    document: ConfigDocument,
  ): Promise<LazyImage | undefined> {
    const kept = await keptLayers(context, image, document)
    if (!kept || !image.blobs.range) return undefined
    const temporary = context.folder.temporary()
    const opened: LazyLayer[] = []
    try {
      await mkdir(temporary, { mode: 0o700 })
      const merged = await mergeImage(image, document, context.limits, (digest, diffId) => {
        const known = kept.get(digest)
        return known ? Promise.resolve(known.layer) : readPartIndex(context.folder, digest, diffId)
      })
      // Content that is not there cannot be compared: nothing is shared until the image is loaded.
      await writeSynced(join(temporary, "metadata"), metadataPieces(image, merged))
      for (const [digest, known] of kept)
        opened.push(await openLayer(context, temporary, digest, known, image))
      const disk = await diskOf(context, temporary, merged.parts, opened)
      return new LazyImage(context, image, document, { temporary, layers: opened, disk })
    } catch (error) {
      for (const { file, blob } of opened) await Promise.all([file.close(), blob?.close()])
      await rm(temporary, { recursive: true, force: true })
      throw (error as NodeJS.ErrnoException).syscall
        ? ioError(error, "cannot write to the image store")
        : error
    }
  }

  /** Whether everything has been fetched. */
  get isWhole(): boolean {
    return this.#layers.every(({ part }) => part.isWhole)
  }

  /** Bytes of blobs that were fetched so far. */
  get bytesFetched(): number {
    return this.#layers.reduce((sum, { part }) => sum + part.bytesFetched, 0)
  }

  /** The EROFS disk: these files in this order as one block device. */
  disk(): { readonly parts: readonly LazyDiskPart[]; readonly size: number } {
    return { parts: this.#disk, size: this.#disk.reduce((sum, { size }) => sum + size, 0) }
  }

  /** Fetches what the last start needed. */
  async fillStart(signal?: AbortSignal): Promise<void> {
    await Promise.all(this.#layers.map(({ part, kept }) => part.fill(kept.start, signal)))
  }

  /**
   * Fetches all that is missing, and puts the layers into the store; then the image can be loaded without reading it.
   *
   * @throws ImageError what fetching throws, `digest-mismatch`, `io`; the signal's reason
   */
  async fill(signal?: AbortSignal): Promise<void> {
    for (const layer of this.#layers) {
      await layer.part.fill(undefined, signal)
      await layer.part.finish()
      if (layer.blob) checkDigest("layer", layer.digest, await digestOfFile(layer.blob))
    }
    for (const layer of this.#layers) await this.#publish(layer)
  }

  /** The file stays open and is read on by whoever has it. */
  async #publish({ digest, file, blob, folder: from }: LazyLayer): Promise<void> {
    const { folder } = this.#context
    try {
      // As it was kept: merging has left its marks on the tree in memory.
      await writeSynced(join(from, "index"), await readFile(folder.lazy(digest, "index")))
      await file.sync()
      await blob?.sync()
      if (blob) await rename(join(from, "blob"), folder.blob(digest))
    } catch (error) {
      throw ioError(error, "cannot write to the image store")
    }
    await folder.publishFolder(from, folder.part(digest))
  }

  /** Remembers what was needed, ends what is on its way, and deletes what did not get into the store. */
  async [Symbol.asyncDispose](): Promise<void> {
    for (const { digest, part, file, blob } of this.#layers) {
      part.close()
      if (part.spansWanted.length > 0)
        await keepStart(this.#context.folder, digest, part.spansWanted).catch(() => undefined)
      await file.close()
      await blob?.close()
    }
    await rm(this.#temporary, { recursive: true, force: true })
  }
}

/** Layers that are not in the store, with what is kept of them; undefined when nothing is kept of one. */
async function keptLayers(
  { folder }: StoreContext,
  image: FoundImage,
  { diffIds }: ConfigDocument,
): Promise<Map<Digest, KeptIndex> | undefined> {
  const kept = new Map<Digest, KeptIndex>()
  const { layers } = image.manifest
  const digests = layers.map(layer => layer.digest)
  for (const [i, { digest, size }] of layers.entries()) {
    const there = kept.has(digest) ? undefined : await partHeader(folder, digest)
    if (kept.has(digest) || (there && isPartOf(there, digests))) continue
    const index = await readKeptIndex(folder, digest, diffIds[i] as Digest, size)
    if (!index || !isPartOf(index.layer, digests)) return undefined
    kept.set(digest, index)
  }
  return kept
}

async function openLayer(
  { keepBlobs }: StoreContext,
  temporary: string,
  digest: Digest,
  kept: KeptIndex,
  { manifest, blobs }: FoundImage,
): Promise<LazyLayer> {
  const folder = join(temporary, digestHex(digest))
  await mkdir(folder, { mode: 0o700 })
  const layer = manifest.layers.find(one => one.digest === digest)
  const range = blobs.range?.bind(blobs) as NonNullable<BlobSource["range"]>
  const fetch = restingFetch((from, to, signal) =>
    range({ digest, size: layer?.size ?? 0 }, from, to, signal),
  )
  const file = await open(join(folder, "data"), "wx+", 0o600)
  let blob: FileHandle | undefined
  try {
    blob = keepBlobs ? await open(join(folder, "blob"), "wx+", 0o600) : undefined
    const part = await LazyPart.create({ index: kept.spans, fetch, file, blob })
    return { digest, kept, folder, file, blob, part }
  } catch (error) {
    await file.close()
    await blob?.close()
    throw error
  }
}

async function diskOf(
  { folder }: StoreContext,
  temporary: string,
  parts: readonly { readonly digest: Digest; readonly size: number }[],
  layers: readonly LazyLayer[],
): Promise<LazyDiskPart[]> {
  const metadata = join(temporary, "metadata")
  const file = await open(metadata)
  const { size } = await file.stat().finally(() => file.close())
  const data = parts.map(({ digest, size: partSize }): LazyDiskPart => {
    const lazy = layers.find(layer => layer.digest === digest)
    if (!lazy) return { path: folder.part(digest, "data"), size: partSize }
    return {
      path: join(lazy.folder, "data"),
      size: partSize,
      prepare: (at, length) => lazy.part.prepare(at, length),
    }
  })
  return [{ path: metadata, size }, ...data]
}

async function digestOfFile(file: FileHandle): Promise<Digest> {
  const hash = createHash("sha256")
  for await (const chunk of readRange(file, 0, Number.POSITIVE_INFINITY)) hash.update(chunk)
  return finishDigest(hash)
}
