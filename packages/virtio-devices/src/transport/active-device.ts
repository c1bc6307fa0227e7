import type { GuestMemory } from "@ts-vmm/vm-memory"
import type { DeviceContext, VirtioDevice } from "../device.js"
import type { DescriptorChain } from "../queue/chain.js"
import { QueueError } from "../queue/errors.js"
import type { QueueConfig, VirtQueue } from "../queue/virt-queue.js"
import type { TransportCounters } from "./counters.js"
import { DriverPlace } from "./driver-place.js"

/**
 * Completions, and bytes, that are shown together to a driver that works beside this thread, before the rest are done:
 * few enough that one with 32 requests in flight has some for this side while it works on others, and enough to pay for
 * waking it, which costs as much as six of them.
 */
const SHOWN_REQUESTS = 12
const SHOWN_BYTES = 1024 * 1024

/** What one activation needs from the transport around it. */
export interface ActivationHost {
  readonly device: VirtioDevice
  readonly counters: TransportCounters
  interrupt(index: number): void
  configInterrupt(): void
  /** The device broke, for the first time in this activation. */
  broke(reason: Error): void
}

interface QueueSlot {
  readonly queue: VirtQueue
  readonly config: QueueConfig
  /** Something was pushed and not yet published. */
  pending: boolean
  /** Nothing is taken from the queue meanwhile. */
  suspended: boolean
  /** A turn of the event loop was asked for to go on draining. */
  resuming: boolean
  /** `unpop` was called since the running drain took its last chain. */
  stalled: boolean
  /** Drained, and the driver was not asked to notify: `look` finds what comes. */
  quiet: boolean
  /** Called when nothing is in flight any more. */
  idle: (() => void)[]
}

/**
 * One activation of a device: its `DeviceContext`. Between `activate` and `reset` there is exactly one, and
 * after `end` every call on it is a no-op, whatever the device still has running.
 */
export class ActiveDevice implements DeviceContext {
  readonly memory: GuestMemory
  readonly features: bigint
  readonly #host: ActivationHost
  /** Made when it is first asked for: many devices never do, and it costs more than all the rest of a reset. */
  #abort: AbortController | undefined
  readonly #slots = new Map<number, QueueSlot>()
  #broken = false
  /** What `signal.aborted` says, at a fraction of its cost: it is asked for every chain. */
  #ended = false
  #draining = 0
  #flushScheduled = false
  /** Queues that were drained stay without notifications. */
  #watched = false
  readonly #place = new DriverPlace()

  constructor(host: ActivationHost, memory: GuestMemory, features: bigint) {
    this.#host = host
    this.memory = memory
    this.features = features
  }

  get signal(): AbortSignal {
    if (!this.#abort) {
      this.#abort = new AbortController()
      if (this.#ended) this.#abort.abort()
    }
    return this.#abort.signal
  }

  /** True until the device broke or was reset. */
  get alive(): boolean {
    return !this.#broken && !this.#ended
  }

  hasQueue(index: number): boolean {
    return this.#slots.has(index)
  }

  queueConfig(index: number): QueueConfig | undefined {
    return this.#slots.get(index)?.config
  }

  drain(index: number, handler: (chain: DescriptorChain) => number | undefined): void {
    const slot = this.#usable(index)
    if (!slot) return
    this.#draining++
    try {
      this.#drainSlot(index, slot, handler)
    } catch (error) {
      this.fail(asError(error))
    } finally {
      this.#draining--
      if (this.#draining === 0) this.#flush()
    }
  }

  pop(index: number): DescriptorChain | undefined {
    const slot = this.#usable(index)
    if (!slot) return undefined
    try {
      slot.quiet = false
      // Found empty, the queue must ask for the next notification before it is looked at a last time.
      return slot.queue.pop() ?? (slot.queue.enableNotifications() ? slot.queue.pop() : undefined)
    } catch (error) {
      this.fail(asError(error))
      return undefined
    }
  }

  unpop(index: number, chain: DescriptorChain): void {
    const slot = this.#slots.get(index)
    if (!slot || !this.alive || chain.revoked) return
    slot.queue.unpop(chain)
    slot.stalled = true
    this.#checkIdle(slot)
  }

  complete(index: number, chain: DescriptorChain, written: number): void {
    const slot = this.#slots.get(index)
    if (!slot || !this.alive || chain.revoked) {
      this.#host.counters.lateCompletions++
      return
    }
    if (!this.#push(slot.queue, chain, written)) return
    slot.pending = true
    this.#checkIdle(slot)
    if (this.#draining === 0) this.#scheduleFlush()
  }

  isWorthShowing(requests: number, bytes: number): boolean {
    return this.#place.isBeside && (requests >= SHOWN_REQUESTS || bytes >= SHOWN_BYTES)
  }

  show(): void {
    this.#flush()
  }

  configChanged(): void {
    if (this.alive) this.#host.configInterrupt()
  }

  fail(reason: Error): void {
    if (!this.alive) return
    this.#broken = true
    this.#host.broke(reason)
  }

  // What follows is the transport's side.

  /** Adds a ready queue. */
  add(index: number, queue: VirtQueue, config: QueueConfig): void {
    this.#slots.set(index, {
      queue,
      config,
      pending: false,
      suspended: false,
      resuming: false,
      stalled: false,
      quiet: false,
      idle: [],
    })
  }

  /** The queue behind `index`. */
  queue(index: number): VirtQueue | undefined {
    return this.#slots.get(index)?.queue
  }

  /** Indexes of the queues in use. */
  get queueIndexes(): number[] {
    return [...this.#slots.keys()]
  }

  /** Chains that the device holds of queue `index`. */
  inFlight(index: number): number {
    return this.#slots.get(index)?.queue.inFlight ?? 0
  }

  /** True when a notification of `index` should reach the device. */
  accepts(index: number): boolean {
    const slot = this.#slots.get(index)
    return slot !== undefined && this.alive && !slot.suspended
  }

  /** Shows what was completed and takes the queue away; chains it handed out are revoked. */
  remove(index: number): VirtQueue | undefined {
    const slot = this.#slots.get(index)
    if (!slot) return undefined
    this.#publish(index, slot)
    this.#slots.delete(index)
    slot.queue.stop()
    for (const resolve of slot.idle) resolve()
    return slot.queue
  }

  /** Takes nothing more from the queue; resolves when nothing of it is in flight. */
  suspend(index: number): Promise<void> {
    const slot = this.#slots.get(index)
    if (!slot) return Promise.resolve()
    slot.suspended = true
    if (slot.queue.inFlight === 0) return Promise.resolve()
    return new Promise(resolve => slot.idle.push(resolve))
  }

  /** Undoes `suspend`. */
  resume(index: number): void {
    const slot = this.#slots.get(index)
    if (slot) slot.suspended = false
  }

  /** Reset: aborts, then revokes everything. */
  end(): void {
    this.#ended = true
    this.#abort?.abort()
    for (const { queue, idle } of this.#slots.values()) {
      queue.stop()
      for (const resolve of idle) resolve()
    }
    this.#slots.clear()
  }

  #usable(index: number): QueueSlot | undefined {
    const slot = this.#slots.get(index)
    return slot && this.alive && !slot.suspended ? slot : undefined
  }

  #drainSlot(index: number, slot: QueueSlot, handler: (chain: DescriptorChain) => number | undefined): void {
    const { queue } = slot
    let taken = 0
    let unshown = 0
    slot.quiet = false
    queue.disableNotifications()
    do {
      for (let chain = queue.pop(); chain !== undefined; chain = queue.pop()) {
        slot.stalled = false
        const written = handler(chain)
        taken++
        if (!this.alive || this.#slots.get(index) !== slot) return
        if (written !== undefined) {
          queue.push(chain, written)
          slot.pending = true
          if (this.isWorthShowing(++unshown, 0)) {
            this.#publish(index, slot)
            unshown = 0
          }
        } else if (slot.stalled) {
          return
        }
        // One ring's worth per turn: a driver that never stops cannot keep the event loop from others.
        if (taken === queue.size) {
          this.#resumeLater(index, slot)
          return
        }
      }
      slot.quiet = this.#watched
    } while (!slot.quiet && queue.enableNotifications())
  }

  /** False when guest memory went away under a late completion, which breaks the device; misuse throws. */
  #push(queue: VirtQueue, chain: DescriptorChain, written: number): boolean {
    try {
      queue.push(chain, written)
      return true
    } catch (error) {
      if (!(error instanceof QueueError) || error.code !== "memory-gone") throw error
      this.fail(error)
      return false
    }
  }

  #resumeLater(index: number, slot: QueueSlot): void {
    if (slot.resuming) return
    slot.resuming = true
    setImmediate(() => {
      slot.resuming = false
      if (this.#slots.get(index) === slot && this.accepts(index)) this.notify(index)
    })
  }

  /** Calls the device; what it throws breaks it. What it completes meanwhile is shown to the driver at the end. */
  notify(index: number): void {
    this.#draining++
    try {
      this.#host.device.notify(index)
    } catch (error) {
      this.fail(asError(error))
    } finally {
      this.#draining--
      if (this.#draining === 0) this.#flush()
    }
  }

  /** From here on queues that were drained stay without notifications: whoever asks for that looks at them instead. */
  watch(): void {
    this.#watched = true
  }

  /** Lets the device serve what came without a notification. @returns false when nothing did */
  look(): boolean {
    let found = false
    for (const [index, slot] of this.#slots) {
      if (!slot.quiet || !this.accepts(index) || !this.#hasAvailable(slot)) continue
      found = true
      this.notify(index)
    }
    return found
  }

  /** Undoes `watch`: asks for notifications again, and lets the device look at what came until then. */
  unwatch(): void {
    this.#watched = false
    for (const [index, slot] of this.#slots) {
      if (!slot.quiet || !this.accepts(index)) continue
      slot.quiet = false
      if (this.#enable(slot)) this.notify(index)
    }
  }

  #hasAvailable({ queue }: QueueSlot): boolean {
    try {
      return queue.hasAvailable()
    } catch (error) {
      this.fail(asError(error))
      return false
    }
  }

  #enable({ queue }: QueueSlot): boolean {
    try {
      return queue.enableNotifications()
    } catch (error) {
      this.fail(asError(error))
      return false
    }
  }

  #scheduleFlush(): void {
    if (this.#flushScheduled) return
    this.#flushScheduled = true
    queueMicrotask(() => {
      this.#flushScheduled = false
      this.#flush()
    })
  }

  #flush(): void {
    if (!this.alive) return
    for (const [index, slot] of this.#slots) this.#publish(index, slot)
  }

  #publish(index: number, slot: QueueSlot): void {
    if (!slot.pending || !this.alive) return
    slot.pending = false
    try {
      if (slot.queue.publish()) this.#interrupt(index, slot.queue)
    } catch (error) {
      this.fail(asError(error))
    }
  }

  #interrupt(index: number, queue: VirtQueue): void {
    const before = queue.hasAvailable()
    this.#host.interrupt(index)
    this.#place.interrupted(before, queue.hasAvailable())
  }

  #checkIdle(slot: QueueSlot): void {
    if (slot.idle.length === 0 || slot.queue.inFlight > 0) return
    for (const resolve of slot.idle.splice(0)) resolve()
  }
}

function asError(thrown: unknown): Error {
  return thrown instanceof Error ? thrown : new Error(String(thrown))
}
