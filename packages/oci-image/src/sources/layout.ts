import type { FileHandle } from "node:fs/promises"
import { digestHex } from "../digest.js"
import { ImageError, isImageError, printable } from "../errors.js"
import { isSameName } from "../references.js"
import { Fields, parseJsonObject } from "../spec/json.js"
import { type Descriptor, documentKind, pickPlatform, readIndex } from "../spec/manifest.js"
import { OCI_INDEX } from "../spec/media-types.js"
import { openBeneath, openFolder, readRange, readWhole } from "./beneath.js"
import type { BlobRequest, BlobSource } from "./blob.js"
import { type ImageSource, locateManifest, type ResolveOptions } from "./source.js"

/** Annotations that name an image inside a layout: the OCI one, and containerd's full name. */
const NAME_ANNOTATIONS = ["org.opencontainers.image.ref.name", "io.containerd.image.name"]

/** The files of an OCI image layout, wherever they are: a folder or an archive. */
export interface LayoutFiles extends AsyncDisposable, BlobSource {
  /** Reads a small file from the layout's top; undefined when it is not there. */
  readTop(name: "oci-layout" | "index.json", max: number): Promise<Buffer | undefined>
}

/** An OCI image layout in a folder. Nothing inside it is followed through a symlink. */
export class LayoutFolder implements LayoutFiles {
  readonly #folder: FileHandle

  private constructor(folder: FileHandle) {
    this.#folder = folder
  }

  static async open(path: string): Promise<LayoutFolder> {
    return new LayoutFolder(await openFolder(path))
  }

  async readTop(name: string, max: number): Promise<Buffer | undefined> {
    const file = await openBeneath(this.#folder, [name]).catch(error => {
      if (isImageError(error) && error.code === "source-missing") return undefined
      throw error
    })
    if (!file) return undefined
    try {
      return await readWhole(file, name, max)
    } finally {
      await file.close()
    }
  }

  async *open(request: BlobRequest): AsyncGenerator<Buffer> {
    const file = await openBeneath(this.#folder, ["blobs", "sha256", digestHex(request.digest)]).catch(
      error => {
        const code = isImageError(error) && error.code === "source-missing" ? "blob-missing" : undefined
        if (code)
          throw new ImageError(
            code,
            `the layout has no blob ${request.digest}`,
            { digest: request.digest },
            { cause: error },
          )
        throw error
      },
    )
    try {
      // One byte beyond the declared size, so that a longer file shows.
      yield* readRange(file, 0, request.size + 1)
    } finally {
      await file.close()
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#folder.close()
  }
}

/** One image of an OCI image layout. @see OCI image spec 1.1, image-layout.md */
export class LayoutSource implements ImageSource {
  readonly blobs: LayoutFiles
  readonly #tag: string | undefined

  /**
   * @param files - the layout
   * @param tag - which of its images; without it there must be only one
   */
  constructor(files: LayoutFiles, tag?: string) {
    this.blobs = files
    this.#tag = tag
  }

  /** @throws ImageError `source-invalid`, `not-found`, `ambiguous`, and what {@link locateManifest} throws */
  async locate(options: ResolveOptions): Promise<Descriptor> {
    const { documentBytes } = options.limits
    await checkLayoutVersion(this.blobs)
    const bytes = await this.blobs.readTop("index.json", documentBytes)
    if (!bytes) throw new ImageError("source-invalid", "not an OCI image layout: index.json is missing")
    const index = readIndex(parseJsonObject(bytes, "index.json"), OCI_INDEX, options.limits)
    return locateManifest(this.#choose(index.manifests, options), this.blobs, options)
  }

  #choose(manifests: readonly Descriptor[], options: ResolveOptions): Descriptor {
    const usable = manifests.filter(m => documentKind(m.mediaType))
    const matching =
      this.#tag === undefined
        ? usable
        : usable.filter(m => namesOf(m).some(name => isSameName(name, this.#tag as string)))
    const [only] = matching
    if (!only) throw this.#notThere(usable)
    if (new Set(matching.map(m => m.digest)).size === 1) return only
    if (matching.every(m => m.platform)) return pickPlatform({ manifests: matching }, options.platform)
    const tags = listNames(usable)
    throw new ImageError("ambiguous", `the layout has several images, name one of: ${tags}`, { tags })
  }

  #notThere(usable: readonly Descriptor[]): ImageError {
    const tags = listNames(usable)
    const wanted = this.#tag === undefined ? "an image" : `an image named ${printable(this.#tag)}`
    return new ImageError("not-found", `the layout does not have ${wanted}; there is: ${tags || "none"}`, {
      tags,
    })
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.blobs[Symbol.asyncDispose]()
  }
}

/** Refuses a layout of a version that may mean something else. @throws ImageError `source-invalid`, `json-invalid` */
export async function checkLayoutVersion(files: LayoutFiles): Promise<void> {
  const marker = await files.readTop("oci-layout", 4096)
  if (!marker) throw new ImageError("source-invalid", "not an OCI image layout: oci-layout is missing")
  const version = new Fields(parseJsonObject(marker, "oci-layout"), "oci-layout", "source-invalid").string(
    "imageLayoutVersion",
  )
  if (!version?.startsWith("1.")) {
    throw new ImageError("source-invalid", `unknown image layout version ${printable(version ?? "")}`)
  }
}

function namesOf(descriptor: Descriptor): string[] {
  return NAME_ANNOTATIONS.map(key => descriptor.annotations?.[key]).filter(name => name !== undefined)
}

function listNames(descriptors: readonly Descriptor[]): string {
  return descriptors
    .slice(0, 20)
    .map(d => printable(namesOf(d)[0] ?? d.digest))
    .join(", ")
}
