import type { DeviceContext } from "./device.js"
import type { DescriptorChain } from "./queue/chain.js"
import type { RateLimiter } from "./rate-limiter.js"

/** What a device does with requests that are let through. */
export interface PacedWork {
  /** Bytes that a request costs. */
  cost(chain: DescriptorChain): number
  /** Takes one request. @returns bytes written when it has ended already, undefined when it will be completed later */
  serve(index: number, chain: DescriptorChain): number | undefined
  /** Everything that may pass now has: for devices that collect what they serve. */
  served?(): void
  /** Most requests for one turn of the event loop. */
  readonly perTurn: number
}

/**
 * Serves the queues of one activation as fast as a limiter lets it: requests of a queue in their order, queues that have
 * some by turns, one request each.
 *
 * What has to wait stays in its ring, so a queue can be stopped and a device reset at any time, and a guest that makes
 * more available than passes takes no memory of the host for it.
 */
export class PacedQueues {
  readonly #ctx: DeviceContext
  readonly #limiter: RateLimiter
  readonly #work: PacedWork
  /** Queues that may have something; the first one is next. */
  readonly #turns: number[] = []
  /** Calls off what will go on by itself; until then notifications only take their place in `#turns`. */
  #callOff: (() => void) | undefined

  constructor(ctx: DeviceContext, limiter: RateLimiter, work: PacedWork) {
    this.#ctx = ctx
    this.#limiter = limiter
    this.#work = work
  }

  /** The driver made something available on queue `index`. */
  notify(index: number): void {
    if (!this.#turns.includes(index)) this.#turns.push(index)
    if (!this.#callOff) this.#run()
  }

  /** The device was reset: whatever waits is dropped. */
  end(): void {
    this.#callOff?.()
    this.#turns.length = 0
  }

  #run(): void {
    for (let left = this.#work.perTurn; this.#turns.length > 0; left--) {
      if (left === 0) {
        const turn = setImmediate(() => this.#goOn())
        this.#callOff = () => clearImmediate(turn)
        break
      }
      if (!this.#serveNext()) break
    }
    this.#work.served?.()
  }

  /** @returns false when the next request has to wait */
  #serveNext(): boolean {
    const index = this.#turns[0]!
    const chain = this.#ctx.pop(index)
    if (!chain) {
      // Found empty, it asks for a notification; one that was stopped is looked at again when it goes on.
      this.#turns.shift()
      return true
    }
    const waitMs = this.#limiter.take(this.#work.cost(chain))
    if (waitMs > 0) {
      this.#ctx.unpop(index, chain)
      this.#callOff = this.#limiter.clock.after(waitMs, () => this.#goOn())
      return false
    }
    this.#turns.push(this.#turns.shift()!)
    const written = this.#work.serve(index, chain)
    if (written !== undefined) this.#ctx.complete(index, chain, written)
    return true
  }

  #goOn(): void {
    this.#callOff = undefined
    this.#run()
  }
}
