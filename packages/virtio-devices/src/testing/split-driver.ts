import type { GuestMemory } from "@ts-vmm/vm-memory"
import { hasFeature, VIRTIO_F_EVENT_IDX } from "../features.js"
import {
  VIRTQ_AVAIL_F_NO_INTERRUPT,
  VIRTQ_DESC_F_INDIRECT,
  VIRTQ_DESC_F_NEXT,
  VIRTQ_DESC_F_WRITE,
  VIRTQ_DESC_SIZE,
  VIRTQ_USED_F_NO_NOTIFY,
} from "../queue/defs.js"
import type { QueueConfig } from "../queue/virt-queue.js"
import {
  type DriverBuffer,
  type DriverQueue,
  type PostOptions,
  type RawDescriptor,
  type UsedBuffer,
  writeDescriptor,
} from "./driver-queue.js"

/**
 * Driver side of a split ring.
 * @see virtio 1.3, section 2.7.13 and 2.7.14
 */
export class SplitDriver implements DriverQueue {
  readonly config: QueueConfig
  readonly #memory: GuestMemory
  readonly #eventIdx: boolean
  readonly #freeList: number[]
  /** Descriptors of each chain in flight, by head. */
  readonly #chains = new Map<number, number[]>()
  #availIdx: number
  #kickedIdx: number
  #usedIdx: number

  constructor(memory: GuestMemory, config: QueueConfig, features: bigint) {
    this.#memory = memory
    this.config = config
    this.#eventIdx = hasFeature(features, VIRTIO_F_EVENT_IDX)
    this.#freeList = Array.from({ length: config.size }, (_, i) => config.size - 1 - i)
    this.#availIdx = config.state?.availIndex ?? 0
    this.#kickedIdx = this.#availIdx
    this.#usedIdx = config.state?.usedIndex ?? 0
    memory.storeU16(config.driver + 2, this.#availIdx)
  }

  get free(): number {
    return this.#freeList.length
  }

  post(buffers: readonly DriverBuffer[], options: PostOptions = {}): number {
    const needed = options.indirectTable === undefined ? buffers.length : 1
    if (needed === 0 || this.#freeList.length < needed) throw new RangeError("ring has no room for the chain")
    const table = Array.from({ length: needed }, () => this.#freeList.pop()!)
    const head = table[0]!
    if (options.indirectTable === undefined) {
      buffers.forEach((buffer, i) => {
        this.writeRaw(table[i]!, describe(buffer, table[i + 1]))
      })
    } else {
      const at = options.indirectTable
      buffers.forEach((buffer, i) => {
        const last = i + 1 === buffers.length
        writeDescriptor(this.#memory, at + i * VIRTQ_DESC_SIZE, describe(buffer, last ? undefined : i + 1))
      })
      const length = buffers.length * VIRTQ_DESC_SIZE
      this.writeRaw(head, { address: BigInt(at), length, flags: VIRTQ_DESC_F_INDIRECT })
    }
    this.#chains.set(head, table)
    this.offerRaw(head)
    return head
  }

  needsKick(): boolean {
    const before = this.#kickedIdx
    this.#kickedIdx = this.#availIdx
    const { device, size } = this.config
    if (!this.#eventIdx) return (this.#memory.loadU16(device) & VIRTQ_USED_F_NO_NOTIFY) === 0
    const event = this.#memory.loadU16(device + 4 + 8 * size)
    return ((this.#availIdx - event - 1) & 0xffff) < ((this.#availIdx - before) & 0xffff)
  }

  hasUsed(): boolean {
    return this.#memory.loadU16(this.config.device + 2) !== this.#usedIdx
  }

  poll(): UsedBuffer | undefined {
    if (!this.hasUsed()) return undefined
    const { device, size } = this.config
    const entry = new Uint8Array(8)
    this.#memory.read(device + 4 + 8 * (this.#usedIdx % size), entry)
    const view = new DataView(entry.buffer)
    const id = view.getUint32(0, true)
    this.#usedIdx = (this.#usedIdx + 1) & 0xffff
    this.#freeList.push(...(this.#chains.get(id) ?? []))
    this.#chains.delete(id)
    return { id, length: view.getUint32(4, true) }
  }

  setInterrupts(on: boolean): void {
    const { driver, size } = this.config
    this.#memory.storeU16(driver, on ? 0 : VIRTQ_AVAIL_F_NO_INTERRUPT)
    // Just behind us is the index that the device passes last.
    if (this.#eventIdx)
      this.#memory.storeU16(driver + 4 + 2 * size, on ? this.#usedIdx : (this.#usedIdx - 1) & 0xffff)
  }

  writeRaw(index: number, descriptor: RawDescriptor): void {
    writeDescriptor(this.#memory, this.config.desc + index * VIRTQ_DESC_SIZE, descriptor)
  }

  offerRaw(head: number): void {
    const { driver, size } = this.config
    this.#memory.storeU16(driver + 4 + 2 * (this.#availIdx % size), head)
    this.setAvailIdx(this.#availIdx + 1)
  }

  /** Stores any available index. */
  setAvailIdx(index: number): void {
    this.#availIdx = index & 0xffff
    this.#memory.storeU16(this.config.driver + 2, this.#availIdx)
  }

  /** The available index the driver last stored. */
  get availIdx(): number {
    return this.#availIdx
  }
}

function describe(buffer: DriverBuffer, next: number | undefined): RawDescriptor {
  const flags = (buffer.writable ? VIRTQ_DESC_F_WRITE : 0) | (next === undefined ? 0 : VIRTQ_DESC_F_NEXT)
  return { address: BigInt(buffer.address), length: buffer.length, flags, next: next ?? 0 }
}
