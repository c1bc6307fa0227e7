import { setTimeout } from "node:timers/promises"
import type { GuestAddress, GuestMemory } from "@ts-vmm/vm-memory"
import type { VirtioDevice } from "../device.js"
import { hasFeature, RING_FEATURES, VIRTIO_F_RING_PACKED, VIRTIO_F_VERSION_1 } from "../features.js"
import { availRingSize, EVENT_SUPPRESS_SIZE, usedRingSize, VIRTQ_DESC_SIZE } from "../queue/defs.js"
import type { QueueConfig } from "../queue/virt-queue.js"
import { direct } from "./direct.js"
import type { DriverBuffer, DriverQueue, PostOptions, UsedBuffer } from "./driver-queue.js"
import type { DriverPort, FrontDoor, MemoryRequest } from "./front-door.js"
import { PackedDriver } from "./packed-driver.js"
import { SplitDriver } from "./split-driver.js"

const MIB = 2 ** 20

/**
 * Default guest RAM: two regions that touch at 1 MiB, and one above 4 GiB behind a hole.
 */
export const DEFAULT_REGIONS: readonly MemoryRequest[] = [
  { start: 0, size: MIB },
  { start: MIB, size: MIB },
  { start: 2 ** 32, size: 4 * MIB },
]

/** How a `MockDriver` initialises a device. */
export interface MockDriverOptions {
  /** Features to acknowledge of those offered. Default: all but the packed ring. */
  readonly features?: (offered: bigint) => bigint
  /** Use packed rings. Default false. */
  readonly packed?: boolean
  /** Size of each queue; 0 leaves a queue out. Default: 16, or the device's largest when that is smaller. */
  readonly queueSizes?: readonly number[]
  /** Guest RAM. Default `DEFAULT_REGIONS`. */
  readonly regions?: readonly MemoryRequest[]
  /** Where buffers and rings are taken from: inside one of the regions. Default 2^32. */
  readonly heapStart?: GuestAddress
  /** Stop before DRIVER_OK. Default false. */
  readonly holdBack?: boolean
}

/**
 * How long waiting for the device may take before a test fails, in milliseconds: what a busy host's disk needs for a
 * flush now and then, and less than a test usually has, so that what was waited for is named.
 */
const PATIENCE_MS = 20_000
const POLL_MS = 2

/**
 * A virtio driver for tests: initialises a device over any front door and works its rings, honestly or not.
 *
 * @example
 * ```ts
 * await using driver = await MockDriver.attach(new RngDevice(), direct)
 * const buffer = driver.writable(48)
 * const { length } = await driver.send(0, [buffer])   // 48
 * ```
 */
export class MockDriver implements AsyncDisposable {
  readonly device: VirtioDevice
  readonly port: DriverPort
  readonly options: MockDriverOptions
  /** Features negotiated. */
  features = 0n
  readonly #queues = new Map<number, DriverQueue>()
  readonly #interrupts = new Map<number, number>()
  #configInterrupts = 0
  #waiters: (() => void)[] = []
  #heap: GuestAddress

  private constructor(device: VirtioDevice, port: DriverPort, options: MockDriverOptions) {
    this.device = device
    this.port = port
    this.options = options
    this.#heap = options.heapStart ?? 2 ** 32
    port.onInterrupt(index => {
      for (const one of index === undefined ? this.#queuesWithUsed() : [index])
        this.#interrupts.set(one, this.interrupts(one) + 1)
      this.#wake()
    })
    port.onConfigInterrupt(() => {
      this.#configInterrupts++
      this.#wake()
    })
  }

  /** Connects to `device` and runs the initialisation sequence up to DRIVER_OK. */
  static async attach(
    device: VirtioDevice,
    over: FrontDoor = direct,
    options: MockDriverOptions = {},
  ): Promise<MockDriver> {
    const port = await over.open(device, { regions: options.regions ?? DEFAULT_REGIONS })
    const driver = new MockDriver(device, port, options)
    try {
      await driver.initialise()
    } catch (error) {
      await port.close()
      throw error
    }
    return driver
  }

  /** Guest RAM. */
  get memory(): GuestMemory {
    return this.port.memory
  }

  /** Runs the initialisation sequence; after a reset too. Rings are made anew. */
  async initialise(): Promise<void> {
    const offered = await this.port.offeredFeatures()
    const packed = this.options.packed ?? false
    const chosen = this.options.features?.(offered) ?? offered & (RING_FEATURES | this.device.features)
    this.features = (packed ? chosen : chosen & ~VIRTIO_F_RING_PACKED) | VIRTIO_F_VERSION_1
    if (packed && !hasFeature(this.features, VIRTIO_F_RING_PACKED))
      throw new Error("packed rings are not offered")
    if (!(await this.port.acknowledge(this.features))) throw new Error("device refused the features")
    this.#queues.clear()
    for (const [index, size] of this.#sizes().entries()) {
      if (size > 0) await this.setUpQueue(index, this.placeQueue(size))
    }
    if (!this.options.holdBack) await this.port.driverOk()
  }

  /** Sets one queue up with any configuration. */
  async setUpQueue(index: number, config: QueueConfig): Promise<void> {
    const queue = hasFeature(this.features, VIRTIO_F_RING_PACKED)
      ? new PackedDriver(this.memory, config, this.features)
      : new SplitDriver(this.memory, config, this.features)
    this.#queues.set(index, queue)
    await this.port.setUpQueue(index, config)
  }

  /** Zeroed, aligned room for a ring of `size` descriptors. */
  placeQueue(size: number): QueueConfig {
    const packed = hasFeature(this.features, VIRTIO_F_RING_PACKED)
    const desc = this.alloc(size * VIRTQ_DESC_SIZE)
    const driver = this.alloc(packed ? EVENT_SUPPRESS_SIZE : availRingSize(size))
    const device = this.alloc(packed ? EVENT_SUPPRESS_SIZE : usedRingSize(size))
    return { size, desc, driver, device }
  }

  /** The driver's side of queue `index`. @throws RangeError when it was not set up */
  queue(index: number): DriverQueue {
    const queue = this.#queues.get(index)
    if (!queue) throw new RangeError(`queue ${index} was not set up`)
    return queue
  }

  /** The same, for tests that know it is split. */
  splitQueue(index: number): SplitDriver {
    const queue = this.queue(index)
    if (!(queue instanceof SplitDriver)) throw new TypeError(`queue ${index} is packed`)
    return queue
  }

  /** Zeroed room in guest memory; never freed. */
  alloc(size: number, alignment = 16): GuestAddress {
    const at = Math.ceil(this.#heap / alignment) * alignment
    this.memory.write(at, new Uint8Array(size))
    this.#heap = at + size
    return at
  }

  /** A device-readable buffer that holds `bytes`. */
  readable(bytes: Uint8Array, at: GuestAddress = this.alloc(bytes.length)): DriverBuffer {
    this.memory.write(at, bytes)
    return this.#buffer(at, bytes.length, false)
  }

  /** A device-writable buffer of `length` bytes. */
  writable(length: number, at: GuestAddress = this.alloc(length)): DriverBuffer {
    return this.#buffer(at, length, true)
  }

  /** Makes a chain available, notifies, waits for it to come back. @returns the used length */
  async send(index: number, buffers: readonly DriverBuffer[], options?: PostOptions): Promise<UsedBuffer> {
    const id = this.post(index, buffers, options)
    const used = await this.nextUsed(index)
    if (used.id !== id) throw new Error(`expected chain ${id} to come back, got ${used.id}`)
    return used
  }

  /** Makes a chain available and notifies when the device wants it. @returns the chain's id */
  post(index: number, buffers: readonly DriverBuffer[], options?: PostOptions): number {
    const queue = this.queue(index)
    const id = queue.post(buffers, options)
    if (queue.needsKick()) this.port.kick(index)
    return id
  }

  /** Waits for the next used chain. @throws Error when none comes */
  async nextUsed(index: number): Promise<UsedBuffer> {
    const queue = this.queue(index)
    let found: UsedBuffer | undefined
    await this.until(() => {
      found = queue.poll()
      return found !== undefined
    }, `a used chain on queue ${index}`)
    // Armed for the next one, as drivers do.
    queue.setInterrupts(true)
    return found!
  }

  /** Waits until `condition` holds, looking at each interrupt and every few milliseconds. */
  async until(condition: () => boolean | Promise<boolean>, what: string): Promise<void> {
    const deadline = performance.now() + PATIENCE_MS
    while (!(await condition())) {
      if (performance.now() > deadline) throw new Error(`waited in vain for ${what}`)
      const stop = new AbortController()
      const interrupt = new Promise<void>(resolve => this.#waiters.push(resolve))
      const timer = setTimeout(POLL_MS, undefined, { signal: stop.signal }).catch(() => undefined)
      await Promise.race([interrupt, timer])
      stop.abort()
    }
  }

  /** Used-buffer interrupts of queue `index` so far. */
  interrupts(index: number): number {
    return this.#interrupts.get(index) ?? 0
  }

  /** Configuration interrupts so far. */
  get configInterrupts(): number {
    return this.#configInterrupts
  }

  /** Waits for DEVICE_NEEDS_RESET. */
  async untilBroken(): Promise<void> {
    await this.until(() => this.port.needsReset(), "DEVICE_NEEDS_RESET")
  }

  /** Device reset and, unless `initialise` is false, initialisation. */
  async reset({ initialise = true } = {}): Promise<void> {
    await this.port.reset()
    if (initialise) await this.initialise()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.port.close()
  }

  #queuesWithUsed(): number[] {
    return [...this.#queues].filter(([, queue]) => queue.hasUsed()).map(([index]) => index)
  }

  #sizes(): readonly number[] {
    return this.options.queueSizes ?? this.device.queueSizes.map(max => Math.min(16, max))
  }

  #buffer(address: GuestAddress, length: number, writable: boolean): DriverBuffer {
    const { memory } = this
    return {
      address,
      length,
      writable,
      bytes() {
        const copy = new Uint8Array(length)
        memory.read(address, copy)
        return copy
      },
    }
  }

  #wake(): void {
    for (const wake of this.#waiters.splice(0)) wake()
  }
}
