import type { Digest } from "../digest.js"
import { ImageError } from "../errors.js"
import { Archive } from "../sources/archive.js"
import { DockerArchiveSource, readDockerImages } from "../sources/docker-archive.js"
import { type ImageSource, locateManifest, type ResolveOptions } from "../sources/source.js"
import { parseJsonObject } from "../spec/json.js"
import { type Descriptor, documentKind, readIndex } from "../spec/manifest.js"
import { OCI_INDEX } from "../spec/media-types.js"
import { platformRank } from "../spec/platform.js"

/** One image of an archive. */
export interface ArchiveImage {
  readonly source: ImageSource
  /** Its names as the archive has them: any text at all. */
  readonly names: readonly string[]
}

/** All images of an archive, which stays open while they are read. */
export class ArchiveImages implements AsyncDisposable {
  readonly #archive: Archive
  readonly images: readonly ArchiveImage[]

  private constructor(archive: Archive, images: readonly ArchiveImage[]) {
    this.#archive = archive
    this.images = images
  }

  /**
   * Lists an archive's images; the OCI description goes before docker's, since newer docker versions write both.
   *
   * @throws ImageError `archive-invalid`, `platform-missing`, and what opening the archive throws
   */
  static async open(path: string, options: ResolveOptions): Promise<ArchiveImages> {
    const archive = await Archive.open(path, options.limits)
    try {
      const isOci = archive.find("oci-layout") && archive.find("index.json")
      const images = isOci ? await listOci(archive, options) : await listDocker(archive, options)
      if (images.length > 0) return new ArchiveImages(archive, images)
      throw new ImageError("archive-invalid", "there is no image in the archive")
    } catch (error) {
      await archive[Symbol.asyncDispose]()
      throw error
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#archive[Symbol.asyncDispose]()
  }
}

async function listDocker(archive: Archive, { limits }: ResolveOptions): Promise<ArchiveImage[]> {
  const images = await readDockerImages(archive, limits)
  return images.map(({ tags }, position) => ({
    source: new DockerArchiveSource(archive, position),
    names: tags,
  }))
}

async function listOci(archive: Archive, options: ResolveOptions): Promise<ArchiveImage[]> {
  const bytes = await archive.readTop("index.json", options.limits.documentBytes)
  const json = parseJsonObject(bytes ?? Buffer.alloc(0), "index.json")
  const { manifests } = readIndex(json, OCI_INDEX, options.limits)
  const images = manifests.filter(descriptor => documentKind(descriptor.mediaType))
  const fitting = images.filter(
    ({ platform }) => !platform || platformRank(platform, options.platform) !== undefined,
  )
  if (images.length > 0 && fitting.length === 0)
    throw new ImageError("platform-missing", "no image in the archive is for the wanted platform")
  const byDigest = new Map<Digest, ArchiveImage>()
  for (const descriptor of fitting) {
    const names = [...(byDigest.get(descriptor.digest)?.names ?? []), ...namesOf(descriptor)]
    byDigest.set(descriptor.digest, { source: new DescriptorSource(archive, descriptor), names })
  }
  return [...byDigest.values()]
}

/** The full name that containerd and docker write; or the OCI one, unless it is a mere tag, which names nothing. */
function namesOf({ annotations }: Descriptor): string[] {
  const full = annotations?.["io.containerd.image.name"]
  const name = full ?? annotations?.["org.opencontainers.image.ref.name"]
  return name !== undefined && (full !== undefined || /[:/]/.test(name)) ? [name] : []
}

/** The image that one entry of an index leads to. */
class DescriptorSource implements ImageSource {
  readonly blobs: Archive
  readonly #start: Descriptor

  constructor(archive: Archive, start: Descriptor) {
    this.blobs = archive
    this.#start = start
  }

  locate(options: ResolveOptions): Promise<Descriptor> {
    return locateManifest(this.#start, this.blobs, options)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // The archive is shared: whoever opened it closes it.
  }
}
