import { randomFillSync } from "node:crypto"
import type { DeviceContext, VirtioDevice } from "../device.js"
import { VIRTIO_ID } from "../ids.js"
import { PacedQueues } from "../paced-queues.js"
import type { DescriptorChain } from "../queue/chain.js"
import { type RateLimit, RateLimiter } from "../rate-limiter.js"

/** The one queue. @see virtio 1.3, section 5.4.2 */
export const RNG_QUEUE = 0
const QUEUE_SIZE = 256
/** Most bytes for one request; a longer buffer comes back partly filled, as the specification allows. */
export const MAX_REQUEST_SIZE = 64 * 1024
/** Most bytes per turn of the event loop, over all requests. */
const MAX_TURN_SIZE = 1024 * 1024

/** How an entropy device is made. */
export interface RngOptions {
  /** Fills a buffer with entropy. Default: the host's cryptographic generator. */
  readonly fill?: (into: Uint8Array) => void
  /**
   * How fast entropy may be had; default as fast as there is time for it. Requests over the limit wait in their
   * queue. A {@link RateLimiter} may be shared with other devices.
   */
  readonly rateLimit?: RateLimit | RateLimiter
}

/**
 * Entropy device: fills what the driver offers.
 *
 * A request is capped and so is a turn, so that a guest that asks without end gets entropy at a rate that
 * leaves the event loop to others.
 *
 * @see virtio 1.3, section 5.4
 *
 * @example
 * ```ts
 * await using driver = await MockDriver.attach(new RngDevice(), direct)
 * ```
 */
export class RngDevice implements VirtioDevice {
  readonly type = VIRTIO_ID.entropy
  readonly queueSizes = [QUEUE_SIZE]
  readonly features = 0n
  readonly #fill: (into: Uint8Array) => void
  /** Lives as long as the device: a reset is no way to a fresh burst. */
  readonly #limiter: RateLimiter | undefined
  #paced: PacedQueues | undefined
  #ctx: DeviceContext | undefined
  #waiting = false

  /** @throws RangeError for a rate limit out of its range */
  constructor(options: RngOptions = {}) {
    this.#limiter = options.rateLimit && RateLimiter.of(options.rateLimit)
    this.#fill = options.fill ?? (into => void randomFillSync(into))
  }

  activate(ctx: DeviceContext): void {
    this.#ctx = ctx
    if (!this.#limiter) return
    this.#paced = new PacedQueues(ctx, this.#limiter, {
      cost: requestSize,
      serve: (_index, chain) => this.#serve(chain),
      perTurn: MAX_TURN_SIZE / MAX_REQUEST_SIZE,
    })
  }

  reset(): void {
    this.#paced?.end()
    this.#paced = undefined
    this.#ctx = undefined
    this.#waiting = false
  }

  notify(index: number): void {
    const ctx = this.#ctx
    if (this.#paced) {
      this.#paced.notify(index)
      return
    }
    if (!ctx || this.#waiting) return
    let turn = 0
    ctx.drain(RNG_QUEUE, chain => {
      if (turn >= MAX_TURN_SIZE) {
        this.#goOnLater(ctx, chain)
        return undefined
      }
      const length = this.#serve(chain)
      turn += length
      return length
    })
  }

  /** @returns bytes written */
  #serve(chain: DescriptorChain): number {
    const length = requestSize(chain)
    for (const part of chain.writableSlices(0, length)) this.#fill(part)
    return length
  }

  #goOnLater(ctx: DeviceContext, chain: DescriptorChain): void {
    ctx.unpop(RNG_QUEUE, chain)
    this.#waiting = true
    setImmediate(() => {
      if (ctx.signal.aborted) return
      this.#waiting = false
      this.notify(RNG_QUEUE)
    })
  }
}

function requestSize(chain: DescriptorChain): number {
  return Math.min(chain.writableLength, MAX_REQUEST_SIZE)
}
