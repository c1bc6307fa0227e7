import { checkDigest, type Digest, digestOf, parseDigest } from "../digest.js"
import { ImageError, isImageError, printable } from "../errors.js"
import { formatReference, type Reference } from "../references.js"
import type { BlobRequest, BlobSource } from "../sources/blob.js"
import { type ImageSource, locateManifest, type ResolveOptions, withDocuments } from "../sources/source.js"
import { Fields, parseJsonObject } from "../spec/json.js"
import { type Descriptor, documentKind } from "../spec/manifest.js"
import { INDEX_TYPES, MANIFEST_TYPES } from "../spec/media-types.js"
import type { Endpoint } from "./hosts.js"
import type { Mirrors } from "./mirrors.js"
import { readRange } from "./range.js"
import { type RegistryAccess, Session, type SessionRequest } from "./session.js"
import type { Answer } from "./transport.js"

const ACCEPT = { accept: [...MANIFEST_TYPES, ...INDEX_TYPES].join(", ") }
/** What a registry says that does not look at what it has. */
const NO_TYPE: ReadonlySet<string> = new Set([
  "",
  "application/json",
  "application/octet-stream",
  "text/plain",
])

/** What a HEAD may end with that a GET may not, or says more about. */
const UNCLEAR: ReadonlySet<string> = new Set(["registry-not-found", "registry-protocol"])

/** A document whose digest is known because it was computed here. */
interface Found {
  readonly descriptor: Descriptor
  /** There when it had to be read to be found. */
  readonly document?: Buffer
}

/**
 * One image in a registry. Mirrors are asked first.
 *
 * @see OCI distribution spec 1.1, "Pull"
 */
export class RegistrySource implements ImageSource {
  readonly blobs: BlobSource
  readonly #access: RegistryAccess
  readonly #mirrors: Mirrors
  readonly #reference: Reference
  #behind: BlobSource
  /** Who gave a blob the last time. */
  readonly #givers = new Map<Digest, Endpoint>()

  constructor(reference: Reference, access: RegistryAccess, mirrors: Mirrors) {
    this.#reference = reference
    this.#access = access
    this.#mirrors = mirrors
    this.#behind = { open: (request, signal) => this.#open(request, signal) }
    this.blobs = {
      open: (request, signal) => this.#behind.open(request, signal),
      range: (request, from, to, signal) =>
        readRange({ access, mirrors, reference }, request, [from, to], signal),
      reject: ({ digest }, why) => this.#reject(digest, why),
    }
  }

  /**
   * Asks what the name stands for now. A digest in the name is what counts, whatever its tag says.
   *
   * @throws ImageError `registry-…`, `digest-mismatch`, `media-type`, `limit`, and what {@link locateManifest} throws
   */
  async locate(options: ResolveOptions): Promise<Descriptor> {
    const { registry, digest } = this.#reference
    const { descriptor, document } = await this.#mirrors.firstOf(
      registry,
      digest !== undefined,
      options.signal,
      endpoint => this.#find(this.#session(endpoint, options.signal), options.limits.documentBytes),
    )
    if (document) this.#behind = withDocuments([document], this.#behind)
    return await locateManifest(descriptor, this.blobs, options)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // Connections are the client's.
  }

  #session(endpoint: Endpoint, signal: AbortSignal | undefined): Session {
    return new Session(this.#access, this.#reference, {}, signal, endpoint)
  }

  /** A HEAD is enough for an image that is in the store already; registries that count pulls do not count it. */
  async #find(session: Session, max: number): Promise<Found> {
    const { digest, tag = "latest" } = this.#reference
    const what = `the question for ${formatReference(this.#reference)}`
    const request = { to: `manifests/${digest ?? tag}`, headers: ACCEPT, what }
    const head = await this.#head(session, request)
    if (head) return { descriptor: head }
    const { answer, document } = await session.fetch(request, max, 200)
    const actual = digestOf(document)
    const promised = digest ?? promisedDigest(answer)
    if (promised) checkDigest(`manifest ${formatReference(this.#reference)}`, promised, actual)
    return {
      descriptor: { mediaType: documentType(answer, document), digest: actual, size: document.length },
      document,
    }
  }

  /** What the registry says without giving the document: it is proven when that is read. */
  async #head(session: Session, request: SessionRequest): Promise<Descriptor | undefined> {
    const wanted = this.#reference.digest
    const answer = await session.tell({ method: "HEAD", ...request }, 200).catch(error => {
      if (isImageError(error) && UNCLEAR.has(error.code)) return undefined
      throw error
    })
    if (!answer) return undefined
    const digest = promisedDigest(answer) ?? wanted
    const size = Number(answer.headers["content-length"] || Number.NaN)
    const mediaType = contentType(answer)
    if (!digest || !Number.isSafeInteger(size) || !documentKind(mediaType)) return undefined
    if (wanted) checkDigest(`manifest ${formatReference(this.#reference)}`, wanted, digest)
    return { mediaType, digest, size }
  }

  async *#open(request: BlobRequest, signal?: AbortSignal): AsyncGenerator<Buffer> {
    const { registry } = this.#reference
    if (documentKind(request.mediaType ?? "")) {
      // Read whole, so that a mirror with another document is passed over.
      yield await this.#mirrors.firstOf(registry, true, signal, endpoint =>
        this.#document(this.#session(endpoint, signal), request),
      )
      return
    }
    const to = `blobs/${request.digest}`
    const what = `the question for ${request.digest}`
    // Who has it shows with the first answer; then the stream stays there.
    const first = await this.#mirrors.firstOf(registry, true, signal, async endpoint => {
      const session = this.#session(endpoint, signal)
      return { session, answer: await session.ask({ to, what }, 200) }
    })
    this.#givers.set(request.digest, first.session.endpoint)
    let unused: Answer | undefined = first.answer
    yield* first.session.stream(request, first.session.url(to), async from => {
      const answer = unused
      unused = undefined
      if (answer) return answer
      const headers = from > 0 ? { range: `bytes=${from}-${request.size - 1}` } : {}
      return first.session.ask({ to, headers, what }, 200, 206)
    })
  }

  /** Behind each mirror is another place; behind the registry itself there is none. */
  #reject(digest: Digest, why: ImageError): boolean {
    const giver = this.#givers.get(digest)
    if (!giver?.isMirror) return false
    this.#mirrors.distrust(giver, why)
    return true
  }

  async #document(session: Session, { digest, size }: BlobRequest): Promise<Buffer> {
    const to = `manifests/${digest}`
    const request = { to, headers: ACCEPT, what: `the question for ${digest}` }
    const { document } = await session.fetch(request, size, 200)
    if (session.endpoint.isMirror) checkDigest("manifest", digest, digestOf(document))
    return document
  }
}

/** What the registry says the document's digest is. @throws ImageError `digest-invalid` */
function promisedDigest({ headers }: Answer): Digest | undefined {
  const value = headers["docker-content-digest"]
  // Others than sha256 are lawful; ours is computed anyway.
  return typeof value === "string" && value.startsWith("sha256:") ? parseDigest(value) : undefined
}

function contentType({ headers }: Answer): string {
  const value = headers["content-type"]
  return (typeof value === "string" ? value : "").split(";", 1)[0]?.trim().toLowerCase() ?? ""
}

/** A document speaks for itself only where the registry does not. @throws ImageError `media-type`, `json-invalid` */
function documentType(answer: Answer, document: Buffer): string {
  const said = contentType(answer)
  const json = NO_TYPE.has(said) ? parseJsonObject(document, "manifest") : undefined
  const mediaType = json ? new Fields(json, "manifest", "manifest-invalid").string("mediaType", 256) : said
  if (mediaType !== undefined && documentKind(mediaType)) return mediaType
  const shown = printable(mediaType ?? said)
  throw new ImageError("media-type", `the registry answers with ${shown}, which is no image manifest`, {
    mediaType: shown,
  })
}
