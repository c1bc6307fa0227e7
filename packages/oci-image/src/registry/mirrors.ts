import { isImageError } from "../errors.js"
import { type Endpoint, endpointsOf } from "./hosts.js"
import type { Transport } from "./transport.js"

/** How long a mirror that does not answer is left out. */
const REST_MS = 60_000
/** Errors that are the mirror's, not of what it was asked for. */
const OUT_OF_ORDER: ReadonlySet<string> = new Set([
  "registry-unavailable",
  "registry-timeout",
  "registry-tls",
  "registry-rate-limited",
])

/** Asks those that answer for a registry, mirrors first; one that fails, however it does, is passed over. */
export class Mirrors {
  readonly #transport: Transport
  /** By origin: until when it is left out. */
  readonly #resting = new Map<string, number>()

  constructor(transport: Transport) {
    this.#transport = transport
  }

  /**
   * The first answer there is.
   *
   * @param byDigest - whether what is asked for can be proven
   * @throws what the registry itself says, if it comes to that; the signal's reason
   */
  async firstOf<T>(
    registry: string,
    byDigest: boolean,
    signal: AbortSignal | undefined,
    ask: (endpoint: Endpoint) => Promise<T>,
  ): Promise<T> {
    const endpoints = endpointsOf(registry, this.#transport.hosts)
    for (const mirror of endpoints.slice(0, -1)) {
      if ((mirror.pullByDigestOnly && !byDigest) || this.#isResting(mirror)) continue
      try {
        return await ask(mirror)
      } catch (error) {
        signal?.throwIfAborted()
        if (!isImageError(error)) throw error
        if (OUT_OF_ORDER.has(error.code)) this.#rest(mirror)
      }
    }
    return ask(endpoints.at(-1) as Endpoint)
  }

  #isResting({ origin }: Endpoint): boolean {
    return this.#transport.options.clock.now() < (this.#resting.get(origin) ?? 0)
  }

  #rest({ origin }: Endpoint): void {
    this.#resting.set(origin, this.#transport.options.clock.now() + REST_MS)
  }
}
