import type { RateClock } from "../rate-limiter.js"

/**
 * A clock that stands still until a test moves it.
 *
 * @example
 * ```ts
 * const clock = new ManualClock()
 * const device = new RngDevice({ rateLimit: new RateLimiter({ bytesPerSecond: 1000 }, clock) })
 * clock.advance(250)   // milliseconds; what falls due meanwhile is called at its time
 * ```
 */
export class ManualClock implements RateClock {
  #now = 0
  readonly #due = new Set<{ readonly at: number; readonly callback: () => void }>()

  now(): number {
    return this.#now
  }

  after(ms: number, callback: () => void): () => void {
    const entry = { at: this.#now + ms, callback }
    this.#due.add(entry)
    return () => void this.#due.delete(entry)
  }

  /** Callbacks that wait for their time. */
  get pending(): number {
    return this.#due.size
  }

  /** Moves time on by `ms` milliseconds. */
  advance(ms: number): void {
    const end = this.#now + ms
    for (;;) {
      const [next] = [...this.#due].sort((a, b) => a.at - b.at)
      if (!next || next.at > end) break
      this.#due.delete(next)
      this.#now = Math.max(this.#now, next.at)
      next.callback()
    }
    this.#now = end
  }
}
