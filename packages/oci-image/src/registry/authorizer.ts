import { ImageError } from "../errors.js"
import { parseChallenges } from "./challenge.js"
import type { CredentialSource, Credentials } from "./credentials.js"
import type { Endpoint } from "./hosts.js"
import { basicAuthorization, fetchToken } from "./token.js"
import type { Answer, Transport } from "./transport.js"

/** Part of a token's life after which it is not used any more: clocks differ, and requests take time. */
const USABLE_LIFE = 0.9
/** Ways in that are remembered; one for each repository and kind of access. */
const KNOWN_MAX = 10_000

/** What is asked for beyond reading one repository. */
export interface Rights {
  /** Whether the repository is written to. */
  readonly push?: boolean
  /** Repositories of the same registry that are read as well. */
  readonly alsoFrom?: readonly string[]
}

/** Whom access is wanted of, and to what. */
export interface Want {
  readonly endpoint: Endpoint
  /** As image names have it. */
  readonly registry: string
  /** Empty for the registry as such. */
  readonly repository: string
  readonly rights: Rights
  readonly signal: AbortSignal | undefined
}

interface Known {
  readonly authorization: string
  /** Of the transport's clock. */
  readonly until: number
}

/**
 * Answers a registry's challenges, and remembers what it let us in with.
 *
 * Credentials go to the registry itself, and to the realm it names for tokens only if that is trusted
 * (`isTrustedRealm`); another realm is asked without. Mirrors are registries of their own. What a token is asked for
 * is what is needed, not what the registry names.
 */
export class Authorizer {
  readonly #transport: Transport
  readonly #credentials: CredentialSource
  readonly #known = new Map<string, Known>()

  constructor(transport: Transport, credentials: CredentialSource) {
    this.#transport = transport
    this.#credentials = credentials
  }

  /** The `Authorization` that let us in before; undefined when nothing was needed, or it has run out. */
  known(want: Want): string | undefined {
    const known = this.#known.get(keyOf(want))
    return known && this.#transport.options.clock.now() < known.until ? known.authorization : undefined
  }

  /** Forgets what does not let us in any more. */
  forget(want: Want): void {
    this.#known.delete(keyOf(want))
  }

  /**
   * The `Authorization` for an answer 401.
   *
   * @throws ImageError `registry-unauthorized`, `registry-protocol`, `registry-insecure`, and what asking throws
   */
  async answer({ headers }: Answer, want: Want): Promise<string> {
    const { endpoint, registry, signal } = want
    const header = headers["www-authenticate"] ?? ""
    const challenges = parseChallenges(Array.isArray(header) ? header.join(",") : header)
    const credentials = await this.#credentials(endpoint.isMirror ? new URL(endpoint.origin).host : registry)
    const bearer = challenges.find(({ scheme }) => scheme === "bearer")
    if (!bearer) {
      const hasBasic = challenges.some(({ scheme }) => scheme === "basic")
      return this.#remember(want, basicAnswer(hasBasic, credentials, endpoint), Number.POSITIVE_INFINITY)
    }
    const request = { parameters: bearer.parameters, scopes: scopesOf(want), endpoint, credentials, signal }
    const { value, lifeMs } = await fetchToken(this.#transport, request)
    return this.#remember(want, `Bearer ${value}`, lifeMs * USABLE_LIFE)
  }

  #remember(want: Want, authorization: string, lifeMs: number): string {
    if (this.#known.size >= KNOWN_MAX) this.#known.clear()
    const until = this.#transport.options.clock.now() + lifeMs
    this.#known.set(keyOf(want), { authorization, until })
    return authorization
  }
}

function basicAnswer(isOffered: boolean, credentials: Credentials | undefined, { origin }: Endpoint): string {
  const { host } = new URL(origin)
  if (!isOffered)
    throw new ImageError("registry-unauthorized", `${host} names no way in that is known`, { host })
  if (credentials && !credentials.identityToken) return basicAuthorization(credentials)
  throw new ImageError("registry-unauthorized", `${host} wants credentials: use docker login`, { host })
}

/** None without a repository, for a log-in. */
function scopesOf({ repository, rights: { push = false, alsoFrom = [] } }: Want): string[] {
  if (repository === "") return []
  const own = `repository:${repository}:${push ? "pull,push" : "pull"}`
  return [own, ...alsoFrom.map(other => `repository:${other}:pull`)]
}

function keyOf(want: Want): string {
  return [want.endpoint.origin, ...scopesOf(want)].join(" ")
}
