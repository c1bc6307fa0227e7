import type { GuestAddress, GuestMemory } from "@ts-vmm/vm-memory"
import { VIRTQ_DESC_SIZE } from "../queue/defs.js"
import type { QueueConfig } from "../queue/virt-queue.js"

/** A piece of guest memory that a driver lends to a device. */
export interface DriverBuffer {
  readonly address: GuestAddress
  readonly length: number
  /** Device-writable. */
  readonly writable: boolean
  /** A copy of what it holds now. */
  bytes(): Uint8Array
}

/** How a chain is made available. */
export interface PostOptions {
  /** Put the descriptors into an indirect table at this address: `16 * buffers.length` bytes. */
  readonly indirectTable?: GuestAddress
}

/** A chain that came back. */
export interface UsedBuffer {
  /** What `post` returned for it. */
  readonly id: number
  /** Bytes the device says it wrote. */
  readonly length: number
}

/** One descriptor, as raw as it gets: nothing is checked, that is what hostile tests want. */
export interface RawDescriptor {
  readonly address: bigint
  readonly length: number
  /** `VIRTQ_DESC_F_*`. */
  readonly flags: number
  /** Split: `next`. Packed: buffer id. */
  readonly next?: number
}

/** The driver's side of one ring: an honest driver's calls, and raw access for a dishonest one. */
export interface DriverQueue {
  readonly config: QueueConfig
  /** Chains that can still be posted when each takes one descriptor. */
  readonly free: number
  /** Makes one chain available. @returns its id. @throws RangeError when the ring has no room */
  post(buffers: readonly DriverBuffer[], options?: PostOptions): number
  /** True when the device asked to be notified of what was posted since the last call. */
  needsKick(): boolean
  /** True when `poll` would take one. */
  hasUsed(): boolean
  /** Takes one used chain. */
  poll(): UsedBuffer | undefined
  /** Asks for interrupts, or for none. With EVENT_IDX, "on" means: at the next used chain. */
  setInterrupts(on: boolean): void
  /** Writes descriptor `index` of the ring's table and nothing else. */
  writeRaw(index: number, descriptor: RawDescriptor): void
  /** Makes whatever is in the table at `head` (split), or from the next slot on (packed), available. */
  offerRaw(head: number): void
}

/** Writes one descriptor in split or indirect layout at `at`. */
export function writeDescriptor(memory: GuestMemory, at: GuestAddress, descriptor: RawDescriptor): void {
  const bytes = new Uint8Array(VIRTQ_DESC_SIZE)
  const view = new DataView(bytes.buffer)
  view.setBigUint64(0, BigInt.asUintN(64, descriptor.address), true)
  view.setUint32(8, descriptor.length, true)
  view.setUint16(12, descriptor.flags, true)
  view.setUint16(14, descriptor.next ?? 0, true)
  memory.write(at, bytes)
}
