import type { QueueConfig } from "../queue/virt-queue.js"
import type { ConfigSpace } from "./config-space.js"
import * as defs from "./defs.js"
import type { InterruptStatus } from "./interrupt-status.js"
import type { Lifecycle, WriteResult } from "./lifecycle.js"
import type { SharedMemory } from "./shared-memory.js"

/** What the registers are a window to. */
export interface Registers {
  readonly deviceType: number
  readonly vendorId: number
  readonly lifecycle: Lifecycle
  readonly interruptStatus: InterruptStatus
  readonly config: ConfigSpace
  readonly sharedMemory: SharedMemory
  readonly selected: Selected
}

/** Feature words there may ever be: 128 bits (virtio 1.3, section 2.2). */
const FEATURE_WORDS = 4
/** Halves of ring addresses a queue has. */
const ADDRESS_HALVES = 6
const TWO_32 = 2 ** 32

/** What the driver selected, and the halves it wrote. Plain state, as the driver left it until reset. */
export class Selected {
  deviceFeatures = 0
  driverFeatures = 0
  queue = 0
  region = 0
  /** Of each queue: descriptor, driver and device area, lower half first. */
  readonly addresses: Uint32Array

  constructor(queueCount: number) {
    this.addresses = new Uint32Array(queueCount * ADDRESS_HALVES)
  }

  reset(): void {
    this.deviceFeatures = 0
    this.driverFeatures = 0
    this.queue = 0
    this.region = 0
    this.addresses.fill(0)
  }

  /** Forgets the halves of one queue. */
  resetQueue(index: number): void {
    this.addresses.fill(0, index * ADDRESS_HALVES, (index + 1) * ADDRESS_HALVES)
  }
}

type Reader = (registers: Registers) => number
type Writer = (registers: Registers, value: number) => WriteResult

/** What can be read, all 32 bits wide (4.2.2.2). */
export const READ: Readonly<Record<number, Reader>> = {
  [defs.VIRTIO_MMIO_MAGIC_VALUE]: () => defs.VIRTIO_MMIO_MAGIC,
  [defs.VIRTIO_MMIO_VERSION]: () => defs.VIRTIO_MMIO_VERSION_2,
  [defs.VIRTIO_MMIO_DEVICE_ID]: r => r.deviceType,
  [defs.VIRTIO_MMIO_VENDOR_ID]: r => r.vendorId,
  [defs.VIRTIO_MMIO_DEVICE_FEATURES]: r =>
    featureWord(r.lifecycle.negotiation.offered, r.selected.deviceFeatures),
  [defs.VIRTIO_MMIO_QUEUE_NUM_MAX]: r => r.lifecycle.negotiation.queueMax(r.selected.queue),
  [defs.VIRTIO_MMIO_QUEUE_READY]: r => Number(r.lifecycle.negotiation.isQueueReady(r.selected.queue)),
  [defs.VIRTIO_MMIO_INTERRUPT_STATUS]: r => r.interruptStatus.load(),
  [defs.VIRTIO_MMIO_STATUS]: r => r.lifecycle.negotiation.status,
  [defs.VIRTIO_MMIO_SHM_LEN_LOW]: r => low(r.sharedMemory.length(r.selected.region)),
  [defs.VIRTIO_MMIO_SHM_LEN_HIGH]: r => high(r.sharedMemory.length(r.selected.region)),
  [defs.VIRTIO_MMIO_SHM_BASE_LOW]: r => low(r.sharedMemory.base(r.selected.region)),
  [defs.VIRTIO_MMIO_SHM_BASE_HIGH]: r => high(r.sharedMemory.base(r.selected.region)),
  [defs.VIRTIO_MMIO_QUEUE_RESET]: r => Number(r.lifecycle.isResettingQueue(r.selected.queue)),
  [defs.VIRTIO_MMIO_CONFIG_GENERATION]: r => r.config.generation(),
}

/** What can be written, likewise. */
export const WRITE: Readonly<Record<number, Writer>> = {
  [defs.VIRTIO_MMIO_DEVICE_FEATURES_SEL]: select("deviceFeatures"),
  [defs.VIRTIO_MMIO_DRIVER_FEATURES_SEL]: select("driverFeatures"),
  [defs.VIRTIO_MMIO_DRIVER_FEATURES]: writeDriverFeatures,
  [defs.VIRTIO_MMIO_QUEUE_SEL]: select("queue"),
  [defs.VIRTIO_MMIO_QUEUE_NUM]: (r, size) => r.lifecycle.negotiation.setQueueSize(r.selected.queue, size),
  [defs.VIRTIO_MMIO_QUEUE_READY]: writeQueueReady,
  [defs.VIRTIO_MMIO_QUEUE_NOTIFY]: (r, index) => {
    r.lifecycle.runtime.notify(index)
    return true
  },
  [defs.VIRTIO_MMIO_INTERRUPT_ACK]: (r, bits) => {
    r.interruptStatus.clear(bits)
    return true
  },
  [defs.VIRTIO_MMIO_STATUS]: (r, value) => r.lifecycle.writeStatus(value),
  [defs.VIRTIO_MMIO_QUEUE_DESC_LOW]: addressHalf("desc", 0),
  [defs.VIRTIO_MMIO_QUEUE_DESC_HIGH]: addressHalf("desc", 1),
  [defs.VIRTIO_MMIO_QUEUE_AVAIL_LOW]: addressHalf("driver", 2),
  [defs.VIRTIO_MMIO_QUEUE_AVAIL_HIGH]: addressHalf("driver", 3),
  [defs.VIRTIO_MMIO_QUEUE_USED_LOW]: addressHalf("device", 4),
  [defs.VIRTIO_MMIO_QUEUE_USED_HIGH]: addressHalf("device", 5),
  [defs.VIRTIO_MMIO_SHM_SEL]: select("region"),
  [defs.VIRTIO_MMIO_QUEUE_RESET]: (r, value) => value === 1 && r.lifecycle.resetQueue(r.selected.queue),
}

/** Writes that are taken while a device reset is under way: those that change nothing of what is reset. */
export const DURING_RESET: ReadonlySet<number> = new Set([
  defs.VIRTIO_MMIO_STATUS,
  defs.VIRTIO_MMIO_INTERRUPT_ACK,
])

/** Selecting what is not there is legal: the registers behind it are then 0, or not taken. */
function select(what: "deviceFeatures" | "driverFeatures" | "queue" | "region"): Writer {
  return ({ selected }, value) => {
    selected[what] = value
    return true
  }
}

function writeDriverFeatures({ lifecycle, selected }: Registers, value: number): boolean {
  const word = selected.driverFeatures
  if (word >= FEATURE_WORDS) return false
  const { negotiation } = lifecycle
  const shift = BigInt(32 * word)
  const others = negotiation.features & ~(0xffff_ffffn << shift)
  return negotiation.writeFeatures(others | (BigInt(value) << shift))
}

function writeQueueReady({ lifecycle, selected }: Registers, value: number): WriteResult {
  if (value === 0) return lifecycle.disableQueue(selected.queue)
  return value === 1 && lifecycle.enableQueue(selected.queue)
}

/** Writes half of a ring address. It is known once both are, and checked when the queue is made. */
function addressHalf(part: keyof Pick<QueueConfig, "desc" | "driver" | "device">, half: number): Writer {
  const lowHalf = half & ~1
  return ({ lifecycle, selected }, value) => {
    const { addresses, queue } = selected
    const at = queue * ADDRESS_HALVES
    const halves = [addresses[at + lowHalf] ?? 0, addresses[at + lowHalf + 1] ?? 0] as [number, number]
    halves[half & 1] = value
    // Beyond 2^53 this is inexact, and far outside of any guest memory all the same.
    const address = halves[1] * TWO_32 + halves[0]
    if (!lifecycle.negotiation.setQueueAddresses(queue, { [part]: address })) return false
    addresses[at + half] = value
    return true
  }
}

function featureWord(features: bigint, word: number): number {
  return word < FEATURE_WORDS ? Number((features >> BigInt(32 * word)) & 0xffff_ffffn) : 0
}

function low(value: bigint): number {
  return Number(value & 0xffff_ffffn)
}

function high(value: bigint): number {
  return Number(value >> 32n)
}
