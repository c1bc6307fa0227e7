import { MemoryError } from "./errors.js"
import type { GuestAddress, GuestMemory, GuestRegion } from "./guest-memory.js"

/** Largest region: the largest `ArrayBuffer` of Node 20. */
export const MAX_REGION_SIZE = 2 ** 32
/** No region ends above: the widest physical address of x86-64 and arm64. */
export const MAX_GUEST_ADDRESS = 2 ** 52
/** What `discard` works in, bytes. */
export const DISCARD_ALIGNMENT = 4096
/** Regions start at a multiple of this, in the guest and in their buffer, so that aligned stays aligned. */
export const REGION_ALIGNMENT = 8

/** One region as a provider hands it in. */
export interface RegionSource {
  /** First guest physical address. */
  readonly start: GuestAddress
  /** The whole region; its length is the region's size. */
  readonly bytes: Uint8Array
  /**
   * Gives pages back to the host: `offset` in the region and `size` in bytes, whole pages of 4096. Throws what the
   * host says. Without it pages are only made zero.
   */
  readonly discard?: (offset: number, size: number) => void
}

/**
 * `GuestMemory` over any set of buffers: lookup with a last-hit cache before a binary search, accesses that
 * cross adjacent regions, checks. Providers build one and own the buffers' life.
 *
 * @example
 * ```ts
 * const memory = new RegionTable([{ start: 0, bytes: low }, { start: 4 * GIB, bytes: high }])
 * ```
 */
export class RegionTable implements GuestMemory {
  readonly regions: readonly GuestRegion[]
  readonly #starts: number[]
  readonly #ends: number[]
  readonly #words: Uint16Array[]
  readonly #discards: RegionSource["discard"][]
  #hit = 0

  /**
   * @param sources in any order
   * @throws MemoryError `no-regions`, `region-size`, `region-address`, `region-overlap`, `misaligned`
   */
  constructor(sources: readonly RegionSource[]) {
    if (sources.length === 0) throw new MemoryError("no-regions", 0, 0)
    const sorted = [...sources].sort((a, b) => a.start - b.start)
    sorted.forEach((source, i) => {
      checkRegion(source, sorted[i - 1])
    })
    this.regions = sorted.map(({ start, bytes }) => Object.freeze({ start, size: bytes.length, bytes }))
    this.#discards = sorted.map(s => s.discard)
    this.#starts = sorted.map(s => s.start)
    this.#ends = sorted.map(s => s.start + s.bytes.length)
    this.#words = sorted.map(
      ({ bytes }) => new Uint16Array(bytes.buffer, bytes.byteOffset, Math.floor(bytes.length / 2)),
    )
  }

  /** Index in `regions` of the region that holds the byte at `at`, or -1. */
  indexOf(at: GuestAddress): number {
    const hit = this.#hit
    if (at >= this.#starts[hit]! && at < this.#ends[hit]!) return hit
    let low = 0
    let high = this.#starts.length
    while (low < high) {
      const middle = (low + high) >>> 1
      if (at < this.#ends[middle]!) high = middle
      else low = middle + 1
    }
    if (low === this.#starts.length || !(at >= this.#starts[low]!)) return -1
    this.#hit = low
    return low
  }

  find(at: GuestAddress, size: number): GuestRegion | undefined {
    const index = this.indexOf(at)
    return index >= 0 && size >= 0 && at + size <= this.#ends[index]! ? this.regions[index] : undefined
  }

  read(at: GuestAddress, into: Uint8Array): void {
    let index = this.#require(at, into.length)
    for (let done = 0; done < into.length; index++) {
      const bytes = this.regions[index]!.bytes
      const offset = at + done - this.#starts[index]!
      const part = Math.min(into.length - done, bytes.length - offset)
      into.set(bytes.subarray(offset, offset + part), done)
      done += part
    }
  }

  write(at: GuestAddress, from: Uint8Array): void {
    let index = this.#require(at, from.length)
    for (let done = 0; done < from.length; index++) {
      const bytes = this.regions[index]!.bytes
      const offset = at + done - this.#starts[index]!
      const part = Math.min(from.length - done, bytes.length - offset)
      bytes.set(part === from.length ? from : from.subarray(done, done + part), offset)
      done += part
    }
  }

  slices(at: GuestAddress, size: number): Uint8Array[] {
    let index = this.#require(at, size)
    const slices: Uint8Array[] = []
    for (let done = 0; done < size; index++) {
      const bytes = this.regions[index]!.bytes
      const offset = at + done - this.#starts[index]!
      const part = Math.min(size - done, bytes.length - offset)
      slices.push(bytes.subarray(offset, offset + part))
      done += part
    }
    return slices
  }

  discard(at: GuestAddress, size: number): void {
    if (at % DISCARD_ALIGNMENT !== 0 || size % DISCARD_ALIGNMENT !== 0)
      throw new MemoryError("misaligned", at, size)
    let index = this.#require(at, size)
    for (let done = 0; done < size; index++) {
      const { start, bytes } = this.regions[index]!
      const offset = at + done - start
      const part = Math.min(size - done, bytes.length - offset)
      this.#discardPart(index, offset, part)
      done += part
    }
  }

  loadU16(at: GuestAddress): number {
    const index = this.#requireWord(at)
    return Atomics.load(this.#words[index]!, (at - this.#starts[index]!) / 2)
  }

  storeU16(at: GuestAddress, value: number): void {
    const index = this.#requireWord(at)
    Atomics.store(this.#words[index]!, (at - this.#starts[index]!) / 2, value)
  }

  #discardPart(index: number, offset: number, size: number): void {
    const { start, bytes } = this.regions[index]!
    const discard = this.#discards[index]
    if (!discard) {
      bytes.fill(0, offset, offset + size)
      return
    }
    try {
      discard(offset, size)
    } catch (cause) {
      throw new MemoryError("discard-failed", start + offset, size, { cause })
    }
  }

  /** Index of the region that holds `at`; what follows it is contiguous for `size` bytes. */
  #require(at: GuestAddress, size: number): number {
    if (!(Number.isSafeInteger(at) && Number.isSafeInteger(size) && size >= 0))
      throw new MemoryError("out-of-range", at, size)
    const first = this.indexOf(at)
    if (first < 0) {
      if (size === 0 && this.#ends.includes(at)) return this.#ends.indexOf(at)
      throw new MemoryError("out-of-range", at, size)
    }
    let last = first
    while (this.#ends[last]! < at + size) {
      if (this.#starts[last + 1] !== this.#ends[last]) throw new MemoryError("out-of-range", at, size)
      last++
    }
    for (let i = first; i <= last; i++)
      if (this.regions[i]!.bytes.length === 0) throw new MemoryError("closed", at, size)
    return first
  }

  #requireWord(at: GuestAddress): number {
    if (at % 2 !== 0) throw new MemoryError("misaligned", at, 2)
    const index = this.indexOf(at)
    if (index < 0 || at + 2 > this.#ends[index]!) throw new MemoryError("out-of-range", at, 2)
    if (this.#words[index]!.length === 0) throw new MemoryError("closed", at, 2)
    return index
  }
}

function checkRegion({ start, bytes }: RegionSource, previous: RegionSource | undefined): void {
  const size = bytes.length
  if (size === 0 || size > MAX_REGION_SIZE) throw new MemoryError("region-size", start, size)
  if (!(Number.isSafeInteger(start) && start >= 0 && start + size <= MAX_GUEST_ADDRESS))
    throw new MemoryError("region-address", start, size)
  if (start % REGION_ALIGNMENT !== 0 || bytes.byteOffset % REGION_ALIGNMENT !== 0)
    throw new MemoryError("misaligned", start, size)
  if (previous && previous.start + previous.bytes.length > start)
    throw new MemoryError("region-overlap", start, size)
}
