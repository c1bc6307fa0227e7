import { resolve } from "node:path"
import type { Writable } from "node:stream"
import type { Digest } from "../digest.js"
import { ImageError, ioError } from "../errors.js"
import { DEFAULT_LIMITS, type ImageLimits } from "../limits.js"
import { normalizeName } from "../references.js"
import type { ImageSource } from "../sources/source.js"
import { type CommitOptions, commitLayer } from "./commit.js"
import { type StoredContent, withContent } from "./content.js"
import { exists, type StoreContext } from "./context.js"
import { type ImageDetails, imageDetails } from "./details.js"
import { StoreFolder } from "./folder.js"
import { collectGarbage, type PruneOptions, type PruneResult, prune } from "./gc.js"
import { type HistoryEntry, imageHistory } from "./history.js"
import { type BuildOptions, buildRootfs, type ImportOptions, importTar } from "./import.js"
import { Leases } from "./leases.js"
import { type LoadArchiveOptions, loadArchive } from "./load-archive.js"
import type { LoadOptions } from "./load-options.js"
import { ImageLoader } from "./loader.js"
import { ImageNames, readRecords, refreshIndex } from "./names.js"
import { newName, type RemovedImage, removeReference, setName } from "./removal.js"
import { noSuchImage, resolveReference } from "./resolve.js"
import { type SaveOptions, saveImages } from "./save.js"
import { type ImageRecord, readRecord, StoredImage } from "./stored-image.js"
import { type DiskUsage, diskUsage } from "./usage.js"

/** How a store is opened. */
export interface StoreOptions {
  /** Overrides of {@link DEFAULT_LIMITS}. */
  readonly limits?: Partial<ImageLimits>
  /**
   * Whether layers' blobs are stored besides their parts, so that other tools can read the store and images can be
   * saved. Default true.
   */
  readonly keepBlobs?: boolean
  /** Layers of one image that are made at once, at least 1. Default 3. */
  readonly parallelLayers?: number
}

const DEFAULT_PARALLEL_LAYERS = 3

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
 * A *reference* is a name; a manifest's digest; an image's id, which is its config's digest; at least four digits that
 * one of the two begins with; or `NAME@sha256:…`.
 *
 * @example
 * ```ts
 * const store = await ImageStore.open("/var/lib/images")
 * const image = await store.load("oci:./debian:12", { name: "debian:12" })
 * console.log(image.config.env, image.disk().size)
 * ```
 */
export class ImageStore {
  readonly #context: StoreContext
  readonly #loader: ImageLoader

  private constructor(path: string, options: StoreOptions) {
    const folder = new StoreFolder(path)
    this.#context = {
      folder,
      leases: new Leases(folder.top("leases")),
      names: new ImageNames(folder),
      limits: { ...DEFAULT_LIMITS, ...options.limits },
      keepBlobs: options.keepBlobs ?? true,
      parallelLayers: Math.max(1, options.parallelLayers ?? DEFAULT_PARALLEL_LAYERS),
    }
    this.#loader = new ImageLoader(this.#context)
  }

  /** Bounds this store applies. */
  get limits(): ImageLimits {
    return this.#context.limits
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
    const { folder, names } = this.#context
    try {
      await folder.prepare()
      if (await exists(folder.top("oci-layout"))) return
      await refreshIndex(folder, names)
      const marker = JSON.stringify({ imageLayoutVersion: "1.0.0" })
      await folder.replaceFile(folder.top("oci-layout"), marker)
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
    return this.#bring(options, () =>
      typeof source === "string"
        ? this.#loader.loadText(source, options)
        : this.#loader.load(source, options),
    )
  }

  /**
   * Loads every image of an `oci-archive` or `docker-archive` file, one after the other. Names are set at the end.
   *
   * @throws ImageError as {@link load}; `reference-invalid` for a name that is none, when names are taken
   * @example
   * ```ts
   * const loaded = await store.loadArchive("images.tar", { names: "take" })
   * for (const { image, names } of loaded) console.log(image.digest, names)
   * ```
   */
  async loadArchive(path: string, options: LoadArchiveOptions = {}): Promise<ImageEntry[]> {
    const loaded = await this.#use(
      () => loadArchive(this.#context, this.#loader, path, options),
      options.signal,
    )
    return loaded.map(({ record, names }) => ({ image: this.#image(record), names }))
  }

  /**
   * Makes an image with one layer of a tar stream, plain or packed with gzip or zstd. Equal files, names and `config`
   * give an equal image, however they were packed.
   *
   * @param source - a file's path, or a stream
   * @throws ImageError as {@link load}; `source-missing`, `source-invalid`
   * @example
   * ```ts
   * await store.importTar("rootfs.tar.gz", { name: "mine", config: { cmd: ["/bin/sh"] } })
   * ```
   */
  async importTar(
    source: string | AsyncIterable<Uint8Array>,
    options: ImportOptions = {},
  ): Promise<StoredImage> {
    return this.#bring(options, () => importTar(this.#context, this.#loader, source, options))
  }

  /**
   * Makes an image with one layer of a folder's files. Equal content, names, modes, owners, times and options give an
   * equal image: files are taken in the order of their names, and nothing else about them matters. Extended attributes
   * are not read, since Node has no call for them; sockets are left out. Device nodes and the like are kept.
   *
   * @throws ImageError as {@link load}; `source-missing`, `source-invalid` for a file that changes meanwhile
   * @example
   * ```ts
   * await store.buildRootfs("./rootfs", { name: "mine", latestTime: 0, owner: { uid: 0, gid: 0 } })
   * ```
   */
  async buildRootfs(path: string, options: BuildOptions = {}): Promise<StoredImage> {
    return this.#bring(options, () => buildRootfs(this.#context, this.#loader, path, options))
  }

  /**
   * Makes an image of a stored one and one more layer, a plain tar stream with whiteouts. The stream is not trusted: it
   * is held to everything that a layer of a registry is.
   *
   * @param reference - the image below
   * @throws ImageError `not-found`, and what {@link load} throws; whatever the stream throws
   * @example
   * ```ts
   * await store.commit("debian:12", layerTar, { name: "mine", config: { cmd: ["/app"] }, comment: "with the app" })
   * ```
   */
  async commit(
    reference: string,
    tar: AsyncIterable<Uint8Array>,
    options: CommitOptions = {},
  ): Promise<StoredImage> {
    return this.#bring(options, async () =>
      commitLayer(this.#context, this.#loader, await this.#existing(reference), tar, options),
    )
  }

  /** Brings an image in and gives it its name. */
  async #bring({ name, signal }: LoadOptions, make: () => Promise<ImageRecord>): Promise<StoredImage> {
    const stored = name === undefined ? undefined : normalizeName(name)
    return this.#use(async () => {
      const record = await make()
      if (stored === undefined || (await setName(this.#context, stored, record.digest)))
        return this.#image(record)
      throw new ImageError("not-found", `image ${record.digest} was removed while it was loaded`, {
        reference: record.digest,
      })
    }, signal)
  }

  /** Does something during which nothing is collected. */
  async #use<T>(work: () => Promise<T>, signal?: AbortSignal): Promise<T> {
    const lease = await this.#context.leases.load(signal)
    try {
      return await work()
    } finally {
      await lease[Symbol.asyncDispose]()
    }
  }

  #image(record: ImageRecord): StoredImage {
    return new StoredImage(this.#context.folder, record)
  }

  /**
   * Finds an image: two small reads for a name or a manifest's digest, no hashing.
   *
   * @param reference - what is meant; see the class
   * @returns undefined when there is none
   * @throws ImageError `reference-invalid`, `digest-invalid`, `ambiguous`, `io`
   */
  async get(reference: string): Promise<StoredImage | undefined> {
    const record = await this.#record(reference)
    return record && this.#image(record)
  }

  async #record(reference: string): Promise<ImageRecord | undefined> {
    const found = await resolveReference(this.#context, reference)
    return found && (await readRecord(this.#context.folder, found.digest))
  }

  async #existing(reference: string): Promise<ImageRecord> {
    const record = await this.#record(reference)
    if (record) return record
    throw noSuchImage(reference)
  }

  /** All images, by digest. */
  async list(): Promise<ImageEntry[]> {
    const names = await this.#context.names.all()
    const records = await readRecords(this.#context.folder)
    return records.map(record => ({ image: this.#image(record), names: names.get(record.digest) ?? [] }))
  }

  /**
   * Describes an image as `docker image inspect` does, from its documents, which are proven again.
   *
   * @throws ImageError `not-found`, what {@link get} throws; `blob-missing`, `digest-mismatch` and the like for
   * documents that are not what they were
   */
  async inspect(reference: string): Promise<ImageDetails> {
    return imageDetails(this.#context, await this.#existing(reference))
  }

  /**
   * Tells how an image was made, newest step first.
   *
   * @throws ImageError what {@link inspect} throws
   */
  async history(reference: string): Promise<HistoryEntry[]> {
    return imageHistory(this.#context, await this.#existing(reference))
  }

  /**
   * Gives an image another name. An image that had the name keeps its other ones, or none.
   *
   * @param name - without a digest; tag `latest` unless it says otherwise
   * @throws ImageError `not-found`, `reference-invalid`, and what {@link get} throws
   */
  async tag(reference: string, name: string): Promise<void> {
    const stored = newName(name)
    await this.#use(async () => {
      const { digest } = await this.#existing(reference)
      if (!(await setName(this.#context, stored, digest))) throw noSuchImage(reference)
    })
  }

  /**
   * Writes images into one archive. Equal images and names give equal bytes.
   *
   * @param references - images given by name keep those names in the archive; others have none
   * @param target - a file, which is replaced whole, or a stream, which is ended
   * @throws ImageError `not-found`, what {@link get} throws; `store-no-blob` when the store does not keep the layers;
   * `blob-missing`, `size-mismatch`, `digest-mismatch` for damaged ones; `io`; the signal's reason
   * @example
   * ```ts
   * await store.save(["debian:12", "alpine"], "images.tar", { format: "docker-archive" })
   * ```
   */
  async save(
    references: readonly string[],
    target: string | Writable,
    options: SaveOptions = {},
  ): Promise<void> {
    await this.#use(() => saveImages(this.#context, references, target, options), options.signal)
  }

  /**
   * Hands out an image as it came, for `RegistryClient.push` for instance; it cannot be collected meanwhile.
   *
   * @param use - the content can be read until what this returns is settled
   * @throws ImageError `not-found`, and what {@link get} throws; `store-no-blob` when the store does not keep the layers
   * @example
   * ```ts
   * await store.withContent("team/app:1", ({ root, blobs }) =>
   *   client.push(root, blobs, "registry.example/team/app:1"),
   * )
   * ```
   */
  async withContent<T>(reference: string, use: (content: StoredContent) => Promise<T>): Promise<T> {
    return this.#use(async () => withContent(this.#context, await this.#existing(reference), use))
  }

  /**
   * Removes a name, and with its last name the image; or by digest or id the image with all its names. Parts and
   * blobs that no image needs any more go too, now or, while another process loads, at a later removal.
   *
   * @throws ImageError `not-found`, and what {@link get} throws
   */
  async remove(reference: string): Promise<RemovedImage> {
    const { folder, names } = this.#context
    const removed = await this.#use(() => removeReference(this.#context, reference))
    if (!(await this.collectGarbage())) await refreshIndex(folder, names)
    return removed
  }

  /**
   * Deletes parts and blobs that no image needs, damaged images, and names of images that are gone.
   *
   * @returns whether it was done; false while another load or collection runs
   */
  async collectGarbage(): Promise<boolean> {
    return (await collectGarbage(this.#context)) !== undefined
  }

  /**
   * Removes images that have no name, or all that are not in use, and what no other image needs.
   *
   * @throws ImageError `io`
   * @example
   * ```ts
   * const { images, bytes } = await store.prune({ all: true, inUse: [running.digest] })
   * ```
   */
  async prune(options: PruneOptions = {}): Promise<PruneResult> {
    return prune(this.#context, options)
  }

  /**
   * Adds up what the store takes. Images that come or go meanwhile may be missed.
   *
   * @param inUse - digests or ids of images that cannot be reclaimed
   * @throws ImageError `io`
   */
  async diskUsage(inUse: Iterable<Digest> = []): Promise<DiskUsage> {
    return diskUsage(this.#context, inUse)
  }
}
