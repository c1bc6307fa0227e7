import { readFile, stat } from "node:fs/promises"
import { type Digest, parseDigest } from "../digest.js"
import { ioError, isImageError } from "../errors.js"
import type { ImageConfig } from "../spec/config.js"
import { Fields, parseJsonObject } from "../spec/json.js"
import { readPlatform } from "../spec/platform.js"
import type { StoreFolder } from "./folder.js"

/** What `image.json` says. Blobs are remembered for garbage collection and for other tools. */
export interface ImageRecord {
  readonly version: 1
  readonly digest: Digest
  readonly mediaType: string
  /** Bytes of the manifest document. */
  readonly manifestSize: number
  readonly configDigest: Digest
  readonly config: ImageConfig
  /** Digest of every layer's blob, lowest first; one may occur twice. */
  readonly layers: readonly Digest[]
  /** The disk behind the metadata part: data parts in order, each once, empty ones left out. */
  readonly parts: readonly { readonly digest: Digest; readonly size: number }[]
  readonly metadataSize: number
  /** Bytes of files' contents that are mapped to the part of a lower layer. */
  readonly sharedSize: number
}

/** Files that make up one read-only disk, one after the other. */
export interface ImageDisk {
  readonly parts: readonly { readonly path: string; readonly size: number }[]
  /** Bytes of all parts: a multiple of 4096. */
  readonly size: number
}

/** An image in a store, ready to run. It does not change; removing it leaves open files usable. */
export class StoredImage {
  readonly #folder: StoreFolder
  readonly #record: ImageRecord

  constructor(folder: StoreFolder, record: ImageRecord) {
    this.#folder = folder
    this.#record = record
  }

  /** Digest of the manifest: the image's identity. */
  get digest(): Digest {
    return this.#record.digest
  }

  /** Digest of the config document, which docker calls the image's id. */
  get configDigest(): Digest {
    return this.#record.configDigest
  }

  /** How to run it. */
  get config(): ImageConfig {
    return this.#record.config
  }

  /** Digests of the layers' blobs, lowest first. */
  get layers(): readonly Digest[] {
    return this.#record.layers
  }

  /** Bytes of its disk. Parts may be shared with other images. */
  get size(): number {
    return this.disk().size
  }

  /**
   * Bytes of its files' contents that its layers have again although a lower layer has them: on the disk they are only
   * once, so that they take room in the page cache only once.
   */
  get sharedSize(): number {
    return this.#record.sharedSize
  }

  /**
   * The EROFS disk: present these files in this order as one block device.
   *
   * @example
   * ```ts
   * const { parts, size } = image.disk()
   * const files = parts.map(part => openSync(part.path, "r")) // one virtio-blk device of `size` bytes
   * ```
   */
  disk(): ImageDisk {
    const { digest, metadataSize, parts } = this.#record
    const files = [
      { path: this.#folder.image(digest, "metadata"), size: metadataSize },
      ...parts.map(part => ({ path: this.#folder.part(part.digest, "data"), size: part.size })),
    ]
    return { parts: files, size: files.reduce((sum, file) => sum + file.size, 0) }
  }
}

/**
 * Reads `image.json` and looks whether the files it names are there. An image that is damaged, after a power
 * cut say, counts as not there, so that loading it makes it whole again.
 *
 * @returns undefined when the image is not there
 * @throws ImageError `io`
 */
export async function readRecord(folder: StoreFolder, digest: Digest): Promise<ImageRecord | undefined> {
  const bytes = await readFile(folder.image(digest, "image.json")).catch(error => {
    if (error.code === "ENOENT") return undefined
    throw ioError(error, "cannot read the image store")
  })
  const record = bytes && parseRecord(bytes, digest)
  return record && (await isWhole(folder, record)) ? record : undefined
}

function parseRecord(bytes: Buffer, digest: Digest): ImageRecord | undefined {
  try {
    return checkRecord(
      new Fields(parseJsonObject(bytes, "stored image"), "stored image", "store-corrupt"),
      digest,
    )
  } catch (error) {
    if (isImageError(error)) return undefined
    throw error
  }
}

async function isWhole(folder: StoreFolder, record: ImageRecord): Promise<boolean> {
  const { parts } = new StoredImage(folder, record).disk()
  const sizes = await Promise.all(parts.map(part => sizeOf(part.path)))
  return parts.every((part, i) => sizes[i] === part.size)
}

/** A file that cannot be looked at is no missing one: collecting garbage would take its image for damaged. */
async function sizeOf(path: string): Promise<number | undefined> {
  try {
    return (await stat(path)).size
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined
    throw ioError(error, "cannot read the image store")
  }
}

function checkRecord(fields: Fields, digest: Digest): ImageRecord {
  if (fields.raw("version") !== 1) throw fields.bad("version", "is not 1")
  if (fields.raw("digest") !== digest) throw fields.bad("digest", "is another one")
  const parts = (fields.array("parts", 100_000) ?? []).map(value => {
    const part = new Fields(value, "part", "store-corrupt")
    return { digest: parseDigest(part.raw("digest")), size: part.count("size") }
  })
  return {
    version: 1,
    digest,
    mediaType: fields.string("mediaType") ?? "",
    manifestSize: fields.count("manifestSize"),
    configDigest: parseDigest(fields.raw("configDigest")),
    config: checkConfig(new Fields(fields.raw("config"), "config", "store-corrupt")),
    layers: (fields.array("layers", 100_000) ?? []).map(parseDigest),
    parts,
    metadataSize: fields.count("metadataSize"),
    // Images that earlier versions stored share nothing.
    sharedSize: fields.raw("sharedSize") === undefined ? 0 : fields.count("sharedSize"),
  }
}

function checkConfig(fields: Fields): ImageConfig {
  return {
    platform: readPlatform(new Fields(fields.raw("platform"), "platform", "store-corrupt")),
    env: fields.strings("env") ?? [],
    entrypoint: fields.strings("entrypoint") ?? [],
    cmd: fields.strings("cmd") ?? [],
    workingDir: fields.string("workingDir") ?? "",
    user: fields.string("user") ?? "",
    stopSignal: fields.string("stopSignal") ?? "",
    exposedPorts: fields.strings("exposedPorts") ?? [],
    volumes: fields.strings("volumes") ?? [],
    labels: fields.stringMap("labels") ?? {},
  }
}
