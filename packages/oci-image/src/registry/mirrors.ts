import { ImageError, isImageError } from "../errors.js"
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

/** Is told of trouble that was got around: its code, message and fields say what and where. */
export type WarningListener = (warning: ImageError) => void

/** Asks those that answer for a registry, mirrors first; one that fails, however it does, is passed over. */
export class Mirrors {
  readonly #transport: Transport
  /** By origin: until when it is left out. */
  readonly #resting = new Map<string, number>()
  /** Origins that gave something else than they were asked for: they are not asked again. */
  readonly #distrusted = new Set<string>()
  readonly #onWarning: WarningListener

  constructor(transport: Transport, onWarning: WarningListener = () => undefined) {
    this.#transport = transport
    this.#onWarning = onWarning
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
      if ((mirror.pullByDigestOnly && !byDigest) || this.#isLeftOut(mirror)) continue
      try {
        return await ask(mirror)
      } catch (error) {
        signal?.throwIfAborted()
        if (!isImageError(error)) throw error
        if (OUT_OF_ORDER.has(error.code)) this.#rest(mirror)
        if (error.code === "digest-mismatch") this.distrust(mirror, error)
      }
    }
    return ask(endpoints.at(-1) as Endpoint)
  }

  /** Never asks a mirror again: what it gave was not what its digest says, or never came to its end. */
  distrust({ origin }: Endpoint, why: ImageError): void {
    if (this.#distrusted.has(origin)) return
    this.#distrusted.add(origin)
    const { host } = new URL(origin)
    const message = `the mirror ${host} is left out from now on: ${why.message}`
    this.#onWarning(new ImageError(why.code, message, { ...why.fields, host }, { cause: why }))
  }

  #isLeftOut({ origin }: Endpoint): boolean {
    if (this.#distrusted.has(origin)) return true
    return this.#transport.options.clock.now() < (this.#resting.get(origin) ?? 0)
  }

  #rest({ origin }: Endpoint): void {
    this.#resting.set(origin, this.#transport.options.clock.now() + REST_MS)
  }
}
