import { createHash } from "node:crypto"
import { checkDigest, type Digest, digestHex, digestOf, finishDigest } from "../digest.js"
import { ImageError, printable } from "../errors.js"
import { sniffCompression } from "../layer/decompress.js"
import { splitPath } from "../layer/names.js"
import { checkLimit, type ImageLimits } from "../limits.js"
import { familiarName, isSameName, normalizeName } from "../references.js"
import { readConfig } from "../spec/config.js"
import { Fields, parseJson, parseJsonObject } from "../spec/json.js"
import type { Descriptor } from "../spec/manifest.js"
import { OCI_CONFIG, OCI_LAYER, OCI_MANIFEST } from "../spec/media-types.js"
import type { Archive, ArchiveFile } from "./archive.js"
import { collect } from "./beneath.js"
import type { BlobRequest, BlobSource } from "./blob.js"
import { type ImageSource, type ResolveOptions, withDocuments } from "./source.js"

const DIGEST_NAME = /^(?:blobs\/sha256\/)?([0-9a-f]{64})(?:\.json)?$/

/** One image as `manifest.json` describes it. */
export interface DockerImage {
  readonly config: string
  readonly layers: readonly string[]
  readonly tags: readonly string[]
}

/**
 * An image in the archive of `docker save`. Such an archive has no manifest of its own; the one made here
 * depends on nothing but the image, so an image has the same digest whenever it is loaded.
 *
 * @see moby/image/spec/v1.2.md, "Combined Image JSON + Filesystem Changeset Format"
 */
export class DockerArchiveSource implements ImageSource {
  readonly #archive: Archive
  readonly #wanted: string | number | undefined
  #blobs: BlobSource

  /**
   * @param archive - the archive
   * @param wanted - which of its images: a name, or a position in its list; without it there must be only one
   */
  constructor(archive: Archive, wanted?: string | number) {
    this.#archive = archive
    this.#wanted = wanted
    this.#blobs = archive
  }

  get blobs(): BlobSource {
    return this.#blobs
  }

  /** @throws ImageError `archive-invalid`, `not-found`, `ambiguous`, `config-invalid`, `digest-mismatch`, `limit` */
  async locate({ limits }: ResolveOptions): Promise<Descriptor> {
    const image = this.#choose(await readDockerImages(this.#archive, limits))
    const config = await this.#config(image.config, limits)
    const { diffIds } = readConfig(parseJsonObject(config, "image config"))
    if (diffIds.length !== image.layers.length)
      throw invalid("image config and manifest.json name different layers")
    const files = new Map<Digest, ArchiveFile>()
    const layers: Descriptor[] = []
    for (const [i, path] of image.layers.entries()) {
      layers.push(await this.#layer(path, diffIds[i] as Digest, files, limits))
    }
    const configDescriptor = { mediaType: OCI_CONFIG, digest: digestOf(config), size: config.length }
    const manifest = Buffer.from(
      JSON.stringify({ schemaVersion: 2, mediaType: OCI_MANIFEST, config: configDescriptor, layers }),
    )
    this.#blobs = withDocuments([manifest, config], new ArchiveLayers(this.#archive, files))
    return { mediaType: OCI_MANIFEST, digest: digestOf(manifest), size: manifest.length }
  }

  #choose(images: readonly DockerImage[]): DockerImage {
    const matching = matchingImages(images, this.#wanted)
    const tags = images
      .flatMap(image => image.tags)
      .slice(0, 20)
      .map(printable)
      .join(", ")
    const [only, second] = matching
    if (!only) {
      throw new ImageError("not-found", `the archive does not have that image; there is: ${tags || "none"}`, {
        tags,
      })
    }
    if (second)
      throw new ImageError("ambiguous", `the archive has several images, name one of: ${tags}`, { tags })
    return only
  }

  async #config(path: string, limits: ImageLimits): Promise<Buffer> {
    const name = splitPath(path, limits).join("/")
    const bytes = await this.#archive.readTop(name, limits.documentBytes)
    if (!bytes) throw invalid(`${printable(name)} is missing`)
    const hex = DIGEST_NAME.exec(name)?.[1]
    if (hex) checkDigest("image config", `sha256:${hex}`, digestOf(bytes))
    return bytes
  }

  /** An unpacked layer has its diff id as digest, which is checked when it is read; a packed one is hashed here. */
  async #layer(
    path: string,
    diffId: Digest,
    files: Map<Digest, ArchiveFile>,
    limits: ImageLimits,
  ): Promise<Descriptor> {
    const file = this.#archive.find(splitPath(path, limits).join("/"))
    if (!file) throw invalid(`${printable(path)} is missing`)
    checkLimit("blobBytes", file.size, limits.blobBytes, "size of a layer")
    const compression = sniffCompression(await collect(this.#archive.read(file, 512)))
    const digest = compression === "none" ? diffId : await this.#hash(file)
    files.set(digest, file)
    return { mediaType: OCI_LAYER[compression], digest, size: file.size }
  }

  async #hash(file: ArchiveFile): Promise<Digest> {
    const hash = createHash("sha256")
    for await (const chunk of this.#archive.read(file)) hash.update(chunk)
    return finishDigest(hash)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#archive[Symbol.asyncDispose]()
  }
}

/** Reads an archive's list of images. @throws ImageError `archive-invalid`, `json-invalid`, `limit` */
export async function readDockerImages(archive: Archive, limits: ImageLimits): Promise<DockerImage[]> {
  const bytes = await archive.readTop("manifest.json", limits.documentBytes)
  if (!bytes) throw invalid("there is no manifest.json")
  const images = parseJson(bytes, "manifest.json")
  if (!Array.isArray(images)) throw invalid("manifest.json is not a list")
  checkLimit("manifests", images.length, limits.manifests, "images of the archive")
  return images.map(value => {
    const fields = new Fields(value, "manifest.json", "archive-invalid")
    const layers = fields.strings("Layers", limits.layers, limits.pathBytes) ?? []
    return {
      config: fields.string("Config") ?? "",
      layers,
      tags: fields.strings("RepoTags", 1024, 1024) ?? [],
    }
  })
}

function matchingImages(
  images: readonly DockerImage[],
  wanted: string | number | undefined,
): readonly DockerImage[] {
  if (wanted === undefined) return images
  if (typeof wanted === "number") return images.slice(wanted, wanted + 1)
  const name = normalizeName(wanted)
  return images.filter(image => image.tags.some(tag => isNamed(tag, name)))
}

/** Whether a full name in an archive is the wanted one; a registry and a folder that were left out do not matter. */
function isNamed(tag: string, wanted: string): boolean {
  return isSameName(tag, wanted) || tag.endsWith(`/${familiarName(wanted)}`)
}

class ArchiveLayers implements BlobSource {
  readonly #archive: Archive
  readonly #files: ReadonlyMap<Digest, ArchiveFile>

  constructor(archive: Archive, files: ReadonlyMap<Digest, ArchiveFile>) {
    this.#archive = archive
    this.#files = files
  }

  async *open({ digest, size }: BlobRequest): AsyncGenerator<Buffer> {
    const file = this.#files.get(digest)
    if (!file)
      throw new ImageError("blob-missing", `the archive has no layer ${digestHex(digest)}`, { digest })
    yield* this.#archive.read(file, size + 1)
  }
}

function invalid(why: string): ImageError {
  return new ImageError("archive-invalid", `not a docker archive: ${why}`)
}
