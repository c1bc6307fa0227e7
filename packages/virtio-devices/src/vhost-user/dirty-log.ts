import type { DescriptorChain } from "../queue/chain.js"
import type { QueueState, VirtQueue } from "../queue/virt-queue.js"
import { VHOST_LOG_PAGE } from "./defs.js"

/**
 * The bitmap a front end reads during live migration: one bit per 4 KiB of guest memory, set by whoever
 * writes a page. Addresses past its end are not covered and not marked.
 *
 * @see vhost-user.rst, "Migration"
 */
export class DirtyLog {
  readonly #bits: Uint8Array

  /** @param bits the shared bitmap; bit 0 of byte 0 is guest address 0 */
  constructor(bits: Uint8Array) {
    this.#bits = bits
  }

  /** Marks every page that `[address, address + length)` touches. */
  mark(address: number, length: number): void {
    if (length <= 0) return
    const first = Math.floor(address / VHOST_LOG_PAGE)
    const last = Math.min(Math.floor((address + length - 1) / VHOST_LOG_PAGE), this.#bits.length * 8 - 1)
    // The front end clears bits while this sets them: a plain read-modify-write could bring one back or lose one.
    for (let page = first; page <= last; page++) Atomics.or(this.#bits, Math.floor(page / 8), 1 << (page % 8))
  }
}

/** Where the used ring's own writes are logged (SET_VRING_ADDR with VHOST_VRING_F_LOG). */
export interface UsedRingLog {
  /** Log address of the first byte of the used ring. */
  readonly address: number
  /** Bytes of the used ring. */
  readonly length: number
}

/** A queue that marks what it writes. Stands in front of the real one only while logging is on. */
export class LoggedQueue implements VirtQueue {
  readonly #queue: VirtQueue
  readonly #log: () => { log: DirtyLog; used?: UsedRingLog } | undefined

  /** @param log asked at each write, because logging is switched while the ring runs */
  constructor(queue: VirtQueue, log: () => { log: DirtyLog; used?: UsedRingLog } | undefined) {
    this.#queue = queue
    this.#log = log
  }

  get size(): number {
    return this.#queue.size
  }
  get inFlight(): number {
    return this.#queue.inFlight
  }
  pop(): DescriptorChain | undefined {
    return this.#queue.pop()
  }
  unpop(chain: DescriptorChain): void {
    this.#queue.unpop(chain)
  }

  push(chain: DescriptorChain, written: number): void {
    const active = this.#log()
    if (active) {
      // A device may fill the end of a chain and leave a gap (a block status byte): the whole is marked.
      for (let i = chain.readableCount; i < chain.segmentCount; i++) {
        active.log.mark(chain.segmentAddress(i), chain.segmentLengths[i]!)
      }
    }
    this.#queue.push(chain, written)
  }

  publish(): boolean {
    const interrupt = this.#queue.publish()
    this.#markUsedRing()
    return interrupt
  }
  hasAvailable(): boolean {
    return this.#queue.hasAvailable()
  }
  disableNotifications(): void {
    this.#queue.disableNotifications()
    this.#markUsedRing()
  }
  enableNotifications(): boolean {
    const more = this.#queue.enableNotifications()
    this.#markUsedRing()
    return more
  }
  state(): QueueState {
    return this.#queue.state()
  }
  stop(): void {
    this.#queue.stop()
  }

  #markUsedRing(): void {
    const active = this.#log()
    if (active?.used) active.log.mark(active.used.address, active.used.length)
  }
}
