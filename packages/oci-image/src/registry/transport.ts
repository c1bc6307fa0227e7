import type { Readable } from "node:stream"
import type { Dispatcher } from "undici"
import { ImageError } from "../errors.js"
import { Agents } from "./agents.js"
import { type Clock, SYSTEM_CLOCK } from "./clock.js"
import { connectionError, MAY_PASS, mayPass, retryAfter, troubleError } from "./failures.js"
import { type Endpoint, endpointFor, maySendOn, type RegistryHosts } from "./hosts.js"
import { refusal } from "./proxy-connector.js"
import { type ProxyEnvironment, proxyFor } from "./proxy-settings.js"

/** Times and counts of the transport. Times in milliseconds. */
export interface TransportOptions {
  /** For a connection to stand, TLS included. Default 30,000. */
  readonly connectTimeoutMs?: number
  /** For an answer to begin, and for more of it to come. Default 60,000. */
  readonly idleTimeoutMs?: number
  /** How often one request is tried. Default 5; a mirror gets two at most. */
  readonly attempts?: number
  /** Wait before the second try; it doubles with each, and a random half of it is left out. Default 500. */
  readonly backoffMs?: number
  /** Longest wait, whatever a server asks for. Default 60,000. */
  readonly maxBackoffMs?: number
  /** Answer slower than this for a whole `idleTimeoutMs` and it is given up, in bytes per second. Default 1024. */
  readonly minBytesPerSecond?: number
  /** Requests that one host has at once; more wait. At least 6 when images are copied on one host. Default 8. */
  readonly connectionsPerHost?: number
  /** Default: the machine's own. */
  readonly clock?: Clock
  /** Where HTTPS_PROXY, HTTP_PROXY and NO_PROXY are looked up, as programs in Go do. Default: the process's. */
  readonly environment?: ProxyEnvironment
}

/** One answer whose body is still to be read. */
export type Answer = Dispatcher.ResponseData

/** What to ask. */
export interface Ask {
  /** Default GET. Only GET and HEAD follow redirects. */
  readonly method?: "GET" | "HEAD" | "POST" | "PUT" | "PATCH"
  /** What to send, made anew for each try. */
  readonly body?: (() => Buffer | Readable) | undefined
  /** How often at most, where that is less than the transport's own. */
  readonly attempts?: number | undefined
  readonly url: URL
  readonly endpoint: Endpoint
  readonly headers: Readonly<Record<string, string>>
  /** Sent to this origin only: a redirect to another one goes without. */
  readonly authorization?: string | undefined
  readonly signal?: AbortSignal | undefined
}

const DEFAULTS: Required<TransportOptions> = {
  connectTimeoutMs: 30_000,
  idleTimeoutMs: 60_000,
  attempts: 5,
  backoffMs: 500,
  maxBackoffMs: 60_000,
  minBytesPerSecond: 1024,
  connectionsPerHost: 8,
  clock: SYSTEM_CLOCK,
  environment: process.env,
}
const REDIRECTS_MAX = 5
const REDIRECTS: ReadonlySet<number> = new Set([301, 302, 303, 307, 308])
const MIRROR_ATTEMPTS = 2
/** Bytes of an unwanted body that are read to keep a connection; above this, or later, it is closed. */
const DISCARD_MAX = 16 * 1024
const DISCARD_MS = 5000

/**
 * Requests with redirects, time-outs and retries, over HTTPS unless plain HTTP was allowed. It knows nothing of
 * registries but that their credentials stay with them.
 */
export class Transport {
  readonly options: Required<TransportOptions>
  readonly hosts: RegistryHosts
  readonly #agents: Agents

  constructor(options: TransportOptions, hosts: RegistryHosts) {
    this.options = { ...DEFAULTS, ...options }
    this.hosts = hosts
    this.#agents = new Agents(this.options, hosts)
  }

  /**
   * One request, tried again while the trouble may pass: no connection, 429, 5xx.
   *
   * @returns any other answer, whatever its status; its body has to be read or discarded
   * @throws ImageError `registry-unavailable`, `registry-timeout`, `registry-rate-limited`, `registry-tls`,
   * `registry-redirect`, `registry-insecure`, `registry-protocol`; the signal's reason
   */
  async send(ask: Ask): Promise<Answer> {
    const { attempts } = this.options
    const allowed = Math.min(ask.attempts ?? attempts, ask.endpoint.isMirror ? MIRROR_ATTEMPTS : attempts)
    for (let attempt = 1; ; attempt++) {
      const result = await this.#try(ask)
      if ("answer" in result) return result.answer
      if (attempt >= allowed || !result.mayPass) throw result.error
      await this.wait(attempt, result.waitMs, ask.signal)
    }
  }

  /** Waits before try `attempt` + 1. @param atLeastMs what the server asked for */
  async wait(attempt: number, atLeastMs: number, signal: AbortSignal | undefined): Promise<void> {
    const { backoffMs, maxBackoffMs, clock } = this.options
    const backoff = backoffMs * 2 ** (attempt - 1) * (0.5 + clock.random() / 2)
    await clock.sleep(Math.min(Math.max(backoff, atLeastMs), maxBackoffMs), signal)
  }

  /** Closes every connection. */
  async close(): Promise<void> {
    await this.#agents.close()
  }

  async #try(ask: Ask): Promise<{ answer: Answer } | Failure> {
    try {
      const answer = await this.#follow(ask)
      if (answer.statusCode !== 429 && answer.statusCode < 500) return { answer }
      const isForGood = answer.statusCode === 501 || answer.statusCode === 505
      await discard(answer)
      const error = troubleError(ask.url, answer.statusCode)
      return { error, mayPass: !isForGood, waitMs: retryAfter(answer) }
    } catch (cause) {
      ask.signal?.throwIfAborted()
      if (cause instanceof ImageError) return { error: cause, mayPass: MAY_PASS.has(cause.code), waitMs: 0 }
      return { error: connectionError(ask.url, cause), mayPass: mayPass(cause), waitMs: 0 }
    }
  }

  async #follow(ask: Ask): Promise<Answer> {
    let url = ask.url
    // Once away, credentials stay away: whoever sent us back chose where to.
    let isOwn = true
    for (let hops = 0; hops <= REDIRECTS_MAX; hops++) {
      const answer = await this.#send(ask, url, isOwn)
      if (!isOwn && answer.statusCode === 401) throw await strangerAsks(answer, ask.url, url)
      const { location } = answer.headers
      if (!REDIRECTS.has(answer.statusCode) || typeof location !== "string") return answer
      await discard(answer)
      checkMethod(ask, url)
      url = redirectTarget(location, url, this.hosts)
      isOwn &&= url.origin === ask.url.origin
    }
    const { host } = ask.url
    throw new ImageError("registry-redirect", `${host} redirects more than ${REDIRECTS_MAX} times`, { host })
  }

  async #send(ask: Ask, url: URL, isOwn: boolean): Promise<Answer> {
    const { settings } = endpointFor(url, ask.endpoint, this.hosts)
    const proxy = proxyFor(url, settings, this.options.environment)
    // A proxy that sees the request itself, since it is not in a tunnel.
    const reader = url.protocol === "http:" ? proxy : undefined
    const path = url.pathname + url.search
    const answer = await this.#agents.agent(settings, proxy).request({
      origin: url.origin,
      path: reader ? url.origin + path : path,
      method: ask.method ?? "GET",
      body: ask.body?.() ?? null,
      headers: {
        ...(isOwn ? settings.headers : {}),
        ...ask.headers,
        "accept-encoding": "identity",
        "user-agent": "ts-vmm",
        ...(isOwn && ask.authorization !== undefined ? { authorization: ask.authorization } : {}),
        ...(reader?.authorization ? { "proxy-authorization": reader.authorization } : {}),
      },
      signal: ask.signal ?? null,
      headersTimeout: this.options.idleTimeoutMs,
      bodyTimeout: this.options.idleTimeoutMs,
    })
    if (!reader || answer.statusCode !== 407) return answer
    await discard(answer)
    throw refusal(reader, url.host, answer.statusCode)
  }
}

interface Failure {
  readonly error: Error
  readonly mayPass: boolean
  /** What the server asked for. */
  readonly waitMs: number
}

/** Reads what is left of an answer if that is little, and else ends the connection. */
export async function discard({ body }: Answer): Promise<void> {
  body.on("error", () => undefined) // it is thrown away, and how it ends with it
  try {
    await body.dump({ limit: DISCARD_MAX, signal: AbortSignal.timeout(DISCARD_MS) })
  } catch {
    body.destroy()
  }
}

/** @throws ImageError `registry-redirect` */
function checkMethod({ method = "GET" }: Ask, { host }: URL): void {
  if (method === "GET" || method === "HEAD") return
  throw new ImageError("registry-redirect", `${host} redirects a ${method}, which is not followed`, { host })
}

/** The host that was redirected to has no claim to the registry's credentials (CVE-2020-15157). */
async function strangerAsks(answer: Answer, { host }: URL, to: URL): Promise<ImageError> {
  await discard(answer)
  return new ImageError(
    "registry-redirect",
    `${host} redirects to ${to.host}, which wants credentials: it does not get those for ${host}`,
    { host, to: to.host },
  )
}

/** @throws ImageError `registry-redirect`, `registry-insecure` */
function redirectTarget(location: string, from: URL, hosts: RegistryHosts): URL {
  const { host } = from
  if (!URL.canParse(location, from.href))
    throw new ImageError("registry-redirect", `${host} redirects to no address`, { host })
  const to = new URL(location, from)
  if (maySendOn(from, to, hosts)) return to
  throw new ImageError(
    "registry-insecure",
    `${host} redirects to ${to.protocol}//${to.host}: only https is followed, or what plainHttp is set for`,
    { host, to: to.host },
  )
}
