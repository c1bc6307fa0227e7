import { BlockError } from "../errors.js"
import * as defs from "./defs.js"
import type { Qcow2Header } from "./header.js"
import type { ImageFile, ImageWrite } from "./image-file.js"

const CACHED_BLOCKS = 16

/** Counts of as many clusters as fit one. */
interface RefcountBlock {
  readonly offset: number
  readonly bytes: Buffer
  isDirty: boolean
}

/**
 * How often each cluster of the file is referred to, and which is the next free one. New clusters are taken at the
 * file's end only: they are zeroes, and what a crash leaves behind there is room that is lost, never content that is
 * wrong.
 */
export class Refcounts {
  readonly #file: ImageFile
  readonly #header: Qcow2Header
  readonly #blocks = new Map<number, RefcountBlock>()
  readonly #dirtyTable = new Set<number>()
  #table: Buffer
  #tableOffset: number
  #isMoved = false
  readonly #released: { readonly offset: number; readonly length: number }[] = []
  /** The first cluster of the file that nobody has. */
  #next: number

  private constructor(file: ImageFile, header: Qcow2Header, table: Buffer, fileSize: number) {
    this.#file = file
    this.#header = header
    this.#table = table
    this.#tableOffset = header.refcountTableOffset
    this.#next = Math.ceil(fileSize / header.clusterSize)
  }

  /** Reads the table, and makes one that is large enough for all the disk where it is not. */
  static async read(file: ImageFile, header: Qcow2Header, fileSize: number): Promise<Refcounts> {
    const { refcountTableOffset, refcountTableClusters, clusterSize } = header
    const table = await file.read(refcountTableOffset, refcountTableClusters * clusterSize)
    const counts = new Refcounts(file, header, table, fileSize)
    await counts.#makeRoom()
    return counts
  }

  /** Bytes that the file has to have for all that was allocated. */
  get fileSize(): number {
    return this.#next * this.#header.clusterSize
  }

  /** Takes a cluster. @returns where it lies in the file, bytes */
  async allocate(): Promise<number> {
    const cluster = this.#next++
    await this.#add(cluster, 1)
    return cluster * this.#header.clusterSize
  }

  /** Gives back one reference to each cluster that a range of the file touches, once nothing on disk refers to it. */
  releaseLater(offset: number, length: number): void {
    this.#released.push({ offset, length })
  }

  /** Nothing on disk refers to what was released. A crash before this is room that is lost. */
  async releaseNow(): Promise<void> {
    const { clusterSize } = this.#header
    for (const { offset, length } of this.#released.splice(0)) {
      const last = Math.floor((offset + length - 1) / clusterSize)
      for (let cluster = Math.floor(offset / clusterSize); cluster <= last; cluster++)
        if ((await this.#add(cluster, -1)) === 0) this.#file.punch(cluster * clusterSize, clusterSize)
    }
  }

  /** All that is not in the file yet. */
  writes(): ImageWrite[] {
    const blocks = [...this.#blocks.values()].filter(({ isDirty }) => isDirty)
    if (this.#isMoved) return [...blocks, { offset: this.#tableOffset, bytes: this.#table }]
    const sectors = [...this.#dirtyTable].map(sector => ({
      offset: this.#tableOffset + sector * 512,
      bytes: this.#table.subarray(sector * 512, (sector + 1) * 512),
    }))
    return [...blocks, ...sectors]
  }

  /** What makes a table that was made anew the image's. */
  headerWrites(): ImageWrite[] {
    if (!this.#isMoved) return []
    const bytes = Buffer.alloc(12)
    bytes.writeBigUInt64BE(BigInt(this.#tableOffset))
    bytes.writeUInt32BE(this.#table.length / this.#header.clusterSize, 8)
    return [{ offset: defs.HEADER.refcountTableOffset, bytes }]
  }

  settled(): void {
    for (const block of this.#blocks.values()) block.isDirty = false
    this.#dirtyTable.clear()
    this.#isMoved = false
  }

  /** Clusters that a block has counts of. */
  get #perBlock(): number {
    return (this.#header.clusterSize * 8) / this.#header.refcountBits
  }

  async #makeRoom(): Promise<void> {
    const { size, clusterSize } = this.#header
    const disk = Math.ceil(size / clusterSize)
    const tables = Math.ceil((disk * defs.ENTRY_SIZE) / clusterSize)
    const clusters = this.#next + disk + tables
    // Blocks count themselves, and a new table: an eighth more than they need is more than both.
    const blocks = Math.ceil((clusters * 1.125) / this.#perBlock) + 1
    const bytes = Math.ceil((blocks * defs.ENTRY_SIZE) / clusterSize) * clusterSize
    if (bytes <= this.#table.length) return
    if (bytes > defs.MAX_REFCOUNT_TABLE_BYTES)
      throw new BlockError(
        "unsupported",
        `${this.#file.name}: clusters of ${clusterSize} bytes are too small for it`,
      )
    const first = this.#next
    this.#next += bytes / clusterSize
    this.#table = Buffer.concat([this.#table], bytes)
    const old = this.#tableOffset
    this.#tableOffset = first * clusterSize
    this.#isMoved = true
    for (let cluster = first; cluster < first + bytes / clusterSize; cluster++) await this.#add(cluster, 1)
    this.releaseLater(old, this.#header.refcountTableClusters * clusterSize)
  }

  /** @returns how often it is referred to now */
  async #add(cluster: number, change: 1 | -1): Promise<number> {
    const block = await this.#block(Math.floor(cluster / this.#perBlock))
    const index = cluster % this.#perBlock
    const count = this.#get(block, index) + change
    if (count < 0 || count >= 2 ** this.#header.refcountBits)
      throw new BlockError("format", `${this.#file.name}: cluster ${cluster} is referred to ${count} times`)
    this.#set(block, index, count)
    block.isDirty = true
    return count
  }

  async #block(index: number): Promise<RefcountBlock> {
    const known = this.#blocks.get(index)
    if (known) return known
    const at = index * defs.ENTRY_SIZE
    if (at >= this.#table.length)
      throw new BlockError("format", `${this.#file.name}: a cluster that no refcount block is for`)
    const offset = Number(this.#table.readBigUInt64BE(at))
    if (offset === 0) return this.#addBlock(index)
    if (offset % this.#header.clusterSize !== 0)
      throw new BlockError("format", `${this.#file.name}: refcount block ${index} lies at ${offset}`)
    return this.#keep(index, {
      offset,
      bytes: await this.#file.read(offset, this.#header.clusterSize),
      isDirty: false,
    })
  }

  async #addBlock(index: number): Promise<RefcountBlock> {
    const cluster = this.#next++
    const { clusterSize } = this.#header
    const block = this.#keep(index, {
      offset: cluster * clusterSize,
      bytes: Buffer.alloc(clusterSize),
      isDirty: true,
    })
    const at = index * defs.ENTRY_SIZE
    this.#table.writeBigUInt64BE(BigInt(block.offset), at)
    this.#dirtyTable.add(Math.floor(at / 512))
    await this.#add(cluster, 1)
    return block
  }

  #keep(index: number, block: RefcountBlock): RefcountBlock {
    if (this.#blocks.size >= CACHED_BLOCKS)
      for (const [other, { isDirty }] of this.#blocks) if (!isDirty) this.#blocks.delete(other)
    this.#blocks.set(index, block)
    return block
  }

  #get({ bytes }: RefcountBlock, index: number): number {
    const bits = this.#header.refcountBits
    if (bits < 8) return (bytes[Math.floor((index * bits) / 8)]! >> ((index * bits) % 8)) & (2 ** bits - 1)
    if (bits === 64) return Number(bytes.readBigUInt64BE(index * 8))
    return bytes.readUIntBE((index * bits) / 8, bits / 8)
  }

  #set({ bytes }: RefcountBlock, index: number, count: number): void {
    const bits = this.#header.refcountBits
    if (bits < 8) {
      const [at, shift] = [Math.floor((index * bits) / 8), (index * bits) % 8]
      bytes[at] = (bytes[at]! & ~((2 ** bits - 1) << shift)) | (count << shift)
    } else if (bits === 64) {
      bytes.writeBigUInt64BE(BigInt(count), index * 8)
    } else {
      bytes.writeUIntBE(count, (index * bits) / 8, bits / 8)
    }
  }
}
