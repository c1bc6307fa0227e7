import { mkdir, open, rm } from "node:fs/promises"
import { join } from "node:path"
import type { Digest } from "../digest.js"
import { ImageError, ioError, isImageError } from "../errors.js"
import type { FoundImage } from "../sources/source.js"
import type { ConfigDocument, ImageConfig } from "../spec/config.js"
import type { StoreContext } from "../store/context.js"
import { writeSynced } from "../store/folder.js"
import { type MergedImage, mergeImage, metadataPieces } from "../store/make-image.js"
import { readPartIndex } from "../store/parts.js"
import type { LazyBasis } from "./known-layer.js"
import { type FoundLayer, type KnowOptions, knownLayers } from "./known-layers.js"
import { LazyLayer } from "./lazy-layer.js"

/** A file of the disk; of one that arrives as it is needed, `prepare` comes before reading. */
export interface LazyDiskPart {
  readonly path: string
  /** Bytes: a multiple of 4096. */
  readonly size: number
  prepare?(offset: number, length: number): Promise<void> | undefined
}

/**
 * An image that one can begin with before it is there: its tree is known from an earlier time or from its layers' tables
 * of contents, its content is fetched as it is needed. What arrives is this object's alone, until all is there: then it
 * is put into the store.
 */
export class LazyImage implements AsyncDisposable {
  readonly digest: Digest
  readonly configDigest: Digest
  readonly config: ImageConfig
  readonly #temporary: string
  readonly #layers: readonly LazyLayer[]
  readonly #disk: readonly LazyDiskPart[]

  private constructor(
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
    this.#temporary = temporary
    this.#layers = layers
    this.#disk = disk
  }

  /**
   * Opens an image whose layers are all in the store, or known from an earlier time or by their tables of contents.
   *
   * @returns undefined when one is not, or the source cannot give parts of blobs
   * @throws ImageError `io`, `limit`; the signal's reason
   */
  static async open(
    context: StoreContext,
    image: FoundImage,
    document: ConfigDocument,
    options: KnowOptions,
  ): Promise<LazyImage | undefined> {
    const temporary = context.folder.temporary()
    const layers: LazyLayer[] = []
    let opened: LazyImage | undefined
    try {
      await mkdir(temporary, { mode: 0o700 })
      const found = await knownLayers(context, image, document, temporary, options)
      const merged = found && (await mergeKnown(context, image, document, found, options))
      if (!found || !merged) return undefined
      // Content that is not there cannot be compared: nothing is shared until the image is loaded.
      await writeSynced(join(temporary, "metadata"), metadataPieces(image, merged))
      for (const one of found) layers.push(await LazyLayer.open({ context, ...one }))
      const disk = await diskOf(context, temporary, merged.parts, layers)
      opened = new LazyImage(image, document, { temporary, layers, disk })
      for (const [layer, by] of opened.bases) options.onLayer?.({ layer, by })
      return opened
    } catch (error) {
      throw (error as NodeJS.ErrnoException).syscall
        ? ioError(error, "cannot write to the image store")
        : error
    } finally {
      if (!opened) {
        for (const layer of layers) await layer[Symbol.asyncDispose]()
        await rm(temporary, { recursive: true, force: true })
      }
    }
  }

  /** Where one knows from what is in the layers that are on their way, by their digests. */
  get bases(): ReadonlyMap<Digest, LazyBasis> {
    return new Map(this.#layers.map(({ digest, known }) => [digest, known.by]))
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
    await Promise.all(this.#layers.map(({ part, known }) => part.fill(known.start, signal)))
  }

  /**
   * Fetches all that is missing, and puts the layers into the store; then the image can be loaded without reading it. A
   * layer that is known by its table of contents is proven only now: by its digest, by that of its tar stream, and by
   * comparing both.
   *
   * @throws ImageError what fetching throws, `io`; `digest-mismatch`, `toc-disagrees` and what reading a layer throws for
   * one that is not what it was said to be, which is not put into the store; the signal's reason
   */
  async fill(signal?: AbortSignal): Promise<void> {
    for (const layer of this.#layers) await layer.complete(signal)
    for (const layer of this.#layers) await layer.publish(signal)
  }

  /** Remembers what was needed, ends what is on its way, and deletes what did not get into the store. */
  async [Symbol.asyncDispose](): Promise<void> {
    for (const layer of this.#layers) await layer[Symbol.asyncDispose]()
    await rm(this.#temporary, { recursive: true, force: true })
  }
}

/**
 * The image's disk. Layers that do not fit together are told by whoever loads the image; a table of contents may have
 * made it up.
 *
 * @returns undefined when they do not
 */
async function mergeKnown(
  { folder, limits }: StoreContext,
  image: FoundImage,
  document: ConfigDocument,
  found: readonly FoundLayer[],
  { onLayer }: KnowOptions,
): Promise<MergedImage | undefined> {
  const known = new Map(found.map(one => [one.layer.digest, one]))
  try {
    return await mergeImage(image, document, limits, async (digest, diffId) => {
      return known.get(digest)?.known.layer ?? (await readPartIndex(folder, digest, diffId))
    })
  } catch (error) {
    const table = found.find(({ known: { by } }) => by !== "kept-index")
    if (!table || !isImageError(error) || error.code === "io") throw error
    const what = `tables of contents do not fit together: ${error.message}`
    const reason = new ImageError("toc-invalid", what, {}, { cause: error })
    onLayer?.({ layer: table.layer.digest, by: "whole", reason })
    return undefined
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
      path: lazy.path,
      size: partSize,
      prepare: (at, length) => lazy.part.prepare(at, length),
    }
  })
  return [{ path: metadata, size }, ...data]
}
