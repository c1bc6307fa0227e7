import { ENTRY_SIZE } from "./defs.js"

/** Where the content of a cluster of the disk is. */
export type ClusterKind =
  /** In the backing file, or zeroes without one. */
  "none" | "zero" | "data" | "compressed"

const COPIED = 0x80000000
const COMPRESSED = 0x40000000
const OFFSET_HIGH = 0x00ffffff
const OFFSET_LOW = 0xfffffe00
const ZERO = 1

/** One table of the second level as it is in the file: an entry of 64 bits, big-endian, for each cluster of the disk. */
export class L2Table {
  /** Where it lies in the file, bytes. */
  readonly offset: number
  readonly bytes: Buffer
  /** It differs from the file. */
  isDirty: boolean
  /** No L1 table on disk refers to it yet. */
  isNew: boolean

  constructor(offset: number, bytes: Buffer, isNew = false) {
    this.offset = offset
    this.bytes = bytes
    this.isNew = isNew
    this.isDirty = isNew
  }

  kind(index: number): ClusterKind {
    const high = this.#high(index)
    if (high & COMPRESSED) return "compressed"
    if (this.#low(index) & ZERO) return "zero"
    return this.hostOffset(index) === 0 ? "none" : "data"
  }

  /** Of a cluster with data: bytes from the file's start. */
  hostOffset(index: number): number {
    return (this.#high(index) & OFFSET_HIGH) * 2 ** 32 + ((this.#low(index) & OFFSET_LOW) >>> 0)
  }

  /** It has data that nobody else refers to, so that it may be written. */
  isOwn(index: number): boolean {
    return (this.#high(index) & COPIED) !== 0 && this.kind(index) === "data"
  }

  /** @returns where a compressed cluster begins in the file, and in how many bytes it ends at most */
  compressed(index: number, clusterBits: number): { readonly offset: number; readonly length: number } {
    const entry = this.bytes.readBigUInt64BE(index * ENTRY_SIZE) & (2n ** 62n - 1n)
    const bits = BigInt(62 - (clusterBits - 8))
    const offset = Number(entry & (2n ** bits - 1n))
    const sectors = Number(entry >> bits) + 1
    return { offset, length: sectors * 512 - (offset % 512) }
  }

  /** From now on the cluster has its data at `hostOffset`, which nobody else refers to. */
  setOwn(index: number, hostOffset: number): void {
    const at = index * ENTRY_SIZE
    this.bytes.writeUInt32BE((COPIED | Math.floor(hostOffset / 2 ** 32)) >>> 0, at)
    this.bytes.writeUInt32BE(hostOffset % 2 ** 32, at + 4)
    this.isDirty = true
  }

  /**
   * From now on the cluster has no data here.
   *
   * @param hides - it reads as zeroes whatever the backing file has there (version 3 only)
   */
  clear(index: number, hides: boolean): void {
    this.bytes.writeBigUInt64BE(hides ? BigInt(ZERO) : 0n, index * ENTRY_SIZE)
    this.isDirty = true
  }

  #high(index: number): number {
    return this.bytes.readUInt32BE(index * ENTRY_SIZE)
  }

  #low(index: number): number {
    return this.bytes.readUInt32BE(index * ENTRY_SIZE + 4)
  }
}
