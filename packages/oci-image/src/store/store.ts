import { access, readdir, rm } from "node:fs/promises"
import { resolve } from "node:path"
import { type Digest, digestHex, parseDigest } from "../digest.js"
import { ImageError, ioError, printable } from "../errors.js"
import { DEFAULT_LIMITS, type ImageLimits } from "../limits.js"
import { normalizeName } from "../references.js"
import { openSource } from "../sources/open.js"
import {
  type FoundImage,
  type ImageSource,
  type ResolveOptions,
  readFoundConfig,
  readFoundImage,
} from "../sources/source.js"
import { hostPlatform, type Platform } from "../spec/platform.js"
import { StoreFolder } from "./folder.js"
import { FolderCache } from "./folder-cache.js"
import { Leases } from "./leases.js"
import { makeImage } from "./make-image.js"
import { isPartWhole, makePart } from "./make-part.js"
import { ImageNames, readRecords, refreshIndex } from "./names.js"
import { packToLayout } from "./pack-source.js"
import { type ImageRecord, readRecord, StoredImage } from "./stored-image.js"

/** How a store is opened. */
export interface StoreOptions {
  /** Overrides of {@link DEFAULT_LIMITS}. */
  readonly limits?: Partial<ImageLimits>
  /** Whether layers' blobs are stored besides their parts, so that other tools can read the store. Default true. */
  readonly keepBlobs?: boolean
}

/** How far a load is. */
export interface LoadProgress {
  /** Digest of the layer being read. */
  readonly layer: Digest
  /** Its position, from 0, and how many there are. */
  readonly position: number
  readonly layers: number
  /** Bytes of its blob read, and in all. */
  readonly done: number
  readonly total: number
}

/** How an image is loaded. */
export interface LoadOptions {
  /** Name to give the image, `latest` unless it has a tag. Names inside the content are never used. */
  readonly name?: string
  /** Which image of an index. Default: Linux on this processor. */
  readonly platform?: Platform
  readonly signal?: AbortSignal
  readonly onProgress?: (progress: LoadProgress) => void
}

/** An image in a list. */
export interface ImageEntry {
  readonly image: StoredImage
  /** Its names, sorted; none for one that was loaded without. */
  readonly names: readonly string[]
}

/**
 * A folder of images, shared by any number of processes. Every file in it is content-addressed or replaced
 * whole, so a process may be killed at any point.
 *
 * @example
 * ```ts
 * const store = await ImageStore.open("/var/lib/images")
 * const image = await store.load("oci:./debian:12", { name: "debian:12" })
 * console.log(image.config.env, image.disk().size)
 * ```
 */
export class ImageStore {
  readonly #folder: StoreFolder
  readonly #leases: Leases
  readonly #names: ImageNames
  readonly #limits: ImageLimits
  readonly #keepBlobs: boolean

  private constructor(path: string, options: StoreOptions) {
    this.#folder = new StoreFolder(path)
    this.#leases = new Leases(this.#folder.top("leases"))
    this.#names = new ImageNames(this.#folder)
    this.#limits = { ...DEFAULT_LIMITS, ...options.limits }
    this.#keepBlobs = options.keepBlobs ?? true
  }

  /** Bounds this store applies. */
  get limits(): ImageLimits {
    return this.#limits
  }

  /**
   * Opens a store, making its folder where there is none, and removes what dead processes left behind.
   *
   * @throws ImageError `io`
   */
  static async open(path: string, options: StoreOptions = {}): Promise<ImageStore> {
    const store = new ImageStore(resolve(path), options)
    await store.#prepare()
    return store
  }

  async #prepare(): Promise<void> {
    try {
      await this.#folder.prepare()
      if (await exists(this.#folder.top("oci-layout"))) return
      await refreshIndex(this.#folder, this.#names)
      await this.#folder.replaceFile(
        this.#folder.top("oci-layout"),
        JSON.stringify({ imageLayoutVersion: "1.0.0" }),
      )
    } catch (error) {
      throw ioError(error, "cannot open the image store")
    }
  }

  /**
   * Loads an image, unless it is there already; then this only sets its name.
   *
   * @param source - `oci:DIR[:TAG]`, `oci-archive:FILE[:TAG]`, `docker-archive:FILE[:TAG]`, `rootfs:DIR`, a path,
   * or a source of your own (it stays open)
   * @throws ImageError every code there is, except `not-found` for a name; the signal's reason
   */
  async load(source: string | ImageSource, options: LoadOptions = {}): Promise<StoredImage> {
    const name = options.name === undefined ? undefined : normalizeName(options.name)
    const lease = await this.#leases.load(options.signal)
    try {
      const record =
        typeof source === "string" ? await this.#loadText(source, options) : await this.#load(source, options)
      if (name !== undefined) await this.#name(name, record.digest)
      return new StoredImage(this.#folder, record)
    } finally {
      await lease[Symbol.asyncDispose]()
    }
  }

  async #loadText(text: string, options: LoadOptions): Promise<ImageRecord> {
    const opened = await openSource(text, this.#limits)
    if ("rootfs" in opened) return this.#loadFolder(opened.rootfs, options)
    try {
      return await this.#load(opened.image, options)
    } finally {
      await opened.image[Symbol.asyncDispose]()
    }
  }

  async #loadFolder(rootfs: string, options: LoadOptions): Promise<ImageRecord> {
    const cache = await FolderCache.look(this.#folder, rootfs, options.platform ?? hostPlatform())
    const digest = await cache.get()
    const known = digest && (await readRecord(this.#folder, digest))
    if (known) return known
    const image = await packToLayout(rootfs, this.#folder, options)
    try {
      const record = await this.#load(image, options)
      await cache.set(record.digest)
      return record
    } finally {
      await image[Symbol.asyncDispose]()
    }
  }

  async #load(source: ImageSource, options: LoadOptions): Promise<ImageRecord> {
    const { platform = hostPlatform(), signal } = options
    const resolved: ResolveOptions = { platform, signal, limits: this.#limits }
    const found = await source.locate(resolved)
    const known = await readRecord(this.#folder, found.digest)
    if (known) return known
    const image = await readFoundImage(found, source.blobs, resolved)
    const config = await readFoundConfig(image, resolved)
    for (const position of image.manifest.layers.keys()) {
      await this.#ensurePart(image, position, config.diffIds[position] as Digest, options)
    }
    signal?.throwIfAborted()
    await this.#folder.replaceFile(this.#folder.blob(image.manifest.config.digest), config.document, false)
    await this.#folder.replaceFile(this.#folder.blob(image.digest), image.document, false)
    const record = await makeImage(this.#folder, image, config, this.#limits)
    await refreshIndex(this.#folder, this.#names)
    return record
  }

  async #ensurePart(
    image: FoundImage,
    position: number,
    diffId: Digest,
    options: LoadOptions,
  ): Promise<void> {
    const layer = image.manifest.layers[position] as FoundImage["manifest"]["layers"][number]
    const { length: layers } = image.manifest.layers
    const isDone = () => isPartWhole(this.#folder, layer.digest)
    if (await isDone()) return
    const claim = await this.#leases.claim(digestHex(layer.digest), isDone, options.signal)
    if (!claim) return
    try {
      await this.#folder.removeFolder(this.#folder.part(layer.digest))
      await makePart({
        folder: this.#folder,
        blobs: image.blobs,
        layer,
        diffId,
        limits: this.#limits,
        keepBlob: this.#keepBlobs,
        signal: options.signal,
        onBytes: done =>
          options.onProgress?.({ layer: layer.digest, position, layers, done, total: layer.size }),
      })
    } finally {
      await claim[Symbol.asyncDispose]()
    }
  }

  async #name(name: string, digest: Digest): Promise<void> {
    if ((await this.#names.get(name)) === digest) return
    await this.#names.set(name, digest)
    await refreshIndex(this.#folder, this.#names)
  }

  /**
   * Finds an image: two small reads, no hashing.
   *
   * @param reference - a name, or the manifest's digest
   * @returns undefined when there is none
   * @throws ImageError `reference-invalid`, `digest-invalid`, `io`
   */
  async get(reference: string): Promise<StoredImage | undefined> {
    const digest = await this.#resolve(reference)
    const record = digest && (await readRecord(this.#folder, digest))
    return record ? new StoredImage(this.#folder, record) : undefined
  }

  async #resolve(reference: string): Promise<Digest | undefined> {
    if (reference.startsWith("sha256:")) return parseDigest(reference)
    return this.#names.get(normalizeName(reference))
  }

  /** All images, by digest. */
  async list(): Promise<ImageEntry[]> {
    const names = await this.#names.all()
    const records = await readRecords(this.#folder)
    return records.map(record => ({
      image: new StoredImage(this.#folder, record),
      names: names.get(record.digest) ?? [],
    }))
  }

  /**
   * Removes a name, and with its last name the image; or by digest the image with all its names. Parts and
   * blobs that no image needs any more go too, now or, while another process loads, at a later removal.
   *
   * @throws ImageError `not-found`, and what {@link get} throws
   */
  async remove(reference: string): Promise<void> {
    const digest = await this.#resolve(reference)
    if (!digest || !(await exists(this.#folder.image(digest)))) {
      throw new ImageError("not-found", `no such image: ${printable(reference)}`, {
        reference: printable(reference),
      })
    }
    const names = (await this.#names.all()).get(digest) ?? []
    const going = reference.startsWith("sha256:") ? names : [normalizeName(reference)]
    for (const name of going) await this.#names.delete(name)
    if (going.length >= names.length) await this.#folder.removeFolder(this.#folder.image(digest))
    await refreshIndex(this.#folder, this.#names)
    await this.collectGarbage()
  }

  /**
   * Deletes parts and blobs that no image needs.
   *
   * @returns whether it was done; false while another load or collection runs
   */
  async collectGarbage(): Promise<boolean> {
    const lease = await this.#leases.collect()
    if (!lease) return false
    try {
      const records = await readRecords(this.#folder)
      const parts = new Set(records.flatMap(record => record.layers.map(digestHex)))
      const documents = records.flatMap(record => [digestHex(record.digest), digestHex(record.configDigest)])
      for (const name of await readdir(this.#folder.top("parts"))) {
        if (!parts.has(name)) await this.#folder.removeFolder(this.#folder.part(`sha256:${name}`))
      }
      const blobs = new Set([...documents, ...parts])
      for (const name of await readdir(this.#folder.top("blobs/sha256"))) {
        if (!blobs.has(name)) await rm(this.#folder.blob(`sha256:${name}`), { force: true })
      }
      return true
    } finally {
      await lease[Symbol.asyncDispose]()
    }
  }
}

async function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  )
}
