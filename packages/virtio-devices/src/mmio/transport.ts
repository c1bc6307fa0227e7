import type { GuestMemory } from "@ts-vmm/vm-memory"
import type { VirtioDevice } from "../device.js"
import { RING_FEATURES, VIRTIO_F_RING_PACKED, VIRTIO_F_RING_RESET } from "../features.js"
import type { TransportCounters } from "../transport/counters.js"
import { DeviceRuntime } from "../transport/device-runtime.js"
import { Negotiation } from "../transport/negotiation.js"
import { ConfigSpace } from "./config-space.js"
import { VIRTIO_MMIO_CONFIG, VIRTIO_MMIO_INT_CONFIG, VIRTIO_MMIO_INT_VRING } from "./defs.js"
import { ALL_INTERRUPTS, InterruptStatus } from "./interrupt-status.js"
import { Lifecycle, type WriteResult } from "./lifecycle.js"
import { DURING_RESET, READ, type Registers, Selected, WRITE } from "./registers.js"
import { SharedMemory } from "./shared-memory.js"

/** What a {@link MmioTransport} is joined to. */
export interface MmioTransportOptions {
  /** Guest RAM: the rings and buffers of the driver. */
  readonly memory: GuestMemory
  /**
   * Signals the device's interrupt, as an edge: the status bit is set already. Called for every interrupt, also while
   * the driver has not acknowledged the one before. Must not throw.
   */
  readonly interrupt: () => void
  /** The interrupt status register, when vCPU threads answer it by themselves. Default: one of its own. */
  readonly interruptStatus?: InterruptStatus
  /**
   * Number of I/O operations under way on guest memory (the sum of `Mapping.inFlight`). Resets wait until it is 0, when
   * the device holds chains and cannot say itself (`VirtioDevice.idle`) what of that is its own.
   */
  readonly inFlight?: () => number
  /** The device went to DEVICE_NEEDS_RESET. Must not throw. */
  readonly onBroken?: (reason: Error) => void
  /** Offer packed rings. Default true. */
  readonly packed?: boolean
  /** Ring features to offer, when the rings are not served here. Default: all that the queues here know. */
  readonly ringFeatures?: bigint
  /** What the vendor register says. Default "tsvm". */
  readonly vendorId?: number
}

/** "tsvm", little-endian. */
export const DEFAULT_VENDOR_ID = 0x6d76_7374

/**
 * A device behind the registers of virtio-mmio version 2. It knows nothing of a hypervisor: whoever runs the guest
 * hands accesses to `read` and `write`, and ioeventfds to `notify`.
 *
 * Everything the guest does is taken, or ignored and counted in `counters.refusals`: a wrong width, an offset that is
 * no register, a register that cannot be written now. Nothing it does throws.
 *
 * @see virtio 1.3, section 4.2
 *
 * @example
 * ```ts
 * import { MmioTransport, VIRTIO_MMIO_QUEUE_NOTIFY } from "@ts-vmm/virtio-devices/mmio"
 *
 * const transport = new MmioTransport(device, { memory, interrupt: () => signal(irqfd) })
 * for (let queue = 0; queue < transport.queueCount; queue++)
 *   onKick(base + VIRTIO_MMIO_QUEUE_NOTIFY, queue, () => transport.notify(queue))
 * await transport.write(offset, bytes)   // the vCPU goes on after this
 * ```
 */
export class MmioTransport {
  readonly device: VirtioDevice
  readonly #runtime: DeviceRuntime
  readonly #lifecycle: Lifecycle
  readonly #config: ConfigSpace
  readonly #interruptStatus: InterruptStatus
  readonly #interrupt: () => void
  readonly #registers: Registers
  #closed = false

  /**
   * @throws RangeError for a shared memory region of the device that is out of range; TypeError for a device whose queues
   *   are served by threads: `serveVhostUser` starts them, and a `VhostUserDevice` brings it here
   */
  constructor(device: VirtioDevice, options: MmioTransportOptions) {
    if (device.threads) throw new TypeError("a device with threads cannot be served here: use serveVhostUser")
    const { memory, interrupt, interruptStatus = new InterruptStatus(), packed = true } = options
    this.device = device
    this.#interruptStatus = interruptStatus
    this.#interrupt = interrupt
    this.#config = new ConfigSpace(device, error => {
      if (!this.#runtime.broken) this.#runtime.fail(error)
    })
    const known = RING_FEATURES | VIRTIO_F_RING_RESET
    const rings = options.ringFeatures ?? (packed ? known : known & ~VIRTIO_F_RING_PACKED)
    const { queueSizes } = device
    const negotiation = new Negotiation({ features: device.features | rings, queueSizes })
    const selected = new Selected(queueSizes.length)
    this.#runtime = new DeviceRuntime(device, {
      interrupt: () => this.#raise(VIRTIO_MMIO_INT_VRING),
      configInterrupt: () => {
        this.#config.changed()
        this.#raise(VIRTIO_MMIO_INT_CONFIG)
      },
      needsReset: reason => {
        negotiation.needsReset()
        options.onBroken?.(reason)
      },
    })
    this.#lifecycle = new Lifecycle(negotiation, this.#runtime, memory, options.inFlight, {
      queueReset: index => selected.resetQueue(index),
      deviceReset: () => {
        selected.reset()
        interruptStatus.clear(ALL_INTERRUPTS)
      },
    })
    this.#registers = {
      deviceType: device.type,
      vendorId: options.vendorId ?? DEFAULT_VENDOR_ID,
      lifecycle: this.#lifecycle,
      interruptStatus,
      config: this.#config,
      sharedMemory: new SharedMemory(device.sharedMemory ?? []),
      selected,
    }
  }

  /** What happened so far; `refusals` counts the accesses that were ignored. */
  get counters(): TransportCounters {
    return this.#runtime.counters
  }

  /** Queues of the device. Each takes an ioeventfd at `VIRTIO_MMIO_QUEUE_NOTIFY`, 4 bytes, that matches its index. */
  get queueCount(): number {
    return this.device.queueSizes.length
  }

  /**
   * The guest reads.
   *
   * @param offset bytes from the start of the window
   * @param into what it gets, little-endian; zeroes for what is not there
   */
  read(offset: number, into: Uint8Array): void {
    if (this.#closed) into.fill(0)
    else if (offset >= VIRTIO_MMIO_CONFIG) this.#taken(this.#config.read(offset - VIRTIO_MMIO_CONFIG, into))
    else this.#readRegister(offset, into)
  }

  /**
   * The guest writes.
   *
   * @param offset bytes from the start of the window
   * @param from what it writes, little-endian
   * @returns a promise when the device has to end what it does first (a device reset, the stop of a queue): the vCPU
   *   must not go on before it settles. It does not reject, and has no time limit.
   */
  write(offset: number, from: Uint8Array): void | Promise<void> {
    if (this.#closed) return
    const result =
      offset >= VIRTIO_MMIO_CONFIG
        ? this.#config.write(offset - VIRTIO_MMIO_CONFIG, from)
        : this.#writeRegister(offset, from)
    if (typeof result !== "boolean") return result
    this.#taken(result)
  }

  /** The guest notified queue `queue` by ioeventfd. A queue that is not there, or not ready, is ignored. */
  notify(queue: number): void {
    if (!this.#closed) this.#runtime.notify(queue)
  }

  /** With this, `look` and `unwatch` the transport is an `AdaptivePoll`'s to serve: see `WatchedRings`. */
  watch(): void {
    if (!this.#closed) this.#runtime.watch()
  }

  /** Serves what came without a notification, of queues that are watched. @returns false when nothing did */
  look(): boolean {
    return !this.#closed && this.#runtime.look()
  }

  /** Asks for notifications again. */
  unwatch(): void {
    if (!this.#closed) this.#runtime.unwatch()
  }

  /**
   * The machine ends: resets the device. From here on the guest reads zeroes and its writes are ignored; nothing
   * touches guest memory once the promise settles. Idempotent.
   */
  async close(): Promise<void> {
    this.#closed = true
    await this.#lifecycle.reset()
  }

  #readRegister(offset: number, into: Uint8Array): void {
    const reader = into.length === 4 ? READ[offset] : undefined
    const value = reader?.(this.#registers) ?? 0
    into.fill(0)
    for (let i = 0; i < 4 && i < into.length; i++) into[i] = value >>> (8 * i)
    this.#taken(reader !== undefined)
  }

  #writeRegister(offset: number, from: Uint8Array): WriteResult {
    const writer = from.length === 4 ? WRITE[offset] : undefined
    if (!writer || (this.#lifecycle.resetting && !DURING_RESET.has(offset))) return false
    const value = (from[0]! | (from[1]! << 8) | (from[2]! << 16) | (from[3]! << 24)) >>> 0
    return writer(this.#registers, value)
  }

  #taken(taken: boolean): void {
    if (!taken) this.counters.refusals++
  }

  /** The bit first: a driver that the edge reaches must find it. */
  #raise(bit: number): void {
    this.#interruptStatus.raise(bit)
    this.#interrupt()
  }
}
