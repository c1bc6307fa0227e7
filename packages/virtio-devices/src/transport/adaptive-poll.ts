/** How long the event loop is kept from sleeping after a kick. Waking a sleeping thread costs about as much. */
const WINDOW_MS = 0.05
/** Windows without a kick after which it is left for a while. */
const MAX_MISSES = 4
/** Most kicks that pass before it is tried again. */
const MAX_SKIP = 256

/**
 * Keeps the event loop awake for 50 us after a kick when that pays: a driver that runs on another CPU and
 * answers within that time finds its next kick polled at once, instead of paying for a sleep and a wake-up.
 * Other events are served as ever, for the loop just turns without sleeping.
 *
 * Where the next kick does not come in time (a slow guest, or one that shares this CPU and so cannot
 * run meanwhile) it is tried ever more rarely, down to one window in 256 kicks. Without kicks it does nothing.
 *
 * @example
 * ```ts
 * const poll = new AdaptivePoll()   // one for all queues of a guest
 * onKick(() => {
 *   runtime.notify(queue)
 *   poll.kicked()
 * })
 * ```
 */
export class AdaptivePoll {
  #until = 0
  #turning = false
  #hit = false
  #misses = 0
  #skip = 0
  #toSkip = 0
  readonly #turn = (): void => {
    if (performance.now() < this.#until) setImmediate(this.#turn)
    else this.#end()
  }

  /** To be called at each kick, after it was served. */
  kicked(): void {
    if (this.#turning) {
      this.#hit = true
      this.#until = performance.now() + WINDOW_MS
      return
    }
    if (this.#toSkip > 0) {
      this.#toSkip--
      return
    }
    this.#turning = true
    this.#hit = false
    this.#until = performance.now() + WINDOW_MS
    setImmediate(this.#turn)
  }

  #end(): void {
    this.#turning = false
    if (this.#hit) {
      this.#misses = 0
      this.#skip = 0
      return
    }
    if (++this.#misses < MAX_MISSES) return
    this.#skip = Math.min(MAX_SKIP, Math.max(1, this.#skip * 2))
    this.#toSkip = this.#skip
  }
}
