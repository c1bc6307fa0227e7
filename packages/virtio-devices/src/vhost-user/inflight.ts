import { VhostUserError } from "./errors.js"

/**
 * The shared log of descriptors in flight, split layout, so that a back end that died can be replaced
 * without losing a request. The front end keeps the memory; its content is untrusted after a reconnect.
 *
 * ```
 *  per queue:  features u64 | version u16 | desc_num u16 | last_batch_head u16 | used_idx u16 | desc[desc_num]
 *  per desc:   inflight u8 | padding u8[5] | next u16 | counter u64
 * ```
 *
 * @see vhost-user.rst, "Inflight I/O tracking"
 */
const HEAD_SIZE = 16
const VERSION_OFFSET = 8
const DESC_NUM_OFFSET = 10
const LAST_BATCH_HEAD_OFFSET = 12
const USED_IDX_OFFSET = 14
const DESC_SIZE = 16
const NEXT_OFFSET = 6
const COUNTER_OFFSET = 8
const INFLIGHT_VERSION = 1
/** Queue regions start on a multiple of this, as other back ends lay them out. */
const REGION_ALIGN = 64
const LE = true

/** Bytes of one queue's region. */
export function inflightRegionSize(queueSize: number): number {
  return Math.ceil((HEAD_SIZE + DESC_SIZE * queueSize) / REGION_ALIGN) * REGION_ALIGN
}

/** What a reconnect finds. */
export interface InflightRecovery {
  /** Heads to process again, in the order they were taken. */
  readonly resubmit: readonly number[]
}

/**
 * Keeps one queue's region up to date. It is an `InflightTracker` of the queue, and costs a few stores per
 * chain; everything is little-endian because every supported platform is.
 */
export class InflightQueueLog {
  readonly #view: DataView
  readonly #size: number
  /** Heads pushed since the last publish: private, so that the peer cannot forge the list. */
  #batch: number[] = []
  #counter = 1n

  /**
   * @param bytes the queue's region, `inflightRegionSize(size)` bytes at least
   * @param size queue size in descriptors
   * @throws VhostUserError `protocol` when the region is too small for the queue
   */
  constructor(bytes: Uint8Array, size: number) {
    if (bytes.length < HEAD_SIZE + DESC_SIZE * size) {
      throw new VhostUserError(
        "protocol",
        `in-flight region of ${bytes.length} bytes for ${size} descriptors`,
        {
          value: bytes.length,
        },
      )
    }
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
    this.#size = size
  }

  /**
   * Brings the region in step with the used ring and says what has to be done again. A region nobody used
   * yet, or one of another shape, is initialised.
   *
   * @param usedIndex `idx` of the used ring as it is in memory
   */
  recover(usedIndex: number): InflightRecovery {
    const view = this.#view
    if (
      view.getUint16(VERSION_OFFSET, LE) !== INFLIGHT_VERSION ||
      view.getUint16(DESC_NUM_OFFSET, LE) !== this.#size
    ) {
      this.#initialise(usedIndex)
      return { resubmit: [] }
    }
    this.#finishLastBatch(usedIndex)
    const found: { head: number; counter: bigint }[] = []
    for (let head = 0; head < this.#size; head++) {
      if (view.getUint8(this.#at(head)) === 0) continue
      found.push({ head, counter: view.getBigUint64(this.#at(head) + COUNTER_OFFSET, LE) })
    }
    found.sort((a, b) => (a.counter < b.counter ? -1 : a.counter > b.counter ? 1 : a.head - b.head))
    this.#counter = BigInt.asUintN(64, (found.at(-1)?.counter ?? 0n) + 1n)
    return { resubmit: found.map(entry => entry.head) }
  }

  popped(head: number): void {
    const at = this.#at(head)
    this.#view.setBigUint64(at + COUNTER_OFFSET, this.#counter++, LE)
    this.#view.setUint8(at, 1)
  }

  unpopped(head: number): void {
    this.#view.setUint8(this.#at(head), 0)
  }

  completing(head: number): void {
    this.#view.setUint16(this.#at(head) + NEXT_OFFSET, this.#view.getUint16(LAST_BATCH_HEAD_OFFSET, LE), LE)
    this.#view.setUint16(LAST_BATCH_HEAD_OFFSET, head, LE)
    this.#batch.push(head)
  }

  published(usedIndex: number): void {
    for (const head of this.#batch) this.#view.setUint8(this.#at(head), 0)
    this.#batch.length = 0
    this.#view.setUint16(USED_IDX_OFFSET, usedIndex & 0xffff, LE)
  }

  /** The crash may have come between the used index and the flags: those entries are done. */
  #finishLastBatch(usedIndex: number): void {
    const view = this.#view
    const done = (usedIndex - view.getUint16(USED_IDX_OFFSET, LE)) & 0xffff
    let head = view.getUint16(LAST_BATCH_HEAD_OFFSET, LE)
    for (let i = 0; i < Math.min(done, this.#size) && head < this.#size; i++) {
      view.setUint8(this.#at(head), 0)
      head = view.getUint16(this.#at(head) + NEXT_OFFSET, LE)
    }
    view.setUint16(USED_IDX_OFFSET, usedIndex, LE)
  }

  #initialise(usedIndex: number): void {
    new Uint8Array(this.#view.buffer, this.#view.byteOffset, HEAD_SIZE + DESC_SIZE * this.#size).fill(0)
    this.#view.setUint16(VERSION_OFFSET, INFLIGHT_VERSION, LE)
    this.#view.setUint16(DESC_NUM_OFFSET, this.#size, LE)
    this.#view.setUint16(USED_IDX_OFFSET, usedIndex, LE)
  }

  #at(head: number): number {
    return HEAD_SIZE + head * DESC_SIZE
  }
}
