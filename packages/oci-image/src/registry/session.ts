import type { Readable } from "node:stream"
import { ImageError, isImageError } from "../errors.js"
import type { BlobRequest } from "../sources/blob.js"
import type { Authorizer, Rights, Want } from "./authorizer.js"
import { streamBlob } from "./blob-stream.js"
import { MAY_PASS } from "./failures.js"
import { type Endpoint, endpointsOf, maySendOn, type RegistryHosts } from "./hosts.js"
import { type BodyOrigin, readBody } from "./read-body.js"
import { statusError } from "./status-error.js"
import { type Answer, discard, type Transport } from "./transport.js"

/** What requests go through. */
export interface RegistryAccess {
  readonly transport: Transport
  readonly authorizer: Authorizer
}

/** A repository of a registry. */
export interface Place {
  readonly registry: string
  /** Empty to talk to the registry as such. */
  readonly repository: string
}

/** One request of a {@link Session}. */
export interface SessionRequest {
  readonly method?: "GET" | "HEAD" | "POST" | "PUT" | "PATCH"
  /** Path below `/v2/REPOSITORY/`, or the whole address. */
  readonly to: string | URL
  readonly headers?: Readonly<Record<string, string>>
  readonly body?: () => Buffer | Readable
  /** How often it is tried at most. */
  readonly attempts?: number
  /** Says in messages what was asked. */
  readonly what: string
}

/** A document, and the answer that it came with. */
export interface FetchedDocument {
  readonly answer: Answer
  readonly document: Buffer
}

/** Requests to one repository, of a registry or of a mirror of it. */
export class Session {
  readonly endpoint: Endpoint
  readonly signal: AbortSignal | undefined
  readonly #access: RegistryAccess
  readonly #want: Want

  constructor(
    access: RegistryAccess,
    { registry, repository }: Place,
    rights: Rights,
    signal: AbortSignal | undefined,
    endpoint = originOf(registry, access.transport.hosts),
  ) {
    this.#access = access
    this.endpoint = endpoint
    this.signal = signal
    this.#want = { endpoint, registry, repository, rights, signal }
  }

  /** A path below the repository as a whole address. */
  url(path: string): URL {
    const { repository } = this.#want
    const folder = repository === "" ? "/v2/" : `/v2/${repository}/`
    return new URL(`${folder}${path}`, this.endpoint.origin)
  }

  /**
   * An address that the registry gave, resolved.
   *
   * @throws ImageError `registry-protocol`, `registry-insecure`
   */
  resolve(location: string | string[] | undefined, base: URL): URL {
    const { host } = base
    if (typeof location !== "string" || !URL.canParse(location, base.href))
      throw new ImageError("registry-protocol", `${host} does not say where to go on`, { host })
    const url = new URL(location, base)
    if (maySendOn(base, url, this.#access.transport.hosts)) return url
    throw new ImageError(
      "registry-insecure",
      `${host} sends us on to ${url.protocol}//${url.host}: only https is followed, or what plainHttp is set for`,
      { host, to: url.host },
    )
  }

  /**
   * Asks, and answers one 401; credentials go to the registry's own origin only.
   *
   * @param statuses - what is a success
   * @returns an answer with one of `statuses`; its body has to be read or dumped
   * @throws ImageError `registry-…` for any other
   */
  async ask(request: SessionRequest, ...statuses: number[]): Promise<Answer> {
    const url = typeof request.to === "string" ? this.url(request.to) : request.to
    const answer = await this.#send(request, url)
    if (statuses.includes(answer.statusCode)) return answer
    throw await statusError(answer, this.#originOf(url), request.what)
  }

  /** {@link ask} for an answer whose body does not matter. */
  async tell(request: SessionRequest, ...statuses: number[]): Promise<Answer> {
    const answer = await this.ask(request, ...statuses)
    await discard(answer)
    return answer
  }

  /**
   * {@link ask} for a document, which is read whole: anew, should its answer break off.
   *
   * @throws ImageError `limit` above `max` bytes, and what asking throws
   */
  async fetch(request: SessionRequest, max: number, ...statuses: number[]): Promise<FetchedDocument> {
    const { attempts } = this.#access.transport.options
    const url = typeof request.to === "string" ? this.url(request.to) : request.to
    for (let attempt = 1; ; attempt++) {
      const answer = await this.ask(request, ...statuses)
      try {
        return { answer, document: await readBody(answer, max, this.#originOf(url)) }
      } catch (error) {
        this.signal?.throwIfAborted()
        if (!isImageError(error) || !MAY_PASS.has(error.code) || attempt >= attempts) throw error
        await this.wait(attempt)
      }
    }
  }

  /** A blob's bytes, from as many requests as it takes. */
  stream(blob: BlobRequest, url: URL, ask: (from: number) => Promise<Answer>): AsyncGenerator<Buffer> {
    return streamBlob(blob, url, this.#access.transport, ask, this.signal)
  }

  #originOf(url: URL): BodyOrigin {
    return { url, transport: this.#access.transport, signal: this.signal }
  }

  /** Waits before try `attempt` + 1 of something larger than one request. */
  wait(attempt: number): Promise<void> {
    return this.#access.transport.wait(attempt, 0, this.signal)
  }

  async #send({ method = "GET", headers = {}, body, attempts }: SessionRequest, url: URL): Promise<Answer> {
    const { transport, authorizer } = this.#access
    const { endpoint, signal } = this
    const isOwn = url.origin === endpoint.origin
    const ask = { method, url, endpoint, headers, body, attempts, signal }
    const known = isOwn ? authorizer.known(this.#want) : undefined
    const first = await transport.send({ ...ask, authorization: known })
    if (first.statusCode !== 401 || !isOwn) return first
    await discard(first)
    // What let us in before may have run out. A second 401 is the end, with what was made for the first.
    authorizer.forget(this.#want)
    const authorization = await authorizer.answer(first, this.#want)
    return transport.send({ ...ask, authorization })
  }
}

/** The registry itself is the last of those that answer for it. */
function originOf(registry: string, hosts: RegistryHosts): Endpoint {
  return endpointsOf(registry, hosts).at(-1) as Endpoint
}
