import type { DescriptorChain } from "../queue/chain.js"
import { BALLOON_PAGE_SIZE } from "./defs.js"

/** Page numbers read at a time. Linux sends 256 a chain, Windows 1024. */
const BLOCK_PAGES = 1024
/** Longest piece of a segment: freeing pages takes time, and others wait for their turn. */
const PIECE_BYTES = BLOCK_PAGES * BALLOON_PAGE_SIZE

/**
 * The pages that one chain names, as runs of neighbours. After `next` said true `start`, `size` and `looked` are those
 * of the run. What the guest puts there is not checked against its memory yet.
 */
export interface PageRuns {
  /** First byte, a multiple of 4096. */
  readonly start: number
  /** Bytes, a multiple of 4096. */
  readonly size: number
  /** How many numbers or pages had to be looked at for it: what the run costs beside freeing it. */
  readonly looked: number
  /** Starts with a chain. */
  open(chain: DescriptorChain): void
  /** @returns false after the last one */
  next(): boolean
}

/**
 * Runs of a chain that holds page numbers (inflate): le32 each, in any order, as often as the guest likes. They are
 * sorted in blocks of 1024. Bytes after the last whole number are passed over.
 *
 * @see virtio 1.3, section 5.5.6
 */
export class PfnRuns implements PageRuns {
  start = 0
  size = 0
  looked = 0
  readonly #numbers = new Uint32Array(BLOCK_PAGES)
  #chain: DescriptorChain | undefined
  /** Bytes of the chain that were read. */
  #read = 0
  #block = this.#numbers
  #at = 0

  open(chain: DescriptorChain): void {
    this.#chain = chain
    this.#read = 0
    this.#block = this.#numbers.subarray(0, 0)
    this.#at = 0
  }

  next(): boolean {
    if (this.#at === this.#block.length && !this.#fill()) return false
    const first = this.#block[this.#at]!
    const begun = this.#at
    let last = first
    while (++this.#at < this.#block.length) {
      const number = this.#block[this.#at]!
      if (number > last + 1) break
      last = number
    }
    this.start = first * BALLOON_PAGE_SIZE
    this.size = (last - first + 1) * BALLOON_PAGE_SIZE
    this.looked = this.#at - begun
    return true
  }

  #fill(): boolean {
    const bytes = this.#chain!.read(this.#read, new Uint8Array(this.#numbers.buffer))
    this.#read += bytes
    this.#block = this.#numbers.subarray(0, bytes >>> 2).sort()
    this.#at = 0
    return this.#block.length > 0
  }
}

/**
 * Runs of a chain whose buffers are the pages themselves (hints and reports), in pieces of at most 4 MiB. Buffers may
 * be anything that is memory; only whole pages of them count.
 *
 * @see virtio 1.3, section 5.5.6.5 and 5.5.6.7
 */
export class BufferRuns implements PageRuns {
  start = 0
  size = 0
  looked = 0
  #chain: DescriptorChain | undefined
  #segment = 0
  #at = 0

  open(chain: DescriptorChain): void {
    this.#chain = chain
    this.#segment = chain.readableCount
    this.#at = 0
  }

  next(): boolean {
    const chain = this.#chain!
    for (this.looked = 1; this.#segment < chain.segmentCount; this.looked++) {
      const address = chain.segmentAddress(this.#segment)
      const from = Math.ceil((address + this.#at) / BALLOON_PAGE_SIZE) * BALLOON_PAGE_SIZE
      const end = address + chain.segmentLengths[this.#segment]!
      const to = Math.min(Math.floor(end / BALLOON_PAGE_SIZE) * BALLOON_PAGE_SIZE, from + PIECE_BYTES)
      if (to > from) {
        this.start = from
        this.size = to - from
        this.looked += this.size / BALLOON_PAGE_SIZE
        this.#at = to - address
        return true
      }
      this.#segment++
      this.#at = 0
    }
    return false
  }
}
