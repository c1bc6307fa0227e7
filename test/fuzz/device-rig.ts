import { ok } from "node:assert"
import { setImmediate } from "node:timers/promises"
import { DeviceRuntime, QueueError, TransportCounters, type VirtioDevice } from "@ts-vmm/virtio-devices"
import {
  type DriverBuffer,
  type DriverQueue,
  PackedDriver,
  SplitDriver,
  type UsedBuffer,
} from "@ts-vmm/virtio-devices/testing"
import { type MappedMemory, mmapMemory } from "@ts-vmm/vm-memory/mmap"
import { featuresOf, type RawDescriptor, writeWhereThere } from "./guest-ram.js"

/** Rings and indirect tables lie here, */
const RINGS = 0x1_0000
/** and buffers from here on, to the end of the second region. */
export const BUFFERS = 0x2_0000
export const BUFFERS_END = 0x5_0000
/** Room for one ring: 128 descriptors, and both other parts. */
const RING_SPAN = 0x1000
const QUEUE_SIZE = 64

/** What was negotiated. */
export interface Negotiated {
  readonly packed: boolean
  readonly indirect: boolean
  readonly eventIdx: boolean
}

/** One piece of a chain: where, how long, which way, and what stands there. */
export interface Piece {
  readonly at: number
  readonly length: number
  readonly writable: boolean
  readonly bytes: Uint8Array
}

/** A device behind direct calls and in guarded memory, and a driver for it that does as it is told. */
export class DeviceRig {
  readonly memory: MappedMemory
  readonly device: VirtioDevice
  readonly runtime: DeviceRuntime
  readonly counters = new TransportCounters()
  readonly #deviceFeatures: bigint
  #queues: DriverQueue[] = []

  constructor(device: VirtioDevice, memory: MappedMemory) {
    this.device = device
    this.memory = memory
    this.#deviceFeatures = device.features
    const nothing = () => undefined
    const hooks = { interrupt: nothing, configInterrupt: nothing, needsReset: nothing }
    this.runtime = new DeviceRuntime(device, hooks, this.counters)
  }

  /** Memory for rigs, between guard pages. */
  static memory(): MappedMemory {
    const regions = [
      { start: 0, size: 0x3_0000 },
      { start: 0x3_0000, size: BUFFERS_END - 0x3_0000 },
    ]
    return mmapMemory(regions, { guard: true, name: "fuzz-device" })
  }

  /** Reset, fresh rings, DRIVER_OK. `deviceFeatures` is cut down to what is offered. */
  start(negotiated: Negotiated, deviceFeatures = this.#deviceFeatures): void {
    this.runtime.reset()
    for (const { bytes } of this.memory.regions) bytes.fill(0)
    const features = featuresOf(negotiated) | (deviceFeatures & this.#deviceFeatures)
    this.#queues = this.device.queueSizes.map((max, index) => {
      const base = RINGS + index * RING_SPAN
      const config = {
        size: Math.min(max, QUEUE_SIZE),
        desc: base,
        driver: base + 0x800,
        device: base + 0xa00,
      }
      return new (negotiated.packed ? PackedDriver : SplitDriver)(this.memory, config, features)
    })
    const queues = new Map(this.#queues.map((queue, index) => [index, queue.config]))
    this.runtime.activate(this.memory, features, queues)
  }

  /** Makes a chain of `pieces` available, as far as the ring has room. @returns its id */
  post(index: number, pieces: readonly Piece[], indirectAt?: number): number | undefined {
    const queue = this.#queues[index]
    if (!queue || pieces.length === 0) return undefined
    for (const piece of pieces) writeWhereThere(this.memory, piece.at, piece.bytes)
    if (queue.free < (indirectAt === undefined ? pieces.length : 1)) return undefined
    const buffers = pieces.map(bufferOf)
    return indirectAt === undefined ? queue.post(buffers) : queue.post(buffers, { indirectTable: indirectAt })
  }

  /** Writes a descriptor into the ring, whatever it says, and makes it available. */
  postRaw(index: number, slot: number, descriptor: RawDescriptor): void {
    const queue = this.#queues[index]
    if (!queue) return
    queue.writeRaw(slot % queue.config.size, descriptor)
    queue.offerRaw(slot % queue.config.size)
  }

  kick(index: number): void {
    this.runtime.notify(index)
  }

  poll(index: number): UsedBuffer | undefined {
    return this.#queues[index]?.poll()
  }

  /** Bytes of guest memory, copied. */
  read(at: number, length: number): Uint8Array {
    const bytes = new Uint8Array(length)
    this.memory.read(at, bytes)
    return bytes
  }

  /** What comes back on a queue, waited for. */
  async used(index: number): Promise<UsedBuffer> {
    const deadline = performance.now() + 10_000
    for (;;) {
      const used = this.poll(index)
      if (used) return used
      ok(
        performance.now() < deadline,
        `nothing comes back on queue ${index}: ${this.runtime.broken?.message}`,
      )
      await setImmediate()
    }
  }

  /** A device may break for what the guest did, and for nothing else. */
  checkFault(allowed: (reason: Error) => boolean = () => false): void {
    const { broken } = this.runtime
    if (broken === undefined || broken instanceof QueueError || allowed(broken)) return
    throw broken
  }
}

function bufferOf({ at, length, writable }: Piece): DriverBuffer {
  return { address: at, length, writable, bytes: () => new Uint8Array() }
}
