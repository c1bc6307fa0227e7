/** How fast a device may work. A limit that is not given is none. */
export interface RateLimit {
  /** Bytes per second, more than 0. */
  readonly bytesPerSecond?: number
  /** Requests per second, more than 0. */
  readonly operationsPerSecond?: number
  /** Bytes that may pass at once after a pause, more than 0. Default: what one second allows. */
  readonly burstBytes?: number
  /** Requests that may pass at once after a pause, 1 or more. Default: what one second allows. */
  readonly burstOperations?: number
}

/** Where time comes from: any clock that never goes back, and a way to wait by it. */
export interface RateClock {
  /** Milliseconds, with fractions. */
  now(): number
  /** Calls `callback` once, after `ms` milliseconds or later. @returns what calls it off */
  after(ms: number, callback: () => void): () => void
}

/** Longest wait at once. Node's timers overflow at 2^31; a request may well owe more, and is asked for again. */
const MAX_WAIT_MS = 60_000
/** Share of a byte or operation that rounding may lose. */
const ROUNDING = 1e-6

/** The clock of this process. Waiting by it does not keep the process alive. */
export const monotonicClock: RateClock = {
  now: () => performance.now(),
  after(ms, callback) {
    const timer = setTimeout(callback, Math.min(ms, MAX_WAIT_MS)).unref()
    return () => clearTimeout(timer)
  },
}

/**
 * Two token buckets, of bytes and of operations, for one device or for several that share them.
 *
 * A request passes when both have what it needs. One that is larger than a whole burst passes when the bucket is full,
 * and leaves a debt for those after it. Over any time `t` no more than `burst + rate * t` passes, one such request
 * excepted. Time counts in fractions: nothing is lost between two questions.
 *
 * A timer is late by a millisecond or so: a burst of less than some milliseconds' worth keeps a device below its rate.
 *
 * @example
 * ```ts
 * const limiter = new RateLimiter({ bytesPerSecond: 10e6, operationsPerSecond: 500, burstBytes: 1e6 })
 * const waitMs = limiter.take(4096)   // 0: go on; else nothing was taken, and asking again is worth while then
 * const disk = new BlockDevice(backend, { rateLimit: limiter })
 * ```
 */
export class RateLimiter {
  /** What the limiter goes by. */
  readonly clock: RateClock
  readonly #bytes: Bucket | undefined
  readonly #operations: Bucket | undefined

  /** @throws RangeError for a limit that is not a finite number more than 0, and for less than one operation a burst */
  constructor(limit: RateLimit, clock: RateClock = monotonicClock) {
    const { bytesPerSecond, burstBytes = bytesPerSecond } = limit
    const { operationsPerSecond, burstOperations = Math.max(1, operationsPerSecond ?? 1) } = limit
    this.clock = clock
    checkPositive("bytesPerSecond", bytesPerSecond)
    checkPositive("burstBytes", burstBytes)
    checkPositive("operationsPerSecond", operationsPerSecond)
    checkPositive("burstOperations", burstOperations)
    if (burstOperations < 1) throw new RangeError("burstOperations must be 1 or more")
    if (bytesPerSecond !== undefined) this.#bytes = new Bucket(bytesPerSecond, burstBytes!, clock.now())
    if (operationsPerSecond !== undefined)
      this.#operations = new Bucket(operationsPerSecond, burstOperations, clock.now())
  }

  /** The limiter itself, or one of its own for a plain limit. @throws RangeError as the constructor */
  static of(limit: RateLimit | RateLimiter): RateLimiter {
    return limit instanceof RateLimiter ? limit : new RateLimiter(limit)
  }

  /**
   * Takes what one request of `bytes` needs, or nothing at all.
   *
   * @returns 0 when it may pass; else the milliseconds, more than 0, after which to ask again
   */
  take(bytes: number): number {
    const now = this.clock.now()
    const waitMs = Math.max(this.#bytes?.wait(bytes, now) ?? 0, this.#operations?.wait(1, now) ?? 0)
    if (waitMs > 0) return waitMs
    this.#bytes?.spend(bytes)
    this.#operations?.spend(1)
    return 0
  }
}

/** Tokens that come at a steady rate, up to a burst. */
class Bucket {
  readonly #perMs: number
  readonly #burst: number
  /** Below 0 after a request that was larger than a burst. */
  #tokens: number
  #filledAt: number

  constructor(perSecond: number, burst: number, now: number) {
    this.#perMs = perSecond / 1000
    this.#burst = burst
    this.#tokens = burst
    this.#filledAt = now
  }

  /** Milliseconds until `amount` can be spent; 0: now. */
  wait(amount: number, now: number): number {
    this.#tokens = Math.min(this.#burst, this.#tokens + Math.max(0, now - this.#filledAt) * this.#perMs)
    this.#filledAt = now
    const missing = Math.min(amount, this.#burst) - this.#tokens
    return missing > ROUNDING ? missing / this.#perMs : 0
  }

  spend(amount: number): void {
    this.#tokens -= amount
  }
}

function checkPositive(name: string, value: number | undefined): void {
  if (value === undefined || (Number.isFinite(value) && value > 0)) return
  throw new RangeError(`${name} must be a finite number more than 0`)
}
