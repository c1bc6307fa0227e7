import { setTimeout as sleep } from "node:timers/promises"
import { Agent, type Dispatcher, request } from "undici"
import { ImageError } from "../errors.js"
import type { Endpoint } from "./hosts.js"

/** Times and counts of the transport. Times in milliseconds. */
export interface TransportOptions {
  /** For a connection to stand, TLS included. Default 30,000. */
  readonly connectTimeoutMs?: number
  /** For an answer to begin, and for more of it to come. Default 60,000. */
  readonly idleTimeoutMs?: number
  /** How often one request is tried. Default 5. */
  readonly attempts?: number
  /** Wait before the second try; it doubles with each, and a random half of it is left out. Default 500. */
  readonly backoffMs?: number
  /** Longest wait, whatever a server asks for. Default 60,000. */
  readonly maxBackoffMs?: number
  /** Answer slower than this for a whole `idleTimeoutMs` and it is given up, in bytes per second. Default 1024. */
  readonly minBytesPerSecond?: number
}

/** One answer whose body is still to be read. */
export type Answer = Dispatcher.ResponseData

/** What to ask. */
export interface Ask {
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
}
const REDIRECTS_MAX = 5
const REDIRECTS: ReadonlySet<number> = new Set([301, 302, 303, 307, 308])
const CONNECTIONS_PER_ORIGIN = 8
/** Bytes of an unwanted body that are read to keep a connection; above this it is closed. */
const DUMP_MAX = 64 * 1024
/** Errors of Node's TLS that say "not whom you wanted to talk to". */
const TLS_ERROR = /^(CERT_|ERR_TLS_|ERR_SSL_|DEPTH_ZERO|SELF_SIGNED|UNABLE_TO_|EPROTO$|HOSTNAME_MISMATCH)/
/** A host that does not exist does not begin to when it is asked again. */
const FINAL_ERROR = /^(ENOTFOUND|ERR_INVALID_URL|HPE_)/

/**
 * GET with redirects, time-outs and retries, over HTTPS unless plain HTTP was allowed. It knows nothing of registries
 * but that their credentials stay with them.
 */
export class Transport {
  readonly options: Required<TransportOptions>
  readonly #agents = new Map<string, Agent>()

  constructor(options: TransportOptions = {}) {
    this.options = { ...DEFAULTS, ...options }
  }

  /**
   * One GET, tried again while the trouble may pass: no connection, 429, 5xx.
   *
   * @returns any other answer, whatever its status; its body has to be read or dumped
   * @throws ImageError `registry-unavailable`, `registry-rate-limited`, `registry-tls`, `registry-redirect`,
   * `registry-insecure`, `registry-protocol`; the signal's reason
   */
  async get(ask: Ask): Promise<Answer> {
    for (let attempt = 1; ; attempt++) {
      const result = await this.#try(ask)
      const isLast = attempt >= this.options.attempts
      if ("answer" in result) {
        const { answer } = result
        if (answer.statusCode !== 429 && answer.statusCode < 500) return answer
        await answer.body.dump({ limit: DUMP_MAX })
        if (isLast) throw unavailable(ask.url, answer.statusCode)
        await this.wait(attempt, retryAfter(answer), ask.signal)
      } else {
        if (isLast || !result.mayPass) throw result.error
        await this.wait(attempt, 0, ask.signal)
      }
    }
  }

  /** Waits before try `attempt` + 1. @param atLeastMs what the server asked for */
  async wait(attempt: number, atLeastMs: number, signal: AbortSignal | undefined): Promise<void> {
    const { backoffMs, maxBackoffMs } = this.options
    const backoff = backoffMs * 2 ** (attempt - 1) * (0.5 + Math.random() / 2)
    await sleep(Math.min(Math.max(backoff, atLeastMs), maxBackoffMs), undefined, signal ? { signal } : {})
  }

  /** Closes every connection. */
  async close(): Promise<void> {
    await Promise.all([...this.#agents.values()].map(agent => agent.destroy()))
    this.#agents.clear()
  }

  async #try(ask: Ask): Promise<{ answer: Answer } | { error: Error; mayPass: boolean }> {
    try {
      return { answer: await this.#follow(ask) }
    } catch (cause) {
      ask.signal?.throwIfAborted()
      if (cause instanceof ImageError) return { error: cause, mayPass: false }
      return { error: connectionError(ask.url, cause), mayPass: mayPass(cause) }
    }
  }

  async #follow(ask: Ask): Promise<Answer> {
    let url = ask.url
    for (let hops = 0; hops <= REDIRECTS_MAX; hops++) {
      const answer = await this.#send(ask, url)
      const { location } = answer.headers
      if (!REDIRECTS.has(answer.statusCode) || typeof location !== "string") return answer
      await answer.body.dump({ limit: DUMP_MAX })
      url = redirectTarget(location, url, ask.endpoint)
    }
    throw new ImageError("registry-redirect", `${ask.url.host} redirects more than ${REDIRECTS_MAX} times`, {
      host: ask.url.host,
    })
  }

  #send(ask: Ask, url: URL): Promise<Answer> {
    const isOwn = url.origin === ask.url.origin
    return request(url, {
      dispatcher: this.#agent(isOwn ? ask.endpoint.ca : undefined),
      headers: {
        ...ask.headers,
        "accept-encoding": "identity",
        "user-agent": "ts-vmm",
        ...(isOwn && ask.authorization !== undefined ? { authorization: ask.authorization } : {}),
      },
      signal: ask.signal ?? null,
      headersTimeout: this.options.idleTimeoutMs,
      bodyTimeout: this.options.idleTimeoutMs,
    })
  }

  #agent(ca: string | undefined): Agent {
    const key = ca ?? ""
    const known = this.#agents.get(key)
    if (known) return known
    const agent = new Agent({
      connections: CONNECTIONS_PER_ORIGIN,
      connect: { timeout: this.options.connectTimeoutMs, ...(ca === undefined ? {} : { ca }) },
    })
    this.#agents.set(key, agent)
    return agent
  }
}

/** @throws ImageError `registry-redirect`, `registry-insecure` */
function redirectTarget(location: string, from: URL, endpoint: Endpoint): URL {
  if (!URL.canParse(location, from.href))
    throw new ImageError("registry-redirect", `${from.host} redirects to no address`, { host: from.host })
  const to = new URL(location, from)
  if (to.protocol === "https:" || (to.protocol === "http:" && endpoint.plainHttp)) return to
  throw new ImageError(
    "registry-insecure",
    `${from.host} redirects to ${to.protocol}//${to.host}: only https is followed, unless plainHttp is set for the host`,
    { host: from.host, to: to.host },
  )
}

function unavailable(url: URL, status: number): ImageError {
  const code = status === 429 ? "registry-rate-limited" : "registry-unavailable"
  const what = status === 429 ? "takes no more requests for now" : "is in trouble"
  return new ImageError(code, `${url.host} ${what} (HTTP ${status}): try again later`, {
    host: url.host,
    status,
  })
}

/** What a server asks to be left alone for, in milliseconds. @see RFC 9110, 10.2.3 */
export function retryAfter({ headers }: Pick<Answer, "headers">, now = Date.now()): number {
  const value = headers["retry-after"]
  if (typeof value !== "string") return 0
  if (/^\d{1,9}$/.test(value)) return Number(value) * 1000
  const date = Date.parse(value)
  return Number.isNaN(date) ? 0 : Math.max(0, date - now)
}

/** Whether trying again may help. */
export function mayPass(error: unknown): boolean {
  const { code = "" } = error as NodeJS.ErrnoException
  return !TLS_ERROR.test(code) && !FINAL_ERROR.test(code)
}

/** The error for a connection that failed, by Node's and undici's codes. */
export function connectionError(url: URL, cause: unknown): ImageError {
  const { code = "", message = "" } = cause as NodeJS.ErrnoException
  const fields = { host: url.host, errno: code }
  if (TLS_ERROR.test(code)) {
    const hint = "set ca for the host, or plainHttp if it speaks no TLS"
    return new ImageError("registry-tls", `${url.host} is not trusted (${code}): ${hint}`, fields, { cause })
  }
  if (code.startsWith("HPE_") || code.includes("CONTENT_LENGTH"))
    return new ImageError("registry-protocol", `${url.host} does not speak HTTP well: ${code}`, fields, {
      cause,
    })
  const kind = code.endsWith("_TIMEOUT") ? "registry-timeout" : "registry-unavailable"
  return new ImageError(kind, `cannot reach ${url.host}: ${code || message}`, fields, { cause })
}
