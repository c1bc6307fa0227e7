import { checkDigest, digestOf, parseDigest } from "../digest.js"
import { ImageError, isImageError, printable } from "../errors.js"
import { formatReference, type Reference } from "../references.js"
import type { BlobRequest, BlobSource } from "../sources/blob.js"
import { type ImageSource, locateManifest, type ResolveOptions, withDocuments } from "../sources/source.js"
import { type Descriptor, documentKind } from "../spec/manifest.js"
import { INDEX_TYPES, MANIFEST_TYPES } from "../spec/media-types.js"
import type { Authorizer } from "./authorizer.js"
import { streamBlob } from "./blob-stream.js"
import { type Endpoint, endpointsOf, type RegistryHosts } from "./hosts.js"
import { readBody } from "./read-body.js"
import type { Answer, Transport } from "./transport.js"

const DOCUMENT_TYPES = [...MANIFEST_TYPES, ...INDEX_TYPES].join(", ")
const DUMP_MAX = 64 * 1024

/** What a source talks through. */
export interface RegistryAccess {
  readonly transport: Transport
  readonly authorizer: Authorizer
  readonly hosts: RegistryHosts
}

/**
 * One image in a registry. Mirrors are asked first; one that fails, however it does, is passed over.
 *
 * @see OCI distribution spec 1.1, "Pull"
 */
export class RegistrySource implements ImageSource {
  readonly #access: RegistryAccess
  readonly #reference: Reference
  readonly #endpoints: readonly Endpoint[]
  readonly blobs: BlobSource
  #behind: BlobSource

  constructor(reference: Reference, access: RegistryAccess) {
    this.#reference = reference
    this.#access = access
    this.#endpoints = endpointsOf(reference.registry, access.hosts)
    this.#behind = { open: (request, signal) => this.#open(request, signal) }
    this.blobs = { open: (request, signal) => this.#behind.open(request, signal) }
  }

  /**
   * Asks what the name stands for now. A digest in the name is what counts, whatever its tag says.
   *
   * @throws ImageError `registry-…`, `digest-mismatch`, `media-type`, and what {@link locateManifest} throws
   */
  async locate(options: ResolveOptions): Promise<Descriptor> {
    const { document, mediaType } = await this.#firstOf(
      endpoint => this.#manifest(endpoint, options),
      options.signal,
    )
    const start = { mediaType, digest: digestOf(document), size: document.length }
    this.#behind = withDocuments([document], this.#behind)
    return await locateManifest(start, this.blobs, options)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // Connections are the client's.
  }

  async #manifest(
    endpoint: Endpoint,
    { limits, signal }: ResolveOptions,
  ): Promise<{ document: Buffer; mediaType: string }> {
    const { digest, tag = "latest" } = this.#reference
    const path = `manifests/${digest ?? tag}`
    const answer = await this.#get(endpoint, path, { accept: DOCUMENT_TYPES }, signal)
    const document = await readBody(answer, limits.documentBytes, new URL(endpoint.origin))
    const promised = digest ?? promisedDigest(answer)
    if (promised) checkDigest(`manifest ${formatReference(this.#reference)}`, promised, digestOf(document))
    return { document, mediaType: documentType(answer) }
  }

  async *#open(request: BlobRequest, signal?: AbortSignal): AsyncGenerator<Buffer> {
    const folder = documentKind(request.mediaType ?? "") ? "manifests" : "blobs"
    const path = `${folder}/${request.digest}`
    const accept = folder === "manifests" ? { accept: DOCUMENT_TYPES } : {}
    // Which endpoint has it shows with the first answer; then the stream stays with that one.
    const first = await this.#firstOf(
      async endpoint => ({ endpoint, answer: await this.#get(endpoint, path, accept, signal) }),
      signal,
    )
    const { endpoint } = first
    let unused: Answer | undefined = first.answer
    const open = async (from: number) => {
      const answer = unused
      unused = undefined
      const range = from > 0 ? { range: `bytes=${from}-` } : {}
      return answer ?? (await this.#get(endpoint, path, { ...accept, ...range }, signal))
    }
    yield* streamBlob(request, new URL(endpoint.origin), this.#access.transport, open, signal)
  }

  async #firstOf<T>(ask: (endpoint: Endpoint) => Promise<T>, signal: AbortSignal | undefined): Promise<T> {
    for (const endpoint of this.#endpoints) {
      try {
        return await ask(endpoint)
      } catch (error) {
        signal?.throwIfAborted()
        if (!endpoint.isMirror || !isImageError(error)) throw error
      }
    }
    throw new ImageError("registry-unavailable", `nobody answers for ${this.#reference.registry}`)
  }

  /** A GET that was let in. One 401 is answered; a second one is the end. */
  async #get(
    endpoint: Endpoint,
    path: string,
    headers: Record<string, string>,
    signal: AbortSignal | undefined,
  ): Promise<Answer> {
    const { transport, authorizer } = this.#access
    const { registry, repository } = this.#reference
    const url = new URL(`/v2/${repository}/${path}`, endpoint.origin)
    const ask = { url, endpoint, headers, signal }
    const first = await transport.get({ ...ask, authorization: authorizer.known(endpoint, repository) })
    if (first.statusCode !== 401) return this.#check(first, url)
    await first.body.dump({ limit: DUMP_MAX })
    authorizer.forget(endpoint, repository)
    const authorization = await authorizer.answer(first, endpoint, registry, repository, signal)
    return this.#check(await transport.get({ ...ask, authorization }), url)
  }

  async #check(answer: Answer, url: URL): Promise<Answer> {
    if (answer.statusCode === 200 || answer.statusCode === 206) return answer
    await answer.body.dump({ limit: DUMP_MAX })
    throw refusal(answer.statusCode, url, formatReference(this.#reference))
  }
}

function refusal(status: number, { host, pathname }: URL, name: string): ImageError {
  const fields = { host, status, path: pathname }
  if (status === 404) return new ImageError("registry-not-found", `${host} does not have ${name}`, fields)
  if (status === 401)
    return new ImageError(
      "registry-unauthorized",
      `${host} does not let anybody see ${name} as asked`,
      fields,
    )
  if (status === 403) return new ImageError("registry-denied", `${host} denies access to ${name}`, fields)
  return new ImageError("registry-protocol", `${host} answers ${status} for ${name}`, fields)
}

/** What the registry says the document's digest is. @throws ImageError `digest-invalid` */
function promisedDigest({ headers }: Answer): ReturnType<typeof parseDigest> | undefined {
  const value = headers["docker-content-digest"]
  // Others than sha256 are lawful; ours is computed anyway.
  return typeof value === "string" && value.startsWith("sha256:") ? parseDigest(value) : undefined
}

/** @throws ImageError `media-type` */
function documentType({ headers }: Answer): string {
  const value = headers["content-type"]
  const mediaType = (typeof value === "string" ? value : "").split(";", 1)[0]?.trim() ?? ""
  if (documentKind(mediaType)) return mediaType
  throw new ImageError("media-type", `the registry answers with ${printable(mediaType)}, no image manifest`, {
    mediaType: printable(mediaType),
  })
}
