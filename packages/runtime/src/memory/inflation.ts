import type { BalloonDevice } from "@ts-vmm/virtio-devices/balloon"
import { deferred } from "../deadline.js"

/** A guest that has given nothing for so long has nothing left to give: Linux tries again after 200 ms, and may be slow. */
const STUCK_MS = 3000

/** One round of making a balloon larger, until it is, the guest has no more to give, or nobody wants it any more. */
export class Inflation {
  readonly #balloon: BalloonDevice
  readonly #first: number
  readonly #goal: number
  readonly #ended = deferred<number>()
  readonly #stuck: NodeJS.Timeout
  #seen: number

  /** @param bytes - how much larger */
  constructor(balloon: BalloonDevice, bytes: number) {
    this.#balloon = balloon
    this.#first = this.#seen = balloon.actual
    balloon.setTarget(this.#first + bytes)
    this.#goal = balloon.target
    this.#stuck = setTimeout(() => this.#onStuck(), STUCK_MS)
    this.look()
  }

  /** Bytes by which it grew. Never rejects. */
  get ended(): Promise<number> {
    return this.#ended.promise
  }

  /** The guest says that something is in the balloon. */
  look(): void {
    const { actual } = this.#balloon
    if (actual >= this.#goal) this.abandon()
    else if (actual !== this.#seen) this.#stuck.refresh()
    this.#seen = actual
  }

  /** Where it is this process that stood still, what the guest gave meanwhile has not been seen yet: that comes first. */
  #onStuck(): void {
    const seen = this.#seen
    setImmediate(() => {
      if (this.#seen === seen) this.abandon()
    })
  }

  /** What is in the balloon by now is all. */
  abandon(): void {
    clearTimeout(this.#stuck)
    this.#ended.resolve(Math.max(0, this.#balloon.actual - this.#first))
  }
}
