import type { GuestAddress, GuestMemory, GuestRegion } from "@ts-vmm/vm-memory"
import { DescriptorChain, type MutableChain } from "./chain.js"
import {
  MAX_CHAIN_BYTES,
  MAX_CHAIN_SEGMENTS,
  VIRTQ_DESC_F_INDIRECT,
  VIRTQ_DESC_F_NEXT,
  VIRTQ_DESC_F_WRITE,
  VIRTQ_DESC_SIZE,
} from "./defs.js"
import { QueueError } from "./errors.js"

const TWO_32 = 2 ** 32

/** A table of descriptors as words: entry `i` starts at `words[base + 4 * i]`. */
export interface DescriptorTable {
  words: Uint32Array
  base: number
  entries: number
}

/**
 * Turns descriptors into checked segments of pooled chains: the one place where an address from the guest
 * becomes a place in a buffer.
 */
export class SegmentBuilder {
  readonly #regions: readonly GuestRegion[]
  readonly #starts: readonly number[]
  readonly #ends: readonly number[]
  readonly #words: readonly Uint32Array[]
  readonly #indirect: DescriptorTable = { words: new Uint32Array(0), base: 0, entries: 0 }
  readonly #scratch: MutableChain
  #hit = 0
  #hitStart = 0
  #hitEnd = 0

  constructor(memory: GuestMemory) {
    this.#regions = memory.regions
    this.#starts = memory.regions.map(r => r.start)
    this.#ends = memory.regions.map(r => r.start + r.size)
    this.#words = memory.regions.map(
      r => new Uint32Array(r.bytes.buffer, r.bytes.byteOffset, Math.floor(r.bytes.length / 4)),
    )
    this.#scratch = new DescriptorChain(0, this.#regions)
    this.#hitStart = this.#starts[0]!
    this.#hitEnd = this.#ends[0]!
  }

  /** A chain for `head`, once per head. */
  newChain(head: number): DescriptorChain {
    return new DescriptorChain(head, this.#regions)
  }

  /** The one spare chain, empty, for a walk that does not know its chain yet. */
  scratch(): MutableChain {
    clearChain(this.#scratch)
    return this.#scratch
  }

  /** Gives what the spare chain collected from `slots` slots to `chain`, by exchanging their arrays. */
  moveScratch(chain: MutableChain, slots: number): void {
    const from = this.#scratch
    const { segmentRegions, segmentOffsets, segmentLengths } = chain
    chain.uniformRegion = -1
    chain.segmentRegions = from.segmentRegions
    chain.segmentOffsets = from.segmentOffsets
    chain.segmentLengths = from.segmentLengths
    chain.segmentCount = from.segmentCount
    chain.readableCount = from.readableCount
    chain.readableLength = from.readableLength
    chain.writableLength = from.writableLength
    chain.slots = slots
    from.segmentRegions = segmentRegions
    from.segmentOffsets = segmentOffsets
    from.segmentLengths = segmentLengths
  }

  /**
   * Fills `chain` with the descriptors that start at `head` of `ring`: every word is copied once and the copy
   * is checked. Chains of ordinary buffers inside the last region hit are done in this loop with everything
   * in locals; whatever else there is, and every fault, goes through `#walkSlowly`, which starts over.
   *
   * @throws QueueError any guest fault of a chain
   */
  walk(chain: MutableChain, ring: Uint32Array, size: number, head: number, indirectAllowed: boolean): void {
    const offsets = chain.segmentOffsets
    const lengths = chain.segmentLengths
    const start = this.#hitStart
    const end = this.#hitEnd
    // Locals: in a bundle, what a module declares is a variable that every turn would load and check again.
    const two32 = 2 ** 32
    // As many segments as a chain may have, none longer than 2^22 bytes, stay within 2^32.
    const largeShift = 22
    const indirect = VIRTQ_DESC_F_INDIRECT
    const write = VIRTQ_DESC_F_WRITE
    const next = VIRTQ_DESC_F_NEXT
    if (chain.uniformRegion !== this.#hit) {
      chain.segmentRegions.fill(this.#hit)
      chain.uniformRegion = this.#hit
    }
    const room = offsets.length
    let at = 4 * head
    let count = 0
    let readableCount = 0
    let readable = 0
    let writable = 0
    // Bounded by the room for segments: each turn fills one.
    while (count < room) {
      const address = ring[at + 1]! * two32 + ring[at]!
      const length = ring[at + 2]! | 0
      const flags = ring[at + 3]! | 0
      // Empty, large, indirect. Below it is written so that NaN, which a detached view would give, leaves too.
      if (((length - 1) >>> largeShift) | (flags & indirect)) break
      if (!(address >= start && address + length <= end)) break
      offsets[count] = address - start
      lengths[count] = length
      count++
      if ((flags & write) !== 0) {
        writable += length
      } else {
        if (writable !== 0) break
        readable += length
        readableCount = count
      }
      if ((flags & next) === 0) {
        chain.segmentCount = count
        chain.readableCount = readableCount
        chain.readableLength = readable
        chain.writableLength = writable
        return
      }
      const index = flags >>> 16
      if (index >= size) break
      at = 4 * index
    }
    this.#walkSlowly(chain, ring, size, head, indirectAllowed)
  }

  /** Any chain at all, and every fault of one. */
  #walkSlowly(
    chain: MutableChain,
    ring: Uint32Array,
    size: number,
    head: number,
    indirectAllowed: boolean,
  ): void {
    let words = ring
    let base = 0
    let entries = size
    let left = Math.min(size, MAX_CHAIN_SEGMENTS)
    let nested = false
    clearChain(chain)
    for (let index = head; ; ) {
      if (left-- === 0) throw new QueueError("chain-too-long", head)
      const at = base + 4 * index
      const low = words[at]!
      const high = words[at + 1]!
      const length = words[at + 2]!
      const flags = words[at + 3]!
      if ((flags & VIRTQ_DESC_F_INDIRECT) !== 0) {
        checkIndirect(flags, indirectAllowed, nested, head)
        const table = this.indirectTable(low, high, length)
        words = table.words
        base = table.base
        entries = table.entries
        left = entries
        index = 0
        nested = true
        continue
      }
      this.add(chain, low, high, length, (flags & VIRTQ_DESC_F_WRITE) !== 0)
      if ((flags & VIRTQ_DESC_F_NEXT) === 0) return
      index = flags >>> 16
      if (index >= entries) throw new QueueError("descriptor-index", index, entries)
    }
  }

  /**
   * Adds one buffer to `chain`.
   * @throws QueueError `readable-after-writable`, `chain-too-large`, `chain-too-long`, `descriptor-address`
   */
  add(chain: MutableChain, low: number, high: number, length: number, writable: boolean): void {
    if (length === 0) return
    if (writable) {
      chain.writableLength += length
    } else {
      if (chain.writableLength !== 0) throw new QueueError("readable-after-writable", low)
      chain.readableLength += length
    }
    const total = chain.readableLength + chain.writableLength
    if (total > MAX_CHAIN_BYTES) throw tooLarge(total)
    const address = high * TWO_32 + low
    if (address >= this.#hitStart && address + length <= this.#hitEnd) this.#addPart(chain, address, length)
    else this.#addSplit(chain, address, length)
    if (!writable) chain.readableCount = chain.segmentCount
  }

  /**
   * The indirect table at an address, to be read with the same word loop as the ring's own. One that does
   * not lie in one region on a 4-byte boundary is copied; the object is used again by the next call. A table
   * longer than a chain may be is refused wherever it lies.
   * @throws QueueError `indirect-length`, `descriptor-address`
   */
  indirectTable(low: number, high: number, length: number): DescriptorTable {
    const entries = length / VIRTQ_DESC_SIZE
    if (length === 0 || length % VIRTQ_DESC_SIZE !== 0 || entries > MAX_CHAIN_SEGMENTS)
      throw new QueueError("indirect-length", length)
    const address = high * TWO_32 + low
    if (!(address >= this.#hitStart && address < this.#hitEnd)) this.#lookUp(address, length)
    const table = this.#indirect
    table.entries = entries
    const offset = address - this.#hitStart
    if (address + length <= this.#hitEnd && offset % 4 === 0) {
      table.words = this.#words[this.#hit]!
      table.base = offset / 4
    } else {
      table.words = this.#copyTable(address, entries)
      table.base = 0
    }
    return table
  }

  /** Index of the region that holds `address`, which becomes the one tried first. */
  #lookUp(address: GuestAddress, length: number): number {
    let low = 0
    let high = this.#ends.length
    while (low < high) {
      const middle = (low + high) >>> 1
      if (address < this.#ends[middle]!) high = middle
      else low = middle + 1
    }
    if (low === this.#ends.length || !(address >= this.#starts[low]!))
      throw new QueueError("descriptor-address", address, length)
    this.#hit = low
    this.#hitStart = this.#starts[low]!
    this.#hitEnd = this.#ends[low]!
    return low
  }

  /** A buffer outside the last region hit: one segment for each region it crosses. */
  #addSplit(chain: MutableChain, address: GuestAddress, length: number): void {
    for (let at = address, left = length; left > 0; ) {
      this.#lookUp(at, left)
      const part = Math.min(left, this.#hitEnd - at)
      this.#addPart(chain, at, part)
      at += part
      left -= part
    }
  }

  /** Part of a buffer that lies in the region last hit. */
  #addPart(chain: MutableChain, address: GuestAddress, length: number): void {
    const n = chain.segmentCount
    if (n === chain.segmentOffsets.length) grow(chain)
    chain.segmentRegions[n] = this.#hit
    chain.uniformRegion = -1
    chain.segmentOffsets[n] = address - this.#hitStart
    chain.segmentLengths[n] = length
    chain.segmentCount = n + 1
  }

  #copyTable(address: GuestAddress, entries: number): Uint32Array {
    const copy = new Uint8Array(entries * VIRTQ_DESC_SIZE)
    for (let done = 0; done < copy.length; ) {
      const region = this.#lookUp(address + done, copy.length - done)
      const offset = address + done - this.#hitStart
      const part = Math.min(copy.length - done, this.#hitEnd - this.#hitStart - offset)
      copy.set(this.#regions[region]!.bytes.subarray(offset, offset + part), done)
      done += part
    }
    return new Uint32Array(copy.buffer)
  }
}

function tooLarge(bytes: number): QueueError {
  return new QueueError("chain-too-large", bytes, MAX_CHAIN_BYTES)
}

function checkIndirect(flags: number, allowed: boolean, nested: boolean, head: number): void {
  if (!allowed) throw new QueueError("indirect-refused", head)
  if (nested) throw new QueueError("nested-indirect", head)
  if ((flags & VIRTQ_DESC_F_NEXT) !== 0) throw new QueueError("indirect-flags", head)
}

/** Rooms double from 8, so a full one of the largest size is exactly the limit. */
function grow(chain: MutableChain): void {
  const room = chain.segmentOffsets.length
  if (room >= MAX_CHAIN_SEGMENTS) throw new QueueError("chain-too-long", room, MAX_CHAIN_SEGMENTS)
  chain.uniformRegion = -1
  chain.segmentRegions = copyInto(new Uint32Array(room * 2), chain.segmentRegions)
  chain.segmentOffsets = copyInto(new Float64Array(room * 2), chain.segmentOffsets)
  chain.segmentLengths = copyInto(new Uint32Array(room * 2), chain.segmentLengths)
}

function copyInto<T extends Uint32Array | Float64Array>(into: T, from: T): T {
  into.set(from)
  return into
}

/** The chain is in the device's hands. */
export function markTaken(chain: MutableChain): void {
  chain.taken = true
}

/** Takes a chain away from whoever holds it, for good. */
export function revokeChain(chain: MutableChain): void {
  clearChain(chain)
  chain.revoked = true
}

/** Empties a chain for its next use. */
export function clearChain(chain: MutableChain): void {
  chain.readableLength = 0
  chain.writableLength = 0
  chain.segmentCount = 0
  chain.readableCount = 0
  chain.taken = false
}
