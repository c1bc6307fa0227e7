import { type Digest, digestOf } from "../digest.js"
import { ImageError } from "../errors.js"
import type { ImageLimits } from "../limits.js"
import { type ConfigDocument, readConfig } from "../spec/config.js"
import { parseJsonObject } from "../spec/json.js"
import {
  type Descriptor,
  documentKind,
  type Manifest,
  pickPlatform,
  readIndex,
  readManifest,
} from "../spec/manifest.js"
import { formatPlatform, type Platform, platformRank } from "../spec/platform.js"
import { type BlobSource, readDocument } from "./blob.js"

/** What is needed to find one image in a source. */
export interface ResolveOptions {
  readonly platform: Platform
  readonly limits: ImageLimits
  readonly signal?: AbortSignal | undefined
  /** Sees every index on the way to the manifest, proven, outermost first: a signature may be for one of them. */
  readonly onIndex?: (document: Buffer) => void
}

/** An image that was found: its manifest, proven, and where its content is. */
export interface FoundImage {
  readonly digest: Digest
  readonly mediaType: string
  /** The manifest document itself; its digest is `digest`. */
  readonly document: Buffer
  readonly manifest: Manifest
  readonly blobs: BlobSource
}

/** A place that holds one or more images. */
export interface ImageSource extends AsyncDisposable {
  /** Finds the image's manifest digest with as little reading as possible, for "is it in the store already?". */
  locate(options: ResolveOptions): Promise<Descriptor>
  /** Where the content behind descriptors is. */
  readonly blobs: BlobSource
}

/**
 * Follows indexes from `start` down to the manifest for a platform.
 *
 * @throws ImageError `platform-missing`, `media-type`, `limit`, and what reading documents throws
 */
export async function locateManifest(
  start: Descriptor,
  blobs: BlobSource,
  options: ResolveOptions,
): Promise<Descriptor> {
  let at = start
  for (let depth = 0; documentKind(at.mediaType) === "index"; depth++) {
    if (depth >= options.limits.indexDepth) {
      const { indexDepth: max } = options.limits
      throw new ImageError("limit", `indexes are nested more than ${max} deep`, {
        limit: "indexDepth",
        value: depth + 1,
        max,
      })
    }
    const document = await readDocument(blobs, at, "index", options.limits.documentBytes, options.signal)
    options.onIndex?.(document)
    at = pickPlatform(
      readIndex(parseJsonObject(document, "index"), at.mediaType, options.limits),
      options.platform,
    )
  }
  if (documentKind(at.mediaType) === "manifest") return at
  throw new ImageError("media-type", `not an image manifest: ${JSON.stringify(at.mediaType)}`, {
    mediaType: at.mediaType,
  })
}

/** Reads and proves the manifest that `locate` found. */
export async function readFoundImage(
  at: Descriptor,
  blobs: BlobSource,
  options: ResolveOptions,
): Promise<FoundImage> {
  const document = await readDocument(blobs, at, "manifest", options.limits.documentBytes, options.signal)
  const manifest = readManifest(parseJsonObject(document, "manifest"), at.mediaType, options.limits)
  return { digest: at.digest, mediaType: at.mediaType, document, manifest, blobs }
}

/** An image's configuration and the document it was read from. */
export interface FoundConfig extends ConfigDocument {
  readonly document: Buffer
}

/** Reads and proves an image's configuration, and checks that it fits the manifest and the platform. */
export async function readFoundConfig(image: FoundImage, options: ResolveOptions): Promise<FoundConfig> {
  const document = await readDocument(
    image.blobs,
    image.manifest.config,
    "image config",
    options.limits.documentBytes,
    options.signal,
  )
  const parsed = readConfig(parseJsonObject(document, "image config"))
  const layers = image.manifest.layers.length
  if (parsed.diffIds.length !== layers) {
    const diffIds = parsed.diffIds.length
    throw new ImageError("config-invalid", `image config names ${diffIds} layers, the manifest ${layers}`, {
      diffIds,
      layers,
    })
  }
  const offered = parsed.config.platform
  if (offered.os !== "" && platformRank(offered, options.platform) === undefined) {
    const [is, wanted] = [formatPlatform(offered), formatPlatform(options.platform)]
    throw new ImageError("platform-missing", `image is for ${is}, wanted ${wanted}`, { wanted, offered: is })
  }
  return { ...parsed, document }
}

/** A blob source over documents in memory, in front of another one. */
export function withDocuments(documents: readonly Buffer[], behind: BlobSource): BlobSource {
  const known = new Map(documents.map(d => [digestOf(d), d]))
  return {
    open(request, signal) {
      const document = known.get(request.digest)
      return document ? once(document) : behind.open(request, signal)
    },
  }
}

async function* once(document: Buffer): AsyncGenerator<Buffer> {
  yield document
}
