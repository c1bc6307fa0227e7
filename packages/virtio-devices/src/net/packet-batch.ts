import type { IoBatch } from "@ts-vmm/native"
import type { DescriptorChain } from "../queue/chain.js"
import { PACKET_HEAD_SIZE } from "./defs.js"

/** What segments point into first: the heads, then what its owner gave, then guest memory. */
const HEADS = 0

/** Packets on their way out of guest memory: the copied head of each, and where the rest of it lies. */
export class PacketBatch {
  /** Rows of operations are its owner's, rows of segments come from here and from its owner. */
  readonly io: IoBatch
  /** What the segments point into. */
  readonly regions: ArrayBuffer[]
  /** Rows, and segments, in use. */
  rows = 0
  segments = 0
  readonly #guestAt: number
  readonly #heads: readonly Uint8Array[]
  /** Regions of the guest that are in `regions`. */
  #guest: DescriptorChain["regions"] | undefined

  /**
   * @param rows - packets at most
   * @param io - with room for their segments
   * @param own - regions from 1 on, for segments that its owner adds
   */
  constructor(rows: number, io: IoBatch, ...own: ArrayBuffer[]) {
    const bytes = new ArrayBuffer(rows * PACKET_HEAD_SIZE)
    this.io = io
    this.regions = [bytes, ...own]
    this.#guestAt = this.regions.length
    this.#heads = Array.from(
      { length: rows },
      (_, row) => new Uint8Array(bytes, row * PACKET_HEAD_SIZE, PACKET_HEAD_SIZE),
    )
  }

  /** Whether there is room for a packet out of `chain` beside what is there; alone there is for any of 1024 pieces or fewer. */
  fits(chain: DescriptorChain): boolean {
    if (this.rows === this.#heads.length) return false
    if (this.segments + 1 + chain.readableCount > this.io.segmentCapacity) return false
    return this.rows === 0 || chain.regions === this.#guest
  }

  /** Of the next row. */
  get head(): Uint8Array {
    return this.#heads[this.rows] as Uint8Array
  }

  /**
   * Adds a row's segments: bytes `from` to `length` of the next head, and all of `chain` behind as many bytes as the head
   * has of it. It has to fit.
   *
   * @returns how many there are, from `segments` on; `next` makes them the row's
   */
  fill(from: number, length: number, chain: DescriptorChain): number {
    if (chain.regions !== this.#guest) this.#useGuest(chain.regions)
    this.io.setSegment(this.segments, HEADS, this.rows * PACKET_HEAD_SIZE + from, length - from)
    return 1 + this.#fillRest(chain, length, this.segments + 1)
  }

  /** The row has so many segments. */
  next(segments: number): void {
    this.rows++
    this.segments += segments
  }

  clear(): void {
    this.rows = 0
    this.segments = 0
  }

  #useGuest(regions: DescriptorChain["regions"]): void {
    this.#guest = regions
    this.regions.length = this.#guestAt
    for (const { bytes } of regions) this.regions.push(bytes.buffer as ArrayBuffer)
  }

  /** Segments of what `chain` has behind its first `skip` bytes, from row `first` on. @returns how many */
  #fillRest(chain: DescriptorChain, skip: number, first: number): number {
    const { readableCount, segmentLengths, segmentOffsets, segmentRegions, regions } = chain
    let left = skip
    let count = 0
    for (let i = 0; i < readableCount; i++) {
      const length = segmentLengths[i] as number
      const passed = Math.min(left, length)
      left -= passed
      if (passed === length) continue
      const region = segmentRegions[i] as number
      const base = (regions[region] as (typeof regions)[number]).bytes.byteOffset
      const at = base + (segmentOffsets[i] as number) + passed
      this.io.setSegment(first + count++, this.#guestAt + region, at, length - passed)
    }
    return count
  }
}
