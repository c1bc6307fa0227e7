import type { GuestMemory } from "@ts-vmm/vm-memory"
import type { DeviceRuntime } from "../transport/device-runtime.js"
import type { Negotiation } from "../transport/negotiation.js"
import { ioEnded } from "./io-ended.js"

/** What becomes of a register write: taken, refused, or taken and to be waited for. */
export type WriteResult = boolean | Promise<void>

/** Told when registers go back to how they were found. */
export interface LifecycleEvents {
  queueReset(index: number): void
  deviceReset(): void
}

/**
 * Joins what was negotiated to the device that runs. Resetting the device and stopping a queue hand memory back to the
 * driver, so both end when the last I/O has; until then the registers show what was before, and refuse changes.
 *
 * ```
 *   status 0 --> runtime is reset, signal aborted --> I/O ends --> status reads 0
 *   ready 0, queue reset 1 --> nothing more is taken --> I/O ends --> queue is back to its defaults, ready reads 0
 * ```
 */
export class Lifecycle {
  readonly negotiation: Negotiation
  readonly runtime: DeviceRuntime
  readonly #memory: GuestMemory
  readonly #inFlight: (() => number) | undefined
  readonly #events: LifecycleEvents
  readonly #stopping = new Map<number, Promise<void>>()
  #resetting: Promise<void> | undefined

  constructor(
    negotiation: Negotiation,
    runtime: DeviceRuntime,
    memory: GuestMemory,
    inFlight: (() => number) | undefined,
    events: LifecycleEvents,
  ) {
    this.negotiation = negotiation
    this.runtime = runtime
    this.#memory = memory
    this.#inFlight = inFlight
    this.#events = events
  }

  /** A device reset has begun and not ended. */
  get resetting(): boolean {
    return this.#resetting !== undefined
  }

  writeStatus(value: number): WriteResult {
    if (value === 0) return this.reset() ?? true
    if (this.resetting) return false
    const { negotiation } = this
    const action = negotiation.writeStatus(value)
    if (action === "activate")
      this.runtime.activate(this.#memory, negotiation.features, negotiation.readyQueues())
    return action !== "refused"
  }

  /** @returns undefined when it is done already */
  reset(): Promise<void> | undefined {
    if (this.#resetting) return this.#resetting
    const held = this.runtime.inFlight()
    this.runtime.reset()
    const ended = this.#ioEnded(held)
    if (!ended) {
      this.#resetDone()
      return undefined
    }
    this.#resetting = ended.then(() => {
      this.#resetting = undefined
      this.#resetDone()
    })
    return this.#resetting
  }

  /** Starts queue `index` with what was set up for it, or once the device is activated. */
  enableQueue(index: number): boolean {
    const { negotiation, runtime } = this
    if (runtime.broken || !negotiation.setQueueReady(index)) return false
    if (negotiation.active) runtime.startQueue(index, negotiation.readyQueues().get(index)!)
    return true
  }

  /** Stops queue `index`, if it runs. */
  disableQueue(index: number): WriteResult {
    if (!this.negotiation.isQueueReady(index)) return true
    const before = this.#stopping.get(index)
    if (before) return before
    const ended = this.#quiesce(index)
    if (!ended) {
      this.#stopped(index)
      return true
    }
    const stopping = ended
      // A device reset meanwhile ends the wait, and takes it over.
      .then(() => this.#resetting)
      .then(() => {
        if (this.#stopping.get(index) === stopping) this.#stopped(index)
      })
    this.#stopping.set(index, stopping)
    return stopping
  }

  /** Stops queue `index` so that it can be set up afresh (2.6.1). */
  resetQueue(index: number): WriteResult {
    return this.negotiation.canResetQueue(index) && this.disableQueue(index)
  }

  /** A reset of queue `index` has begun and not ended. */
  isResettingQueue(index: number): boolean {
    return this.#stopping.has(index) && this.negotiation.canResetQueue(index)
  }

  #quiesce(index: number): Promise<void> | undefined {
    const held = this.runtime.inFlight(index)
    if (held === 0) return undefined
    const suspended = this.runtime.suspend(index)
    const ended = this.#ioEnded(held)
    // A device may keep a chain for as long as it likes: only what works on guest memory is waited for.
    return ended && Promise.race([suspended, ended])
  }

  #ioEnded(held: number): Promise<void> | undefined {
    const { device, counters } = this.runtime
    try {
      return ioEnded(device, held, this.#inFlight)?.catch(() => {
        counters.deviceErrors++
      })
    } catch {
      counters.deviceErrors++
      return undefined
    }
  }

  #stopped(index: number): void {
    this.#stopping.delete(index)
    this.runtime.stopQueue(index)
    this.negotiation.resetQueue(index)
    this.#events.queueReset(index)
  }

  #resetDone(): void {
    this.#stopping.clear()
    this.negotiation.reset()
    this.#events.deviceReset()
  }
}
