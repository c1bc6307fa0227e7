import { hasFeature, VIRTIO_F_RING_PACKED, VIRTIO_F_RING_RESET, VIRTIO_F_VERSION_1 } from "../features.js"
import { MAX_QUEUE_SIZE } from "../queue/defs.js"
import type { QueueConfig } from "../queue/virt-queue.js"

/** Device status bits. @see virtio 1.3, section 2.1 */
export const VIRTIO_CONFIG_S_ACKNOWLEDGE = 1
export const VIRTIO_CONFIG_S_DRIVER = 2
export const VIRTIO_CONFIG_S_DRIVER_OK = 4
export const VIRTIO_CONFIG_S_FEATURES_OK = 8
export const VIRTIO_CONFIG_S_NEEDS_RESET = 64
export const VIRTIO_CONFIG_S_FAILED = 128

/** The steps of initialisation in their order (3.1.1); each needs all before it. */
const STEPS = [
  VIRTIO_CONFIG_S_ACKNOWLEDGE,
  VIRTIO_CONFIG_S_DRIVER,
  VIRTIO_CONFIG_S_FEATURES_OK,
  VIRTIO_CONFIG_S_DRIVER_OK,
] as const
const STEP_BITS = STEPS.reduce((all, bit) => all | bit, 0)

/** What a transport has to do after a status write. */
export type StatusAction = "none" | "refused" | "reset" | "activate"

/** The device's side of what is negotiated. */
export interface NegotiationOffer {
  /** Every feature offered, the transport's and the rings' included. */
  readonly features: bigint
  /** Largest size of each queue. */
  readonly queueSizes: readonly number[]
}

/** Set-up of one queue before it is made; addresses in guest memory. */
interface QueueSetup {
  size: number
  desc: number
  driver: number
  device: number
  ready: boolean
  /** Was reset alone: it may be set up while the device is active. */
  reopened: boolean
}

/**
 * Device status, features and queue set-up: the one state machine of every transport. Pure: it decides, the
 * transport acts. What a driver may not do changes nothing.
 *
 * ```
 *  reset --ACKNOWLEDGE--> . --DRIVER--> . --FEATURES_OK--> queues are set up --DRIVER_OK--> active
 *    ^                       features are     frozen from        |                            |
 *    |                       written here     here on            | frozen from here on        |
 *    '----------------------------- status 0 --------------------'----------------------------'
 * ```
 *
 * @see virtio 1.3, section 2.1, 2.2 and 3.1
 *
 * @example
 * ```ts
 * const action = negotiation.writeStatus(value)
 * if (action === "activate") runtime.activate(memory, negotiation.features, negotiation.readyQueues())
 * if (action === "reset") runtime.reset()
 * ```
 */
export class Negotiation {
  readonly #offer: NegotiationOffer
  #queues: QueueSetup[] = []
  #status = 0
  #features = 0n

  constructor(offer: NegotiationOffer) {
    this.#offer = offer
    this.reset()
  }

  /** Device status register. */
  get status(): number {
    return this.#status
  }

  /** Features offered. */
  get offered(): bigint {
    return this.#offer.features
  }

  /** Features the driver wrote; negotiated once FEATURES_OK is set. */
  get features(): bigint {
    return this.#features
  }

  /** True between FEATURES_OK and reset. */
  get negotiated(): boolean {
    return this.#has(VIRTIO_CONFIG_S_FEATURES_OK)
  }

  /** True between DRIVER_OK and reset. */
  get active(): boolean {
    return this.#has(VIRTIO_CONFIG_S_DRIVER_OK)
  }

  /** Number of queues. */
  get queueCount(): number {
    return this.#offer.queueSizes.length
  }

  /** Largest size of queue `index`, 0 when there is no such queue. */
  queueMax(index: number): number {
    return this.#offer.queueSizes[index] ?? 0
  }

  /** True when queue `index` was enabled. */
  isQueueReady(index: number): boolean {
    return this.#queues[index]?.ready ?? false
  }

  /** The driver's feature word. @returns false after FEATURES_OK, when it is frozen */
  writeFeatures(features: bigint): boolean {
    if (this.negotiated) return false
    this.#features = features
    return true
  }

  /**
   * The driver's status register write. Steps may be taken several at once but not skipped, taken back or
   * repeated; FAILED may be set at any time; 0 resets. FEATURES_OK stays clear when the features are not
   * acceptable: that is how the driver learns of it.
   */
  writeStatus(value: number): StatusAction {
    if (value === 0) {
      this.reset()
      return "reset"
    }
    const written = value & ~VIRTIO_CONFIG_S_NEEDS_RESET
    if ((written & ~(STEP_BITS | VIRTIO_CONFIG_S_FAILED)) !== 0) return "refused"
    const before = this.#status & (STEP_BITS | VIRTIO_CONFIG_S_FAILED)
    if ((written & before) !== before || written === before) return "refused"
    const wanted = written & STEP_BITS
    if (!isPrefix(wanted)) return "refused"
    if (gains(before, wanted, VIRTIO_CONFIG_S_FEATURES_OK) && !this.#acceptable()) {
      this.#status |= wanted & (VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER)
      return "refused"
    }
    this.#status |= written
    return gains(before, wanted, VIRTIO_CONFIG_S_DRIVER_OK) ? "activate" : "none"
  }

  /**
   * ACKNOWLEDGE to FEATURES_OK in one call, for transports without a status register.
   * @returns false when the features are not acceptable
   */
  acknowledge(features: bigint): boolean {
    if (!this.writeFeatures(features)) return false
    const { negotiated } = this
    const steps = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK
    return !negotiated && this.writeStatus(this.#status | steps) === "none"
  }

  /**
   * Size of queue `index`: a power of two (any number in a packed ring) up to its maximum.
   * @returns false when it was not taken
   */
  setQueueSize(index: number, size: number): boolean {
    const queue = this.#settable(index)
    if (!queue || !this.#isQueueSize(index, size)) return false
    queue.size = size
    return true
  }

  /** Addresses of queue `index`, checked when the queue is made. @returns false when they were not taken */
  setQueueAddresses(index: number, parts: Partial<Pick<QueueConfig, "desc" | "driver" | "device">>): boolean {
    const queue = this.#settable(index)
    if (!queue) return false
    if (parts.desc !== undefined) queue.desc = parts.desc
    if (parts.driver !== undefined) queue.driver = parts.driver
    if (parts.device !== undefined) queue.device = parts.device
    return true
  }

  /** Enables queue `index`; its set-up is frozen while it is. @returns false when it was not taken */
  setQueueReady(index: number): boolean {
    const queue = this.#settable(index)
    if (!queue || queue.size === 0) return false
    queue.ready = true
    queue.reopened = false
    return true
  }

  /** True when the driver may reset queue `index` alone: that was negotiated, and the queue is enabled. */
  canResetQueue(index: number): boolean {
    return this.negotiated && hasFeature(this.#features, VIRTIO_F_RING_RESET) && this.isQueueReady(index)
  }

  /**
   * Queue `index` was stopped: it is not enabled, and set up as after a device reset. With VIRTIO_F_RING_RESET the
   * driver may set it up and enable it again, also while the device is active (2.6.1.2).
   */
  resetQueue(index: number): void {
    const max = this.#offer.queueSizes[index]
    if (max === undefined) return
    this.#queues[index] = { ...freshQueue(max), reopened: hasFeature(this.#features, VIRTIO_F_RING_RESET) }
  }

  /** Set-up of the queues the driver enabled, by index. */
  readyQueues(): Map<number, QueueConfig> {
    const ready = new Map<number, QueueConfig>()
    this.#queues.forEach(({ size, desc, driver, device, ready: enabled }, index) => {
      if (enabled) ready.set(index, { size, desc, driver, device })
    })
    return ready
  }

  /** The device broke: DEVICE_NEEDS_RESET is set until reset. */
  needsReset(): void {
    this.#status |= VIRTIO_CONFIG_S_NEEDS_RESET
  }

  /** Back to status 0. Queue sizes go back to their maxima. */
  reset(): void {
    this.#status = 0
    this.#features = 0n
    this.#queues = this.#offer.queueSizes.map(freshQueue)
  }

  #has(bit: number): boolean {
    return (this.#status & bit) !== 0
  }

  /** Only what was offered, and never without VERSION_1 (6.1). */
  #acceptable(): boolean {
    return hasFeature(this.#offer.features, this.#features) && hasFeature(this.#features, VIRTIO_F_VERSION_1)
  }

  #settable(index: number): QueueSetup | undefined {
    if (!this.negotiated || this.#has(VIRTIO_CONFIG_S_FAILED)) return undefined
    const queue = this.#queues[index]
    if (!queue || queue.ready) return undefined
    return this.active && !queue.reopened ? undefined : queue
  }

  #isQueueSize(index: number, size: number): boolean {
    if (!(Number.isInteger(size) && size > 0 && size <= Math.min(this.queueMax(index), MAX_QUEUE_SIZE)))
      return false
    return hasFeature(this.#features, VIRTIO_F_RING_PACKED) || (size & (size - 1)) === 0
  }
}

function freshQueue(size: number): QueueSetup {
  return { size, desc: 0, driver: 0, device: 0, ready: false, reopened: false }
}

/** True when no step is skipped. */
function isPrefix(bits: number): boolean {
  let open = false
  for (const step of STEPS) {
    const set = (bits & step) !== 0
    if (set && open) return false
    open ||= !set
  }
  return true
}

function gains(before: number, after: number, bit: number): boolean {
  return (before & bit) === 0 && (after & bit) !== 0
}
