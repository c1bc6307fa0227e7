import { checkDigest, type Digest } from "../digest.js"
import { ImageError } from "../errors.js"
import { checkLimit, DEFAULT_LIMITS, type ImageLimits } from "../limits.js"
import type { Reference } from "../references.js"
import { type BlobSource, readDocument } from "../sources/blob.js"
import { Fields, parseJsonObject } from "../spec/json.js"
import { type Descriptor, documentKind, readDescriptor, readIndex } from "../spec/manifest.js"
import { type RegistryAccess, Session } from "./session.js"
import { type UploadOutcome, uploadBlob } from "./upload.js"

/** Blobs sent at once. Half of a host's connections: the other half may be what the blobs are read from. */
const PARALLEL = 3

/** How an image is pushed. */
export interface PushOptions {
  /** Repositories of the same registry that may have its layers: they are taken over instead of sent. */
  readonly mountFrom?: readonly string[]
  /** Overrides of `DEFAULT_LIMITS`. */
  readonly limits?: Partial<ImageLimits>
  readonly signal?: AbortSignal
  /** Called when a blob is there. */
  readonly onBlob?: (blob: Descriptor, outcome: UploadOutcome) => void
}

/** What a push did. */
export interface PushResult {
  /** Of the manifest or index that the name stands for now. */
  readonly digest: Digest
  /** How many blobs were there already, taken over, or sent. */
  readonly blobs: Readonly<Record<UploadOutcome, number>>
  /** Bytes of the blobs that were sent. */
  readonly bytes: number
}

/**
 * Sends an image, or an index with all of its images: blobs first, then manifests by digest, the name last. A push
 * that breaks leaves the name as it was.
 *
 * @throws ImageError `registry-…`, `media-type`, `manifest-invalid`, `limit`, and what reading the content throws
 * @see OCI distribution spec 1.1, "Push"
 */
export async function pushImage(
  access: RegistryAccess,
  reference: Reference,
  root: Descriptor,
  blobs: BlobSource,
  options: PushOptions,
): Promise<PushResult> {
  const { mountFrom = [], signal } = options
  const session = new Session(access, reference, { push: true, alsoFrom: mountFrom }, signal)
  const push = new Push(session, blobs, options, access.transport.options.attempts)
  if (reference.digest) checkDigest("the image to push", reference.digest, root.digest)
  await push.send(root, reference.digest ? (reference.tag ?? root.digest) : (reference.tag ?? "latest"))
  return push.result(root.digest)
}

class Push {
  readonly #session: Session
  readonly #blobs: BlobSource
  readonly #options: PushOptions
  readonly #attempts: number
  readonly #limits: ImageLimits
  readonly #counts: Record<UploadOutcome, number> = { present: 0, mounted: 0, uploaded: 0 }
  /** Blobs and manifests that are there: images share layers. */
  readonly #done = new Set<Digest>()
  #bytes = 0

  constructor(session: Session, blobs: BlobSource, options: PushOptions, attempts: number) {
    this.#session = session
    this.#blobs = blobs
    this.#options = options
    this.#attempts = attempts
    this.#limits = { ...DEFAULT_LIMITS, ...options.limits }
  }

  result(digest: Digest): PushResult {
    return { digest, blobs: { ...this.#counts }, bytes: this.#bytes }
  }

  /** @param name - tag or digest under which the registry shall have it */
  async send(at: Descriptor, name: string, depth = 0): Promise<void> {
    const { documentBytes, indexDepth } = this.#limits
    const kind = documentKind(at.mediaType)
    if (!kind) throw notPushable(at)
    checkLimit("indexDepth", depth, indexDepth, "nesting of indexes")
    const document = await readDocument(this.#blobs, at, kind, documentBytes, this.#options.signal)
    if (kind === "index") await this.#sendEntries(document, at, depth)
    else await this.#sendBlobs(contentOf(document, at, this.#limits))
    await this.#putManifest(document, at, name)
  }

  /** One after the other: their blobs go in parallel, and most are shared. */
  async #sendEntries(document: Buffer, { mediaType }: Descriptor, depth: number): Promise<void> {
    for (const entry of readIndex(parseJsonObject(document, "index"), mediaType, this.#limits).manifests) {
      if (this.#done.has(entry.digest)) continue
      await this.send(entry, entry.digest, depth + 1)
      this.#done.add(entry.digest)
    }
  }

  async #sendBlobs(content: readonly Descriptor[]): Promise<void> {
    const waiting = [...new Map(content.map(blob => [blob.digest, blob])).values()].reverse()
    const failures: unknown[] = []
    const work = async () => {
      for (let blob = waiting.pop(); blob && failures.length === 0; blob = waiting.pop())
        await this.#sendBlob(blob).catch(error => failures.push(error))
    }
    await Promise.all(Array.from({ length: PARALLEL }, work))
    if (failures.length > 0) throw failures[0]
  }

  async #sendBlob(blob: Descriptor): Promise<void> {
    if (this.#done.has(blob.digest)) return
    const { mountFrom = [], onBlob } = this.#options
    const outcome = await uploadBlob(this.#session, this.#blobs, blob, mountFrom, this.#attempts)
    this.#done.add(blob.digest)
    this.#counts[outcome]++
    if (outcome === "uploaded") this.#bytes += blob.size
    onBlob?.(blob, outcome)
  }

  async #putManifest(document: Buffer, { mediaType, digest }: Descriptor, name: string): Promise<void> {
    const headers = { "content-type": mediaType, "content-length": `${document.length}` }
    const put = { method: "PUT", to: `manifests/${name}`, headers, body: () => document } as const
    const answer = await this.#session.tell({ ...put, what: `storing the manifest ${name}` }, 201)
    const stored = answer.headers["docker-content-digest"]
    if (stored === undefined || stored === digest) return
    const { host } = new URL(this.#session.endpoint.origin)
    throw new ImageError("registry-protocol", `${host} stored the manifest under another digest`, {
      host,
      digest,
    })
  }
}

/** Config and layers, of artifacts too: what they are does not matter here. */
function contentOf(document: Buffer, at: Descriptor, limits: ImageLimits): Descriptor[] {
  const fields = new Fields(parseJsonObject(document, "manifest"), "manifest", "manifest-invalid")
  const own = fields.string("mediaType", 256)
  if (fields.has("manifests") || (own !== undefined && own !== at.mediaType)) throw notPushable(at)
  const layers = fields.array("layers", Number.MAX_SAFE_INTEGER) ?? []
  checkLimit("layers", layers.length, limits.layers, "layers of the manifest")
  const content = layers.map((layer, i) => readDescriptor(layer, `layer ${i}`))
  for (const { size } of content) checkLimit("blobBytes", size, limits.blobBytes, "size of a layer")
  return [readDescriptor(fields.raw("config"), "manifest config"), ...content]
}

function notPushable({ mediaType, digest }: Descriptor): ImageError {
  return new ImageError("media-type", `cannot push ${digest}: it is neither a manifest nor an index alone`, {
    mediaType,
  })
}
