import { isIP } from "node:net"
import { ImageError } from "../errors.js"
import { Fields, parseJsonObject } from "../spec/json.js"
import { parseChallenges } from "./challenge.js"
import type { CredentialSource, Credentials } from "./credentials.js"
import type { Endpoint } from "./hosts.js"
import { readBody } from "./read-body.js"
import type { Answer, Transport } from "./transport.js"

const TOKEN_REPLY_MAX = 1024 * 1024
const TOKEN_MAX = 65_536
/** What a header may carry: no way to end it early. */
const TOKEN = /^[\x21-\x7e]+$/

/**
 * Answers a registry's challenges, and remembers what it let us in with.
 *
 * Credentials go to the registry itself, and to the realm it names for tokens only if that is on the same host or a
 * host of the same domain, over https unless plain HTTP was allowed: any registry can name any realm. Mirrors are
 * registries of their own. Another realm is asked without credentials.
 *
 * @see distribution/distribution, "Token Authentication Specification"
 */
export class Authorizer {
  readonly #transport: Transport
  readonly #credentials: CredentialSource
  /** `Authorization` by origin and repository. */
  readonly #known = new Map<string, string>()

  constructor(transport: Transport, credentials: CredentialSource) {
    this.#transport = transport
    this.#credentials = credentials
  }

  /** What let us in before; undefined when nothing was needed or nothing is known. */
  known(endpoint: Endpoint, repository: string): string | undefined {
    return this.#known.get(`${endpoint.origin} ${repository}`)
  }

  /** Forgets what does not let us in any more: tokens live for some minutes. */
  forget(endpoint: Endpoint, repository: string): void {
    this.#known.delete(`${endpoint.origin} ${repository}`)
  }

  /**
   * The `Authorization` for an answer 401.
   *
   * @param registry - as image names have it, for the credentials
   * @throws ImageError `registry-unauthorized`, `registry-protocol`, `registry-insecure`, and what asking throws
   */
  async answer(
    answer: Answer,
    endpoint: Endpoint,
    registry: string,
    repository: string,
    signal: AbortSignal | undefined,
  ): Promise<string> {
    const header = answer.headers["www-authenticate"]
    const challenges = parseChallenges(Array.isArray(header) ? header.join(",") : (header ?? ""))
    const own = endpoint.isMirror ? new URL(endpoint.origin).host : registry
    const credentials = await this.#credentials(own)
    const bearer = challenges.find(({ scheme }) => scheme === "bearer")
    const hasBasic = challenges.some(({ scheme }) => scheme === "basic")
    const authorization = bearer
      ? `Bearer ${await this.#token(bearer.parameters, { endpoint, repository, credentials, signal })}`
      : hasBasic && credentials
        ? basic(credentials)
        : undefined
    if (authorization === undefined) throw unauthorized(registry, credentials !== undefined)
    this.#known.set(`${endpoint.origin} ${repository}`, authorization)
    return authorization
  }

  async #token(parameters: ReadonlyMap<string, string>, want: TokenRequest): Promise<string> {
    const { endpoint, credentials, repository, signal } = want
    const realm = checkRealm(parameters.get("realm") ?? "", endpoint)
    const url = new URL(realm)
    url.searchParams.set("scope", `repository:${repository}:pull`)
    const service = parameters.get("service")
    if (service) url.searchParams.set("service", service)
    const isTrusted = isSameSite(new URL(endpoint.origin), url)
    const answer = await this.#transport.get({
      url,
      endpoint: { ...endpoint, origin: url.origin },
      headers: { accept: "application/json" },
      authorization: credentials && isTrusted ? basic(credentials) : undefined,
      signal,
    })
    const body = await readBody(answer, TOKEN_REPLY_MAX, url)
    if (answer.statusCode !== 200) throw unauthorized(url.host, credentials !== undefined)
    return readToken(body, url.host)
  }
}

interface TokenRequest {
  readonly endpoint: Endpoint
  readonly repository: string
  readonly credentials: Credentials | undefined
  readonly signal: AbortSignal | undefined
}

/** @throws ImageError `registry-protocol`, `registry-insecure` */
function checkRealm(realm: string, endpoint: Endpoint): string {
  const host = new URL(endpoint.origin).host
  if (!URL.canParse(realm))
    throw new ImageError("registry-protocol", `${host} asks for a token but does not say of whom`, { host })
  const { protocol } = new URL(realm)
  if (protocol === "https:" || (protocol === "http:" && endpoint.plainHttp)) return realm
  throw new ImageError("registry-insecure", `${host} wants a token fetched over ${protocol}: only https is`, {
    host,
  })
}

/** Whether two hosts are one, or belong to one domain: `registry-1.docker.io` and `auth.docker.io`. */
export function isSameSite(a: URL, b: URL): boolean {
  if (a.hostname === b.hostname) return true
  const [first, second] = [a, b].map(({ hostname }) => hostname.toLowerCase().split("."))
  if (!first || !second || isIP(a.hostname) || isIP(b.hostname) || a.hostname.startsWith("[")) return false
  // Below `co.uk` and the like everybody has a name: of two labels, the last must not be a country's short one.
  const labels = (first.at(-1)?.length ?? 0) === 2 && (first.at(-2)?.length ?? 0) <= 3 ? 3 : 2
  if (first.length < labels || second.length < labels) return false
  return first.slice(-labels).join(".") === second.slice(-labels).join(".")
}

function readToken(body: Buffer, host: string): string {
  const fields = new Fields(parseJsonObject(body, `the token of ${host}`), host, "registry-protocol")
  const token = fields.string("token", TOKEN_MAX) || fields.string("access_token", TOKEN_MAX)
  if (token && TOKEN.test(token)) return token
  throw new ImageError("registry-protocol", `${host} answers without a token`, { host })
}

function basic({ username, password }: Credentials): string {
  return `Basic ${Buffer.from(`${username}:${password}`).toString("base64")}`
}

function unauthorized(host: string, hadCredentials: boolean): ImageError {
  const why = hadCredentials ? "does not take these credentials" : "wants credentials: use docker login"
  return new ImageError("registry-unauthorized", `${host} ${why}`, { host })
}
