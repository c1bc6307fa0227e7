import { Deadline } from "../deadline.js"
import type { DeviceContext } from "../device.js"
import type { DescriptorChain } from "../queue/chain.js"
import * as defs from "./defs.js"
import { BalloonError } from "./errors.js"

/** Most entries looked at. The specification has ten. */
const MAX_ENTRIES = 64
/** A u64 whose high word is this or more does not fit a number; no honest guest has such. */
const HIGH_LIMIT = 2 ** 21

/**
 * What a guest says of its memory; whatever it leaves out is undefined. It is the guest's word: plan with it, enforce
 * nothing by it.
 *
 * @see virtio 1.3, section 5.5.6.4
 */
export interface BalloonStatistics {
  /** Swapped in since boot, bytes. */
  readonly swapInBytes?: number
  /** Swapped out since boot, bytes. */
  readonly swapOutBytes?: number
  /** Page faults that had to wait for a disk, since boot. */
  readonly majorFaults?: number
  /** Other page faults, since boot. */
  readonly minorFaults?: number
  /** Not used for anything, bytes. */
  readonly freeBytes?: number
  /** All that the guest has, bytes. */
  readonly totalBytes?: number
  /** What new programs could have without swapping, bytes. */
  readonly availableBytes?: number
  /** Caches that can be dropped at once, bytes. */
  readonly cacheBytes?: number
  /** Huge pages handed out, since boot. */
  readonly hugePageAllocations?: number
  /** Huge pages that could not be had, since boot. */
  readonly hugePageFailures?: number
}

const FIELDS: Readonly<Record<number, keyof BalloonStatistics>> = {
  [defs.VIRTIO_BALLOON_S_SWAP_IN]: "swapInBytes",
  [defs.VIRTIO_BALLOON_S_SWAP_OUT]: "swapOutBytes",
  [defs.VIRTIO_BALLOON_S_MAJFLT]: "majorFaults",
  [defs.VIRTIO_BALLOON_S_MINFLT]: "minorFaults",
  [defs.VIRTIO_BALLOON_S_MEMFREE]: "freeBytes",
  [defs.VIRTIO_BALLOON_S_MEMTOT]: "totalBytes",
  [defs.VIRTIO_BALLOON_S_AVAIL]: "availableBytes",
  [defs.VIRTIO_BALLOON_S_CACHES]: "cacheBytes",
  [defs.VIRTIO_BALLOON_S_HTLB_PGALLOC]: "hugePageAllocations",
  [defs.VIRTIO_BALLOON_S_HTLB_PGFAIL]: "hugePageFailures",
}

/** Reads a buffer of the statistics queue: unknown tags and impossible values are passed over, the last of a tag counts. */
export function parseStatistics(chain: DescriptorChain): BalloonStatistics {
  const bytes = new Uint8Array(MAX_ENTRIES * defs.STATISTIC_SIZE)
  const length = chain.read(0, bytes)
  const view = new DataView(bytes.buffer)
  const statistics: { -readonly [K in keyof BalloonStatistics]: BalloonStatistics[K] } = {}
  for (let at = 0; at + defs.STATISTIC_SIZE <= length; at += defs.STATISTIC_SIZE) {
    const field = FIELDS[view.getUint16(at, true)]
    const high = view.getUint32(at + 6, true)
    if (field === undefined || high >= HIGH_LIMIT) continue
    statistics[field] = high * 2 ** 32 + view.getUint32(at + 2, true)
  }
  return statistics
}

interface Waiter {
  resolve(statistics: BalloonStatistics): void
  reject(error: BalloonError): void
  readonly deadline: Deadline
}

/**
 * Asks the guest for statistics: its buffer goes back to it, and comes again with new numbers. Between questions the
 * buffer stays in the queue and none is in flight, so that the queue can be stopped at any time.
 *
 * @see virtio 1.3, section 5.5.6.3
 */
export class StatisticsPoll {
  readonly #ctx: DeviceContext
  readonly #waiters = new Set<Waiter>()

  constructor(ctx: DeviceContext) {
    this.#ctx = ctx
  }

  /** @throws BalloonError (as a rejection) `timeout`, `reset` */
  ask(timeoutMs: number): Promise<BalloonStatistics> {
    return new Promise((resolve, reject) => {
      const deadline = new Deadline(timeoutMs, () => {
        this.#waiters.delete(waiter)
        reject(new BalloonError("timeout", `the guest sent no statistics within ${timeoutMs} ms`))
      })
      const waiter: Waiter = { resolve, reject, deadline }
      this.#waiters.add(waiter)
      // Whoever asks while an answer is on its way gets that one.
      if (this.#waiters.size === 1) this.#sendBufferBack()
    })
  }

  /** The queue has something: the answer, if somebody waits for one. */
  notify(): void {
    if (this.#waiters.size === 0) return
    const chain = this.#ctx.pop(defs.STATISTICS_QUEUE)
    if (!chain) return
    const statistics = parseStatistics(chain)
    this.#ctx.unpop(defs.STATISTICS_QUEUE, chain)
    for (const { resolve } of this.#takeWaiters()) resolve(statistics)
  }

  /** The device was reset. */
  end(): void {
    const error = new BalloonError("reset", "the driver reset the balloon")
    for (const { reject } of this.#takeWaiters()) reject(error)
  }

  #sendBufferBack(): void {
    const chain = this.#ctx.pop(defs.STATISTICS_QUEUE)
    if (chain) this.#ctx.complete(defs.STATISTICS_QUEUE, chain, 0)
    // A second look arms notifications; a driver that has another buffer there already has answered.
    this.notify()
  }

  #takeWaiters(): Waiter[] {
    const waiters = [...this.#waiters]
    this.#waiters.clear()
    for (const { deadline } of waiters) deadline.cancel()
    return waiters
  }
}
