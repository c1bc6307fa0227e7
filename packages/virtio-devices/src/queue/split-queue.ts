import type { GuestMemory } from "@ts-vmm/vm-memory"
import { hasFeature, VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC } from "../features.js"
import type { DescriptorChain } from "./chain.js"
import {
  availRingSize,
  MAX_QUEUE_SIZE,
  SPLIT_ALIGN,
  usedRingSize,
  VIRTQ_AVAIL_F_NO_INTERRUPT,
  VIRTQ_DESC_SIZE,
  VIRTQ_USED_F_NO_NOTIFY,
} from "./defs.js"
import { QueueError } from "./errors.js"
import { checkDisjoint, ringWords16, ringWords32 } from "./ring-view.js"
import { clearChain, markTaken, revokeChain, SegmentBuilder } from "./segment-builder.js"
import type { InflightTracker, QueueConfig, QueueState, VirtQueue } from "./virt-queue.js"

/** u16 index of `idx` in both rings, after `flags`. */
const IDX = 1
/** u16 index of the first available ring entry. */
const AVAIL_RING = 2

/**
 * Device side of a split ring.
 *
 * The three parts are resolved to typed views once, so a ring access is a plain array read that cannot
 * leave its part. Indexes the device owns live in private fields.
 *
 * Fields that hold numbers start as numbers: one that is `undefined` first is read with a type check ever
 * after. For the same reason `taken`, a boolean from the queue itself, is compared with `true`.
 *
 * @see virtio 1.3, section 2.7
 */
export class SplitQueue implements VirtQueue {
  readonly size: number = 0
  readonly #desc: Uint32Array
  readonly #avail: Uint16Array
  readonly #used16: Uint16Array
  readonly #used32: Uint32Array
  readonly #builder: SegmentBuilder
  readonly #indirectAllowed: boolean
  readonly #eventIdx: boolean
  readonly #inflightTracker: InflightTracker | undefined
  /** One chain object per head, made when the head is first seen. */
  readonly #chains: (DescriptorChain | undefined)[]
  readonly #unpopped: DescriptorChain[] = []
  readonly #resubmit: number[]
  /** Something comes before the ring: an unpopped chain, or a head to resubmit. */
  #again = false
  #inFlight = 0
  #availIdx = 0
  #lastAvail = 0
  #usedIdx = 0
  #publishedIdx = 0
  #notifyOn = true

  /**
   * @throws QueueError `queue-size`, `ring-alignment`, `ring-address`, `ring-overlap`, `head-index`
   */
  constructor(memory: GuestMemory, config: QueueConfig, features: bigint) {
    const { size } = config
    if (!(Number.isInteger(size) && size > 0 && size <= MAX_QUEUE_SIZE && (size & (size - 1)) === 0))
      throw new QueueError("queue-size", size, MAX_QUEUE_SIZE)
    const desc = { address: config.desc, size: size * VIRTQ_DESC_SIZE, alignment: SPLIT_ALIGN.desc }
    const avail = { address: config.driver, size: availRingSize(size), alignment: SPLIT_ALIGN.driver }
    const used = { address: config.device, size: usedRingSize(size), alignment: SPLIT_ALIGN.device }
    this.size = size
    this.#desc = ringWords32(memory, desc)
    this.#avail = ringWords16(memory, avail)
    this.#used16 = ringWords16(memory, used)
    this.#used32 = ringWords32(memory, used)
    checkDisjoint([desc, avail, used])
    this.#builder = new SegmentBuilder(memory)
    this.#indirectAllowed = hasFeature(features, VIRTIO_F_INDIRECT_DESC)
    this.#eventIdx = hasFeature(features, VIRTIO_F_EVENT_IDX)
    this.#inflightTracker = config.inflight
    this.#chains = new Array<DescriptorChain | undefined>(size).fill(undefined)
    this.#resubmit = [...(config.resubmit ?? [])].reverse()
    for (const head of this.#resubmit) if (!(head < size)) throw new QueueError("head-index", head, size)
    this.#again = this.#resubmit.length > 0
    this.#lastAvail = (config.state?.availIndex ?? 0) & 0xffff
    this.#availIdx = this.#lastAvail
    this.#usedIdx = (config.state?.usedIndex ?? 0) & 0xffff
    this.#publishedIdx = this.#usedIdx
  }

  get inFlight(): number {
    return this.#inFlight
  }

  pop(): DescriptorChain | undefined {
    if (this.#again) return this.#popAgain()
    if (this.#lastAvail === this.#availIdx && !this.#available()) return undefined
    const head = this.#avail[AVAIL_RING + (this.#lastAvail & (this.size - 1))]!
    if (!(head < this.size)) throw this.#badHead(head)
    const chain = this.#take(head)
    this.#lastAvail = (this.#lastAvail + 1) & 0xffff
    return chain
  }

  unpop(chain: DescriptorChain): void {
    if (chain.taken !== true || this.#chains[chain.head] !== chain || this.#unpopped.includes(chain))
      throw new QueueError("not-in-flight", chain.head)
    this.#unpopped.push(chain)
    this.#again = true
    this.#inFlight--
    this.#inflightTracker?.unpopped(chain.head)
  }

  push(chain: DescriptorChain, written: number): void {
    const head = chain.head
    if (chain.taken !== true || this.#chains[head] !== chain) throw new QueueError("not-in-flight", head)
    if (this.#again && this.#unpopped.includes(chain)) throw new QueueError("not-in-flight", head)
    if (!(written >= 0 && written <= chain.writableLength))
      throw new QueueError("used-length", written, chain.writableLength)
    if (this.#used16.length === 0) throw new QueueError("memory-gone", head)
    this.#inflightTracker?.completing(head)
    const at = 1 + 2 * (this.#usedIdx & (this.size - 1))
    this.#used32[at] = head
    this.#used32[at + 1] = written
    this.#usedIdx = (this.#usedIdx + 1) & 0xffff
    this.#inFlight--
    clearChain(chain)
  }

  publish(): boolean {
    const before = this.#publishedIdx
    const now = this.#usedIdx
    if (now === before) return false
    if (this.#used16.length === 0) throw new QueueError("memory-gone", now)
    this.#publishedIdx = now
    // A sequentially consistent store: entries before it, and the driver's event index read after it.
    Atomics.store(this.#used16, IDX, now)
    this.#inflightTracker?.published(now)
    if (!this.#eventIdx) return (Atomics.load(this.#avail, 0) & VIRTQ_AVAIL_F_NO_INTERRUPT) === 0
    const event = Atomics.load(this.#avail, AVAIL_RING + this.size)
    return ((now - event - 1) & 0xffff) < ((now - before) & 0xffff)
  }

  hasAvailable(): boolean {
    return this.#lastAvail !== this.#availIdx || this.#available()
  }

  disableNotifications(): void {
    if (!this.#notifyOn) return
    this.#notifyOn = false
    // With EVENT_IDX the stale avail_event is what keeps the driver quiet.
    if (!this.#eventIdx) Atomics.store(this.#used16, 0, VIRTQ_USED_F_NO_NOTIFY)
  }

  enableNotifications(): boolean {
    if (this.#used16.length === 0) throw new QueueError("memory-gone", this.#lastAvail)
    if (this.#eventIdx) Atomics.store(this.#used16, AVAIL_RING + 4 * this.size, this.#lastAvail)
    else if (!this.#notifyOn) Atomics.store(this.#used16, 0, 0)
    this.#notifyOn = true
    return this.#again || this.#available()
  }

  state(): QueueState {
    return {
      availIndex: (this.#lastAvail - this.#unpopped.length) & 0xffff,
      usedIndex: this.#usedIdx,
      availWrap: true,
      usedWrap: true,
    }
  }

  stop(): void {
    for (const chain of this.#chains) if (chain) revokeChain(chain)
    this.#unpopped.length = 0
    this.#resubmit.length = 0
    this.#again = false
    this.#inFlight = 0
  }

  #badHead(head: number | undefined): QueueError {
    return head === undefined
      ? new QueueError("memory-gone", this.#lastAvail)
      : new QueueError("head-index", head, this.size)
  }

  /** Looks at the driver's index again. */
  #available(): boolean {
    if (this.#avail.length === 0) throw new QueueError("memory-gone", this.#lastAvail)
    const idx = Atomics.load(this.#avail, IDX)
    const ahead = (idx - this.#lastAvail) & 0xffff
    if (ahead > this.size) throw new QueueError("avail-index", ahead, this.size)
    this.#availIdx = idx
    return ahead !== 0
  }

  #popAgain(): DescriptorChain {
    const chain = this.#unpopped.pop()
    this.#again = this.#unpopped.length > 0 || this.#resubmit.length > (chain ? 0 : 1)
    if (!chain) return this.#take(this.#resubmit.pop()!)
    this.#inFlight++
    this.#inflightTracker?.popped(chain.head)
    return chain
  }

  #take(head: number): DescriptorChain {
    let chain = this.#chains[head]
    if (chain === undefined) {
      chain = this.#builder.newChain(head)
      this.#chains[head] = chain
    }
    if (chain.taken === true) throw new QueueError("head-in-flight", head)
    this.#builder.walk(chain, this.#desc, this.size, head, this.#indirectAllowed)
    markTaken(chain)
    this.#inFlight++
    this.#inflightTracker?.popped(head)
    return chain
  }
}
