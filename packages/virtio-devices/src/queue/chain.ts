import type { GuestAddress, GuestRegion } from "@ts-vmm/vm-memory"

/** Segments a chain has room for before its arrays grow. */
const INITIAL_SEGMENTS = 8

/**
 * One buffer a driver made available: the private, already checked copy of its descriptors.
 *
 * A chain is a list of segments, device-readable ones first. Every segment lies wholly inside one region of
 * the queue's memory (a descriptor that crosses adjacent regions became two segments), so nothing here can
 * fail for a reason the guest controls: `read` and `write` copy what fits and say how much that was.
 *
 * The object belongs to its queue and is used again after `complete` or `reset`; a revoked chain has no
 * segments, so a late access copies nothing.
 *
 * @see virtio 1.3, section 2.7.5 (split) and 2.8.1 (packed)
 *
 * @example
 * ```ts
 * const header = new Uint8Array(16)
 * if (chain.read(0, header) < header.length) return ctx.fail(new Error("short header"))
 * chain.write(chain.writableLength - 1, Uint8Array.of(status))
 * ```
 */
export class DescriptorChain {
  /** Index of the head descriptor (split) or buffer id (packed): what the used ring will name. */
  readonly head: number = 0 // a number from the start: see SplitQueue
  /** Regions that `segmentRegions` indexes: `GuestMemory.regions` of the queue's memory. */
  readonly regions: readonly GuestRegion[]
  /** Bytes the device may read. */
  readonly readableLength: number = 0
  /** Bytes the device may write. */
  readonly writableLength: number = 0
  /** Number of segments; entries of the three arrays past it are left-overs. */
  readonly segmentCount: number = 0
  /** Segments `[0, readableCount)` are device-readable, `[readableCount, segmentCount)` device-writable. */
  readonly readableCount: number = 0
  /** Region index of each segment. */
  readonly segmentRegions: Uint32Array = new Uint32Array(INITIAL_SEGMENTS)
  /** Byte offset of each segment inside its region. */
  readonly segmentOffsets: Float64Array = new Float64Array(INITIAL_SEGMENTS)
  /** Length in bytes of each segment; never zero. */
  readonly segmentLengths: Uint32Array = new Uint32Array(INITIAL_SEGMENTS)
  /** Region that every entry of `segmentRegions` names, or -1: spares the queue writing them again. Of no use to devices. */
  readonly uniformRegion: number = 0
  /** Taken from the ring and not yet returned. */
  readonly taken: boolean = false
  /** Its queue was stopped: it has no segments any more and completing it does nothing. */
  readonly revoked: boolean = false
  /** Ring slots the chain takes (packed rings skip that many when it is used). Of no use to devices. */
  readonly slots: number = 1

  /** Made by a queue only. */
  constructor(head: number, regions: readonly GuestRegion[]) {
    this.head = head
    this.regions = regions
  }

  /** Guest physical address of segment `i`. */
  segmentAddress(i: number): GuestAddress {
    return this.regions[this.segmentRegions[i]!]!.start + this.segmentOffsets[i]!
  }

  /** Zero-copy view of segment `i`; length 0 when its region was closed. */
  segmentBytes(i: number): Uint8Array {
    const offset = this.segmentOffsets[i]!
    return this.regions[this.segmentRegions[i]!]!.bytes.subarray(offset, offset + this.segmentLengths[i]!)
  }

  /**
   * Copies readable bytes from `offset` on into `into`.
   * @returns bytes copied: `min(into.length, readableLength - offset)`, 0 past the end
   */
  read(offset: number, into: Uint8Array): number {
    return this.#copy(offset, into, 0, this.readableCount, false)
  }

  /**
   * Copies `from` into the writable part from `offset` on.
   * @returns bytes copied: `min(from.length, writableLength - offset)`, 0 past the end
   */
  write(offset: number, from: Uint8Array): number {
    return this.#copy(offset, from, this.readableCount, this.segmentCount, true)
  }

  /** Zero-copy views of readable bytes `[offset, offset + length)`, cut at the end of the chain. */
  readableSlices(offset = 0, length: number = this.readableLength): Uint8Array[] {
    return this.#slices(offset, length, 0, this.readableCount)
  }

  /** Zero-copy views of writable bytes `[offset, offset + length)`, cut at the end of the chain. */
  writableSlices(offset = 0, length: number = this.writableLength): Uint8Array[] {
    return this.#slices(offset, length, this.readableCount, this.segmentCount)
  }

  /**
   * Appends `(region index, offset in region, length)` triples of readable bytes `[offset, offset + length)`
   * to `out`, for batched native I/O. @returns triples appended
   */
  readableTriples(offset: number, length: number, out: number[]): number {
    return this.#triples(offset, length, 0, this.readableCount, out)
  }

  /** As `readableTriples`, for the writable part. */
  writableTriples(offset: number, length: number, out: number[]): number {
    return this.#triples(offset, length, this.readableCount, this.segmentCount, out)
  }

  #copy(offset: number, other: Uint8Array, first: number, end: number, toGuest: boolean): number {
    let skip = offset
    let done = 0
    for (let i = first; i < end && done < other.length; i++) {
      const length = this.segmentLengths[i]!
      if (skip >= length) {
        skip -= length
        continue
      }
      const part = Math.min(length - skip, other.length - done)
      const at = this.segmentOffsets[i]! + skip
      const bytes = this.regions[this.segmentRegions[i]!]!.bytes
      if (bytes.length < at + part) return done
      if (toGuest) bytes.set(part === other.length ? other : other.subarray(done, done + part), at)
      else copyOut(bytes, at, other, done, part)
      done += part
      skip = 0
    }
    return done
  }

  #slices(offset: number, length: number, first: number, end: number): Uint8Array[] {
    const triples: number[] = []
    this.#triples(offset, length, first, end, triples)
    const slices: Uint8Array[] = []
    for (let i = 0; i < triples.length; i += 3) {
      const at = triples[i + 1]!
      slices.push(this.regions[triples[i]!]!.bytes.subarray(at, at + triples[i + 2]!))
    }
    return slices
  }

  #triples(offset: number, length: number, first: number, end: number, out: number[]): number {
    let skip = offset
    let left = length
    let count = 0
    for (let i = first; i < end && left > 0; i++) {
      const size = this.segmentLengths[i]!
      if (skip >= size) {
        skip -= size
        continue
      }
      const part = Math.min(size - skip, left)
      out.push(this.segmentRegions[i]!, this.segmentOffsets[i]! + skip, part)
      left -= part
      skip = 0
      count++
    }
    return count
  }
}

/** Below this many bytes a loop beats the view that `set` needs. */
const SMALL_COPY = 32

function copyOut(bytes: Uint8Array, at: number, into: Uint8Array, start: number, length: number): void {
  if (length > SMALL_COPY) {
    into.set(bytes.subarray(at, at + length), start)
    return
  }
  for (let i = 0; i < length; i++) into[start + i] = bytes[at + i]!
}

/** A chain as its queue sees it: the queue alone fills it in. */
export type MutableChain = { -readonly [K in keyof DescriptorChain]: DescriptorChain[K] }
