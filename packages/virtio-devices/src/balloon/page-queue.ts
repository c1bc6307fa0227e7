import type { DeviceContext } from "../device.js"
import type { DescriptorChain } from "../queue/chain.js"
import type { PageRuns } from "./page-runs.js"

/** Pages for one turn of the event loop: 8 MiB, which the host takes back in two or three milliseconds. */
const TURN_COST = 2048
/** What a system call costs beside its pages, in the time that one page takes. */
const RUN_COST = 16

/** What is done on one queue. */
export interface PageWork {
  /** How its chains name pages. */
  readonly runs: PageRuns
  /** Looks at a chain first; false when none of its pages are of use. */
  wants(chain: DescriptorChain): boolean
  /** Takes one run: first byte and length, whole pages, not yet checked against guest memory. */
  use(start: number, size: number): void
}

/**
 * Works through the pages that a guest names on one queue. There may be 2^30 of them in one chain, and the same ones for
 * ever: each turn of the event loop does a bounded part, and chains are answered in order, each when its last
 * page has been seen to.
 */
export class PageQueue {
  readonly #ctx: DeviceContext
  readonly #index: number
  readonly #work: PageWork
  #budget = 0
  /** A turn was asked for; until then nothing is taken from the queue. */
  #waiting = false
  /** What `runs` is in the middle of. */
  #current: DescriptorChain | undefined

  constructor(ctx: DeviceContext, index: number, work: PageWork) {
    this.#ctx = ctx
    this.#index = index
    this.#work = work
  }

  /** The queue has something, or the next turn has come. */
  notify(): void {
    if (this.#waiting) return
    this.#budget = TURN_COST
    this.#drain()
  }

  #drain(): void {
    this.#ctx.drain(this.#index, chain => {
      if (this.#waiting || this.#budget <= 0) {
        this.#ctx.unpop(this.#index, chain)
        this.#goOnLater()
        return undefined
      }
      if (!this.#work.wants(chain)) return 0
      this.#work.runs.open(chain)
      if (this.#goThrough()) return 0
      this.#current = chain
      this.#goOnLater()
      return undefined
    })
  }

  /** @returns true when that was all of the chain */
  #goThrough(): boolean {
    const { runs } = this.#work
    while (this.#budget > 0) {
      if (!runs.next()) return true
      this.#budget -= runs.looked + RUN_COST
      this.#work.use(runs.start, runs.size)
    }
    return false
  }

  #goOnLater(): void {
    if (this.#waiting) return
    this.#waiting = true
    setImmediate(() => this.#goOn())
  }

  #goOn(): void {
    if (this.#ctx.signal.aborted) return
    this.#waiting = false
    this.#budget = TURN_COST
    const chain = this.#current
    if (chain) {
      // Of a queue that was stopped: its pages are the guest's again, also those whose numbers were read.
      if (!chain.revoked && !this.#goThrough()) {
        this.#goOnLater()
        return
      }
      this.#current = undefined
      this.#ctx.complete(this.#index, chain, 0)
    }
    this.#drain()
  }
}
