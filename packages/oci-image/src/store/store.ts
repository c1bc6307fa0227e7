import type { Writable } from "node:stream"
import type { Digest } from "../digest.js"
import type { LazyImage } from "../lazy/lazy-image.js"
import { keepLazyIndex, type OpenLazyOptions, openLazy } from "../lazy/verbs.js"
import type { ImageLimits } from "../limits.js"
import type { ImageSource } from "../sources/source.js"
import { type CommitOptions, commitImage } from "./commit.js"
import { type StoredContent, withContent } from "./content.js"
import type { StoreContext } from "./context.js"
import { type ImageDetails, imageDetails } from "./details.js"
import { type Ext4Disk, type Ext4Options, exportExt4 } from "./export-ext4.js"
import { collectGarbage, type PruneOptions, type PruneResult, prune } from "./gc.js"
import { type HistoryEntry, imageHistory } from "./history.js"
import { type BuildOptions, buildRootfs, type ImportOptions, importTar } from "./import.js"
import { type ImageEntry, listImages } from "./list.js"
import { type LoadArchiveOptions, loadArchive } from "./load-archive.js"
import type { LoadOptions } from "./load-options.js"
import { loadSource } from "./loader.js"
import { openStore, type StoreOptions } from "./open-store.js"
import { type RemovedImage, removeImage } from "./removal.js"
import { findRecord } from "./resolve.js"
import { type SaveOptions, saveImages } from "./save.js"
import { StoredImage } from "./stored-image.js"
import { tagImage } from "./tag.js"
import { type DiskUsage, diskUsage } from "./usage.js"

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

  private constructor(context: StoreContext) {
    this.#context = context
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
    return new ImageStore(await openStore(path, options))
  }

  /**
   * Loads an image, unless it is there already; then this only sets its name.
   *
   * @param source - `oci:DIR[:TAG]`, `oci-archive:FILE[:TAG]`, `docker-archive:FILE[:TAG]`, `rootfs:DIR`, a path,
   * or a source of your own (it stays open)
   * @throws ImageError every code there is, except `not-found` for a name; the signal's reason
   */
  async load(source: string | ImageSource, options: LoadOptions = {}): Promise<StoredImage> {
    return loadSource(this.#context, source, options)
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
    return loadArchive(this.#context, path, options)
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
    return importTar(this.#context, source, options)
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
    return buildRootfs(this.#context, path, options)
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
    return commitImage(this.#context, reference, tar, options)
  }

  /**
   * Finds an image: two small reads for a name or a manifest's digest, no hashing.
   *
   * @param reference - what is meant; see the class
   * @returns undefined when there is none
   * @throws ImageError `reference-invalid`, `digest-invalid`, `ambiguous`, `io`
   */
  async get(reference: string): Promise<StoredImage | undefined> {
    const record = await findRecord(this.#context, reference)
    return record && new StoredImage(this.#context.folder, record)
  }

  /** All images, by digest. */
  async list(): Promise<ImageEntry[]> {
    return listImages(this.#context)
  }

  /**
   * Describes an image as `docker image inspect` does, from its documents, which are proven again.
   *
   * @throws ImageError `not-found`, what {@link get} throws; `blob-missing`, `digest-mismatch` and the like for
   * documents that are not what they were
   */
  async inspect(reference: string): Promise<ImageDetails> {
    return imageDetails(this.#context, reference)
  }

  /**
   * Tells how an image was made, newest step first.
   *
   * @throws ImageError what {@link inspect} throws
   */
  async history(reference: string): Promise<HistoryEntry[]> {
    return imageHistory(this.#context, reference)
  }

  /**
   * Gives an image another name. An image that had the name keeps its other ones, or none.
   *
   * @param name - without a digest; tag `latest` unless it says otherwise
   * @throws ImageError `not-found`, `reference-invalid`, and what {@link get} throws
   */
  async tag(reference: string, name: string): Promise<void> {
    return tagImage(this.#context, reference, name)
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
    return saveImages(this.#context, references, target, options)
  }

  /**
   * Writes an image's files as one ext4 file system: a disk that a sandbox can have as its root and keep what is written
   * to it (`rootfs` of `Sandbox.create`), or that any other machine mounts. What its config says is not in it. Equal
   * images and sizes give equal bytes.
   *
   * @param target - a regular file, which is replaced whole
   * @throws ImageError `not-found`, what {@link get} throws; `limit` for a size in which the image has no room, or for files
   * that ext4 cannot have; `entry-xattr`, `store-corrupt`, `io`; the signal's reason
   * @example
   * ```ts
   * const { size } = await store.exportExt4("debian:12", "debian.ext4", { size: 4 * 2 ** 30 })
   * ```
   */
  async exportExt4(reference: string, target: string, options: Ext4Options = {}): Promise<Ext4Disk> {
    return exportExt4(this.#context, reference, target, options)
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
    return withContent(this.#context, reference, use)
  }

  /**
   * Keeps what it takes to begin with an image that is not there any more: its layers' trees, and where each file lies
   * in the layer as it comes from a registry. It takes about 1 % of what the image unpacks to, stays when the image is removed,
   * and is made by reading the layers once more.
   *
   * @returns layers that can only be read whole: packed with zstd, or with sparse files. An image with one of those is
   * not opened by {@link openLazy}, unless that layer is in the store.
   * @throws ImageError `not-found`, and what {@link get} throws; `io`
   */
  async keepLazyIndex(reference: string): Promise<Digest[]> {
    return keepLazyIndex(this.#context, reference)
  }

  /**
   * Opens an image before it is there: its content is fetched as it is read, each piece proven.
   *
   * @param source - one that can give parts of blobs: `RegistryClient.source`. It is needed for as long as the image is.
   * @returns undefined when the image is there, or cannot be begun with: then {@link load} it
   * @throws ImageError what finding the image throws, `io`; the signal's reason
   * @example
   * ```ts
   * await using image = await store.openLazy(client.source("debian:12"))
   * if (image) {
   *   await image.disk().parts[1]?.prepare?.(0, 4096) // now its first block can be read
   *   await image.fill() // the rest, into the store
   * }
   * ```
   */
  async openLazy(source: ImageSource, options: OpenLazyOptions = {}): Promise<LazyImage | undefined> {
    return openLazy(this.#context, source, options)
  }

  /**
   * Removes a name, and with its last name the image; or by digest or id the image with all its names. Parts and
   * blobs that no image needs any more go too, now or, while another process loads, at a later removal.
   *
   * @throws ImageError `not-found`, and what {@link get} throws
   */
  async remove(reference: string): Promise<RemovedImage> {
    return removeImage(this.#context, reference)
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
