import type { GuestMemory } from "@ts-vmm/vm-memory"
import { hasFeature, VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC } from "../features.js"
import type { DescriptorChain, MutableChain } from "./chain.js"
import {
  EVENT_SUPPRESS_SIZE,
  MAX_CHAIN_SEGMENTS,
  MAX_QUEUE_SIZE,
  PACKED_ALIGN,
  RING_EVENT_FLAGS_DESC,
  RING_EVENT_FLAGS_DISABLE,
  RING_EVENT_FLAGS_ENABLE,
  VIRTQ_DESC_F_AVAIL,
  VIRTQ_DESC_F_INDIRECT,
  VIRTQ_DESC_F_NEXT,
  VIRTQ_DESC_F_USED,
  VIRTQ_DESC_F_WRITE,
  VIRTQ_DESC_SIZE,
} from "./defs.js"
import { QueueError } from "./errors.js"
import { checkDisjoint, ringWords16, ringWords32 } from "./ring-view.js"
import { clearChain, markTaken, revokeChain, SegmentBuilder } from "./segment-builder.js"
import type { InflightTracker, QueueConfig, QueueState, VirtQueue } from "./virt-queue.js"

/** u16 index of `flags` inside a descriptor, and of the buffer id before it. */
const FLAGS_WORD = 7
const WRAP_BIT = 15

/**
 * Device side of a packed ring.
 *
 * One ring holds both directions: the device writes a used descriptor over available ones and skips as many
 * slots as the chain took. Which slots are the device's is kept in private counters, so a driver that makes
 * slots available again before they were used is found out.
 *
 * @see virtio 1.3, section 2.8
 */
export class PackedQueue implements VirtQueue {
  readonly size: number
  readonly #desc16: Uint16Array
  readonly #desc32: Uint32Array
  readonly #driverEvent: Uint16Array
  readonly #deviceEvent: Uint16Array
  readonly #builder: SegmentBuilder
  readonly #indirectAllowed: boolean
  readonly #eventIdx: boolean
  readonly #inflightTracker: InflightTracker | undefined
  /** One chain object per buffer id, made when the id is first seen. */
  readonly #chains: (DescriptorChain | undefined)[]
  readonly #unpopped: DescriptorChain[] = []
  #inFlight = 0
  /** Slots taken by the driver's chains that the device has not used yet. */
  #slotsTaken = 0
  #avail: number
  #availWrap: boolean
  #used: number
  #usedWrap: boolean
  /** Slots used since the last `publish`, for the event decision. */
  #usedSince = 0

  /**
   * @throws QueueError `queue-size`, `ring-alignment`, `ring-address`, `ring-overlap`
   */
  constructor(memory: GuestMemory, config: QueueConfig, features: bigint) {
    const { size } = config
    if (!(Number.isInteger(size) && size > 0 && size <= MAX_QUEUE_SIZE))
      throw new QueueError("queue-size", size, MAX_QUEUE_SIZE)
    const desc = { address: config.desc, size: size * VIRTQ_DESC_SIZE, alignment: PACKED_ALIGN.desc }
    const driver = { address: config.driver, size: EVENT_SUPPRESS_SIZE, alignment: PACKED_ALIGN.driver }
    const device = { address: config.device, size: EVENT_SUPPRESS_SIZE, alignment: PACKED_ALIGN.device }
    this.size = size
    this.#desc16 = ringWords16(memory, desc)
    this.#desc32 = ringWords32(memory, desc)
    this.#driverEvent = ringWords16(memory, driver)
    this.#deviceEvent = ringWords16(memory, device)
    checkDisjoint([desc, driver, device])
    this.#builder = new SegmentBuilder(memory)
    this.#indirectAllowed = hasFeature(features, VIRTIO_F_INDIRECT_DESC)
    this.#eventIdx = hasFeature(features, VIRTIO_F_EVENT_IDX)
    this.#inflightTracker = config.inflight
    this.#chains = new Array<DescriptorChain | undefined>(size).fill(undefined)
    this.#avail = slot(config.state?.availIndex ?? 0, size)
    this.#availWrap = config.state?.availWrap ?? true
    this.#used = slot(config.state?.usedIndex ?? 0, size)
    this.#usedWrap = config.state?.usedWrap ?? true
  }

  get inFlight(): number {
    return this.#inFlight
  }

  pop(): DescriptorChain | undefined {
    if (this.#unpopped.length > 0) return this.#popAgain()
    if (!this.#available()) return undefined
    const chain = this.#walk()
    this.#inFlight++
    this.#inflightTracker?.popped(chain.head)
    return chain
  }

  unpop(chain: DescriptorChain): void {
    if (!chain.taken || this.#chains[chain.head] !== chain || this.#unpopped.includes(chain))
      throw new QueueError("not-in-flight", chain.head)
    this.#unpopped.push(chain)
    this.#inFlight--
    this.#inflightTracker?.unpopped(chain.head)
  }

  push(chain: DescriptorChain, written: number): void {
    const id = chain.head
    if (!chain.taken || this.#chains[id] !== chain) throw new QueueError("not-in-flight", id)
    if (this.#unpopped.length > 0 && this.#unpopped.includes(chain)) throw new QueueError("not-in-flight", id)
    if (!(written >= 0 && written <= chain.writableLength))
      throw new QueueError("used-length", written, chain.writableLength)
    if (this.#desc16.length === 0) throw new QueueError("memory-gone", id)
    this.#inflightTracker?.completing(id)
    const at = this.#used
    this.#desc32[at * 4 + 2] = written
    this.#desc16[at * 8 + FLAGS_WORD - 1] = id
    const flags =
      (this.#usedWrap ? VIRTQ_DESC_F_AVAIL | VIRTQ_DESC_F_USED : 0) | (written > 0 ? VIRTQ_DESC_F_WRITE : 0)
    // The store of the flags is what gives the descriptor to the driver.
    Atomics.store(this.#desc16, at * 8 + FLAGS_WORD, flags)
    this.#advanceUsed(chain.slots)
    this.#inFlight--
    clearChain(chain)
  }

  publish(): boolean {
    const count = this.#usedSince
    if (count === 0) return false
    if (this.#driverEvent.length === 0) throw new QueueError("memory-gone", this.#used)
    this.#usedSince = 0
    this.#inflightTracker?.published(this.#used)
    const flags = Atomics.load(this.#driverEvent, 1)
    if (flags === RING_EVENT_FLAGS_DISABLE) return false
    if (flags !== RING_EVENT_FLAGS_DESC || !this.#eventIdx) return true
    return this.#passed(Atomics.load(this.#driverEvent, 0), count)
  }

  hasAvailable(): boolean {
    return this.#available()
  }

  disableNotifications(): void {
    if (this.#deviceEvent.length > 0) Atomics.store(this.#deviceEvent, 1, RING_EVENT_FLAGS_DISABLE)
  }

  enableNotifications(): boolean {
    if (this.#deviceEvent.length === 0) throw new QueueError("memory-gone", this.#avail)
    if (this.#eventIdx) {
      Atomics.store(this.#deviceEvent, 0, this.#avail | (this.#availWrap ? 1 << WRAP_BIT : 0))
      Atomics.store(this.#deviceEvent, 1, RING_EVENT_FLAGS_DESC)
    } else {
      Atomics.store(this.#deviceEvent, 1, RING_EVENT_FLAGS_ENABLE)
    }
    return this.#unpopped.length > 0 || this.#available()
  }

  state(): QueueState {
    let availIndex = this.#avail
    let availWrap = this.#availWrap
    for (const chain of this.#unpopped) {
      availIndex -= chain.slots
      if (availIndex >= 0) continue
      availIndex += this.size
      availWrap = !availWrap
    }
    return { availIndex, availWrap, usedIndex: this.#used, usedWrap: this.#usedWrap }
  }

  stop(): void {
    for (const chain of this.#chains) if (chain) revokeChain(chain)
    this.#unpopped.length = 0
    this.#inFlight = 0
    this.#slotsTaken = 0
  }

  /** True when the driver gave the next slot to the device (2.8.1). */
  #available(): boolean {
    if (this.#desc16.length === 0) throw new QueueError("memory-gone", this.#avail)
    const flags = Atomics.load(this.#desc16, this.#avail * 8 + FLAGS_WORD)
    const avail = (flags & VIRTQ_DESC_F_AVAIL) !== 0
    const used = (flags & VIRTQ_DESC_F_USED) !== 0
    return avail === this.#availWrap && used !== this.#availWrap
  }

  #popAgain(): DescriptorChain {
    const chain = this.#unpopped.pop()!
    this.#inFlight++
    this.#inflightTracker?.popped(chain.head)
    return chain
  }

  /**
   * Copies every descriptor of the next chain once. The id stands in the last one, so segments are collected
   * in a spare chain's place: the buffer that names them is only known at the end.
   */
  #walk(): DescriptorChain {
    const words = this.#desc32
    const spare = this.#builder.scratch()
    let at = this.#avail
    let wrap = this.#availWrap
    for (let slots = 1; ; slots++) {
      if (this.#slotsTaken + slots > this.size) throw new QueueError("chain-too-long", at, this.size)
      const low = words[at * 4]!
      const high = words[at * 4 + 1]!
      const length = words[at * 4 + 2]!
      const idAndFlags = words[at * 4 + 3]!
      const flags = idAndFlags >>> 16
      if (++at === this.size) {
        at = 0
        wrap = !wrap
      }
      if ((flags & VIRTQ_DESC_F_INDIRECT) !== 0) this.#walkIndirect(spare, low, high, length, flags, slots)
      else this.#builder.add(spare, low, high, length, (flags & VIRTQ_DESC_F_WRITE) !== 0)
      if ((flags & VIRTQ_DESC_F_NEXT) !== 0) continue
      const chain = this.#claim(idAndFlags & 0xffff)
      this.#builder.moveScratch(chain, slots)
      markTaken(chain)
      this.#slotsTaken += slots
      this.#avail = at
      this.#availWrap = wrap
      return chain
    }
  }

  #claim(id: number): DescriptorChain {
    if (!(id < this.size)) throw new QueueError("head-index", id, this.size)
    const known = this.#chains[id]
    if (known?.taken) throw new QueueError("head-in-flight", id)
    if (known) return known
    const chain = this.#builder.newChain(id)
    this.#chains[id] = chain
    return chain
  }

  /** Entries of an indirect table are used in order; only their WRITE flag counts (2.8.8). */
  #walkIndirect(
    chain: MutableChain,
    low: number,
    high: number,
    length: number,
    flags: number,
    slots: number,
  ): void {
    if (!this.#indirectAllowed) throw new QueueError("indirect-refused", this.#avail)
    if ((flags & VIRTQ_DESC_F_NEXT) !== 0 || slots > 1) throw new QueueError("indirect-flags", this.#avail)
    const { words, base, entries } = this.#builder.indirectTable(low, high, length)
    if (entries > MAX_CHAIN_SEGMENTS) throw new QueueError("chain-too-long", entries, MAX_CHAIN_SEGMENTS)
    for (let i = 0; i < entries; i++) {
      const at = base + 4 * i
      const entryFlags = words[at + 3]! >>> 16
      if ((entryFlags & VIRTQ_DESC_F_INDIRECT) !== 0) throw new QueueError("nested-indirect", i)
      this.#builder.add(
        chain,
        words[at]!,
        words[at + 1]!,
        words[at + 2]!,
        (entryFlags & VIRTQ_DESC_F_WRITE) !== 0,
      )
    }
  }

  #advanceUsed(slots: number): void {
    this.#slotsTaken -= slots
    this.#usedSince += slots
    this.#used += slots
    if (this.#used >= this.size) {
      this.#used -= this.size
      this.#usedWrap = !this.#usedWrap
    }
  }

  /** True when one of the last `count` used slots is the one the driver waits for. */
  #passed(offWrap: number, count: number): boolean {
    const wrap = offWrap >>> WRAP_BIT === 1
    let event = offWrap & ((1 << WRAP_BIT) - 1)
    if (wrap !== this.#usedWrap) event -= this.size
    const distance = (this.#used - event - 1) & 0xffff
    return distance < count
  }
}

function slot(index: number, size: number): number {
  if (!(Number.isInteger(index) && index >= 0 && index < size))
    throw new QueueError("descriptor-index", index, size)
  return index
}
