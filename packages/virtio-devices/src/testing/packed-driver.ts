import type { GuestMemory } from "@ts-vmm/vm-memory"
import { hasFeature, VIRTIO_F_EVENT_IDX } from "../features.js"
import {
  RING_EVENT_FLAGS_DESC,
  RING_EVENT_FLAGS_DISABLE,
  RING_EVENT_FLAGS_ENABLE,
  VIRTQ_DESC_F_AVAIL,
  VIRTQ_DESC_F_INDIRECT,
  VIRTQ_DESC_F_NEXT,
  VIRTQ_DESC_F_USED,
  VIRTQ_DESC_F_WRITE,
  VIRTQ_DESC_SIZE,
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

/** Byte offset of `flags` in a packed descriptor; the buffer id stands 2 bytes before it. */
const FLAGS_OFFSET = 14
const WRAP_BIT = 15

/**
 * Driver side of a packed ring.
 * @see virtio 1.3, section 2.8.13 to 2.8.21
 */
export class PackedDriver implements DriverQueue {
  readonly config: QueueConfig
  readonly #memory: GuestMemory
  readonly #eventIdx: boolean
  readonly #freeIds: number[]
  /** Slots each chain in flight takes, by id. */
  readonly #slots = new Map<number, number>()
  #freeSlots: number
  #avail = 0
  #availWrap = true
  #used = 0
  #usedWrap = true
  /** Slots made available since the last `needsKick`. */
  #posted = 0

  constructor(memory: GuestMemory, config: QueueConfig, features: bigint) {
    this.#memory = memory
    this.config = config
    this.#eventIdx = hasFeature(features, VIRTIO_F_EVENT_IDX)
    this.#freeIds = Array.from({ length: config.size }, (_, i) => config.size - 1 - i)
    this.#freeSlots = config.size
  }

  get free(): number {
    return this.#freeSlots
  }

  post(buffers: readonly DriverBuffer[], options: PostOptions = {}): number {
    const slots = options.indirectTable === undefined ? buffers.length : 1
    if (slots === 0 || this.#freeSlots < slots) throw new RangeError("ring has no room for the chain")
    const id = this.#freeIds.pop()!
    const list =
      options.indirectTable === undefined
        ? buffers.map(describe)
        : [this.#indirect(buffers, options.indirectTable)]
    const head = this.#avail
    // The head's flags are stored last: they give the whole chain away.
    const headFlags = this.#markers() | list[0]!.flags | (slots > 1 ? VIRTQ_DESC_F_NEXT : 0)
    list.forEach((descriptor, i) => {
      const next = i + 1 < slots ? VIRTQ_DESC_F_NEXT : 0
      const flags = i === 0 ? this.#heldBack() : this.#markers() | descriptor.flags | next
      this.#writeSlot(this.#avail, { ...descriptor, flags, next: id })
      this.#advance()
    })
    this.#memory.storeU16(this.config.desc + head * VIRTQ_DESC_SIZE + FLAGS_OFFSET, headFlags)
    this.#slots.set(id, slots)
    this.#freeSlots -= slots
    return id
  }

  needsKick(): boolean {
    const count = this.#posted
    this.#posted = 0
    const flags = this.#memory.loadU16(this.config.device + 2)
    if (flags === RING_EVENT_FLAGS_DISABLE) return false
    if (flags !== RING_EVENT_FLAGS_DESC) return true
    const offWrap = this.#memory.loadU16(this.config.device)
    const event =
      (offWrap & 0x7fff) - ((offWrap >>> WRAP_BIT === 1) === this.#availWrap ? 0 : this.config.size)
    return ((this.#avail - event - 1) & 0xffff) < count
  }

  hasUsed(): boolean {
    const flags = this.#memory.loadU16(this.config.desc + this.#used * VIRTQ_DESC_SIZE + FLAGS_OFFSET)
    const avail = (flags & VIRTQ_DESC_F_AVAIL) !== 0
    const used = (flags & VIRTQ_DESC_F_USED) !== 0
    return avail === this.#usedWrap && used === this.#usedWrap
  }

  poll(): UsedBuffer | undefined {
    if (!this.hasUsed()) return undefined
    const at = this.config.desc + this.#used * VIRTQ_DESC_SIZE
    const bytes = new Uint8Array(VIRTQ_DESC_SIZE)
    this.#memory.read(at, bytes)
    const view = new DataView(bytes.buffer)
    const id = view.getUint16(12, true)
    const slots = this.#slots.get(id) ?? 1
    if (this.#slots.delete(id)) this.#freeIds.push(id)
    this.#freeSlots += slots
    this.#used += slots
    if (this.#used >= this.config.size) {
      this.#used -= this.config.size
      this.#usedWrap = !this.#usedWrap
    }
    return { id, length: view.getUint32(8, true) }
  }

  setInterrupts(on: boolean): void {
    const { driver } = this.config
    if (on && this.#eventIdx) this.#memory.storeU16(driver, this.#used | (this.#usedWrap ? 1 << WRAP_BIT : 0))
    const enabled = this.#eventIdx ? RING_EVENT_FLAGS_DESC : RING_EVENT_FLAGS_ENABLE
    this.#memory.storeU16(driver + 2, on ? enabled : RING_EVENT_FLAGS_DISABLE)
  }

  writeRaw(index: number, descriptor: RawDescriptor): void {
    this.#writeSlot(index, { ...descriptor, flags: descriptor.flags | this.#markers() })
  }

  offerRaw(_head: number): void {
    this.#advance()
  }

  #writeSlot(index: number, descriptor: RawDescriptor): void {
    const at = this.config.desc + index * VIRTQ_DESC_SIZE
    const bytes = new Uint8Array(VIRTQ_DESC_SIZE)
    const view = new DataView(bytes.buffer)
    view.setBigUint64(0, BigInt.asUintN(64, descriptor.address), true)
    view.setUint32(8, descriptor.length, true)
    view.setUint16(12, descriptor.next ?? 0, true)
    view.setUint16(FLAGS_OFFSET, descriptor.flags, true)
    this.#memory.write(at, bytes)
  }

  #indirect(buffers: readonly DriverBuffer[], at: number): RawDescriptor {
    buffers.forEach((buffer, i) => {
      const { address, length, flags } = describe(buffer)
      // In an indirect table id and flags lie as in the ring (2.8.8), so `next` carries the flags.
      writeDescriptor(this.#memory, at + i * VIRTQ_DESC_SIZE, { address, length, flags: 0, next: flags })
    })
    return { address: BigInt(at), length: buffers.length * VIRTQ_DESC_SIZE, flags: VIRTQ_DESC_F_INDIRECT }
  }

  /** AVAIL and USED as they say "available" in this round. */
  #markers(): number {
    return this.#availWrap ? VIRTQ_DESC_F_AVAIL : VIRTQ_DESC_F_USED
  }

  /** AVAIL and USED as they say "used": not available yet. */
  #heldBack(): number {
    return this.#availWrap ? 0 : VIRTQ_DESC_F_AVAIL | VIRTQ_DESC_F_USED
  }

  #advance(): void {
    this.#posted++
    if (++this.#avail < this.config.size) return
    this.#avail = 0
    this.#availWrap = !this.#availWrap
  }
}

function describe(buffer: DriverBuffer): RawDescriptor {
  return {
    address: BigInt(buffer.address),
    length: buffer.length,
    flags: buffer.writable ? VIRTQ_DESC_F_WRITE : 0,
  }
}
