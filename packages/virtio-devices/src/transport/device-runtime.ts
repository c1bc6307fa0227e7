import { type GuestMemory, MemoryError } from "@ts-vmm/vm-memory"
import type { VirtioDevice } from "../device.js"
import { createQueue } from "../queue/create-queue.js"
import { QueueError } from "../queue/errors.js"
import type { QueueConfig, QueueState, VirtQueue } from "../queue/virt-queue.js"
import { type ActivationHost, ActiveDevice } from "./active-device.js"
import { TransportCounters } from "./counters.js"

/** What the runtime asks of the transport around it. None of these may throw. */
export interface RuntimeHooks {
  /** Used-buffer interrupt of queue `index`. */
  interrupt(index: number): void
  /** Configuration interrupt. */
  configInterrupt(): void
  /** The device went to DEVICE_NEEDS_RESET: set the status bit. The configuration interrupt follows. */
  needsReset(reason: Error): void
  /** Puts something in front of a queue (dirty page logging). */
  wrapQueue?(index: number, queue: VirtQueue): VirtQueue
}

/** Set-up faults and broken chains come as these: the guest's doing, not a bug here. */
function isGuestFault(reason: Error): boolean {
  if (reason instanceof QueueError) return reason.code !== "not-in-flight" && reason.code !== "used-length"
  return reason instanceof MemoryError
}

/**
 * Runs one device for any transport: makes and takes back queues, hands out the `DeviceContext`, and is the
 * one place of the fault policy. Nothing a guest does throws out of it: the device stops, `needsReset` is
 * called, a counter rises, and `reset` makes it usable again.
 *
 * @example
 * ```ts
 * const runtime = new DeviceRuntime(device, { interrupt: i => irq(i), configInterrupt, needsReset })
 * runtime.activate(memory, negotiation.features, negotiation.readyQueues())
 * kick.on("readable", () => runtime.notify(0))
 * ```
 */
export class DeviceRuntime {
  readonly device: VirtioDevice
  readonly counters: TransportCounters
  readonly #hooks: RuntimeHooks
  #active: ActiveDevice | undefined
  /** The device itself has been activated, and so will be reset. */
  #deviceActive = false
  #broken: Error | undefined

  constructor(device: VirtioDevice, hooks: RuntimeHooks, counters = new TransportCounters()) {
    this.device = device
    this.counters = counters
    this.#hooks = hooks
  }

  /** True between `activate` and `reset`, also while broken. */
  get active(): boolean {
    return this.#active !== undefined
  }

  /** Why the device is in DEVICE_NEEDS_RESET. */
  get broken(): Error | undefined {
    return this.#broken
  }

  /**
   * DRIVER_OK. Makes the queues; when one cannot be made the device is broken and not activated.
   * A second call without `reset` counts as refused and does nothing.
   */
  activate(
    memory: GuestMemory,
    features: bigint,
    queues: ReadonlyMap<number, QueueConfig> = new Map(),
  ): void {
    if (this.#active) {
      this.counters.refusals++
      return
    }
    const active = new ActiveDevice(this.#host(), memory, features)
    this.#active = active
    for (const [index, config] of queues) if (!this.#addQueue(active, index, config)) return
    this.counters.activations++
    this.#deviceActive = true
    this.#guard(() => this.device.activate(active))
  }

  /**
   * Starts one queue of an active device (vhost-user starts rings one by one) and lets the device look at it.
   * @returns false when it is not active, has that queue already, or the set-up is refused, which breaks it
   */
  startQueue(index: number, config: QueueConfig): boolean {
    const active = this.#active
    if (!active?.alive || active.hasQueue(index)) {
      this.counters.refusals++
      return false
    }
    if (!this.#addQueue(active, index, config)) return false
    active.notify(index)
    return true
  }

  /**
   * Takes one queue back; chains of it that a device still holds are revoked. `suspend` it first to lose none.
   * @returns where it stopped, or undefined when there is no such queue
   */
  stopQueue(index: number): QueueState | undefined {
    const queue = this.#active?.queue(index)
    if (!queue) return undefined
    const before = queue.state()
    this.#active?.remove(index)
    return before
  }

  /** Where queue `index` is now. */
  queueState(index: number): QueueState | undefined {
    return this.#active?.queue(index)?.state()
  }

  /** True when queue `index` runs, or is suspended. */
  hasQueue(index: number): boolean {
    return this.#active?.hasQueue(index) ?? false
  }

  /** Chains the device took and has not returned, of queue `index` or of all. */
  inFlight(index?: number): number {
    const active = this.#active
    if (!active) return 0
    const indexes = index === undefined ? active.queueIndexes : [index]
    return indexes.reduce((sum, one) => sum + active.inFlight(one), 0)
  }

  /** The device takes nothing more from queue `index`; resolves when it has completed what it took. */
  suspend(index: number): Promise<void> {
    return this.#active?.suspend(index) ?? Promise.resolve()
  }

  /** Undoes `suspend` and lets the device look. */
  resume(index: number): void {
    const active = this.#active
    if (!active?.hasQueue(index)) return
    active.resume(index)
    if (active.alive) active.notify(index)
  }

  /** The driver's notification. Never throws; what cannot be served is counted. */
  notify(index: number): void {
    this.counters.notifications++
    if (this.#active?.accepts(index)) this.#active.notify(index)
    else this.counters.notificationsIgnored++
  }

  /** Queues that were drained stay without notifications until {@link unwatch}: {@link look} finds what comes meanwhile. */
  watch(): void {
    this.#active?.watch()
  }

  /** Serves what came without a notification, of queues that are watched. @returns false when nothing did */
  look(): boolean {
    return this.#active?.look() ?? false
  }

  /** Asks for notifications again. */
  unwatch(): void {
    this.#active?.unwatch()
  }

  /** Breaks the device from outside, for faults the transport itself sees. */
  fail(reason: Error): void {
    if (this.#active) this.#active.fail(reason)
    else this.#broke(reason)
  }

  /** Device reset, whatever state it is in. */
  reset(): void {
    this.counters.resets++
    const active = this.#active
    this.#active = undefined
    this.#broken = undefined
    active?.end()
    if (!this.#deviceActive) return
    this.#deviceActive = false
    try {
      this.device.reset()
    } catch {
      this.counters.deviceErrors++
    }
  }

  #host(): ActivationHost {
    return {
      device: this.device,
      counters: this.counters,
      interrupt: index => {
        this.counters.interrupts++
        this.#hooks.interrupt(index)
      },
      configInterrupt: () => {
        this.counters.configInterrupts++
        this.#hooks.configInterrupt()
      },
      broke: reason => this.#broke(reason),
    }
  }

  #broke(reason: Error): void {
    this.#broken = reason
    if (isGuestFault(reason)) this.counters.guestFaults++
    else this.counters.deviceErrors++
    this.#hooks.needsReset(reason)
    this.counters.configInterrupts++
    this.#hooks.configInterrupt()
  }

  #addQueue(active: ActiveDevice, index: number, config: QueueConfig): boolean {
    try {
      const queue = this.#makeQueue(active, index, config)
      active.add(index, this.#hooks.wrapQueue?.(index, queue) ?? queue, config)
      return true
    } catch (error) {
      active.fail(error as Error)
      return false
    }
  }

  #makeQueue(active: ActiveDevice, index: number, config: QueueConfig): VirtQueue {
    const max = this.device.queueSizes[index]
    if (max === undefined) throw new QueueError("queue-index", index, this.device.queueSizes.length)
    if (config.size > max) throw new QueueError("queue-size", config.size, max)
    return createQueue(active.memory, config, active.features)
  }

  #guard(action: () => void): void {
    try {
      action()
    } catch (error) {
      this.#active?.fail(error as Error)
    }
  }
}
