import { readSync } from "node:fs"
import { BlockError } from "../errors.js"
import { ENTRY_SIZE } from "./defs.js"
import type { Qcow2Header } from "./header.js"
import type { ImageFile, ImageWrite } from "./image-file.js"
import { L2Table } from "./l2-table.js"

/** Tables in memory that could be read again: 64 of 64 KiB cover 32 GiB of disk. */
const CACHED_TABLES = 64
/** Of the L1 table, as much as is written at once. */
const L1_SECTOR = 512

/**
 * Which cluster of the disk lies where: an L1 table, kept, of L2 tables, of which the last used are kept. Entries are
 * the image's words; whoever follows one checks it.
 */
export class ClusterMap {
  readonly #file: ImageFile
  readonly #header: Qcow2Header
  readonly #l1: Buffer
  /** By index in L1; the last used is the last. */
  readonly #tables = new Map<number, L2Table>()
  readonly #dirtyL1 = new Set<number>()
  /** Clusters of the disk that an L2 table is for. */
  readonly perTable: number

  private constructor(file: ImageFile, header: Qcow2Header, l1: Buffer) {
    this.#file = file
    this.#header = header
    this.#l1 = l1
    this.perTable = header.clusterSize / ENTRY_SIZE
  }

  static async read(file: ImageFile, header: Qcow2Header): Promise<ClusterMap> {
    return new ClusterMap(file, header, await file.read(header.l1Offset, header.l1Entries * ENTRY_SIZE))
  }

  /** The table with a cluster's entry: undefined when there is none, "unread" when it is not in memory. */
  cached(cluster: number): L2Table | undefined | "unread" {
    const index = this.#indexOf(cluster)
    const table = this.#tables.get(index)
    if (table) return table
    return this.#offsetOf(index) === 0 ? undefined : "unread"
  }

  /** As {@link ClusterMap.cached}, read now if it has to be: for a moment in which nothing may be waited for. */
  now(cluster: number): L2Table | undefined {
    const found = this.cached(cluster)
    if (found !== "unread") return found
    const index = this.#indexOf(cluster)
    const bytes = Buffer.alloc(this.#header.clusterSize)
    const offset = this.#offsetOf(index)
    if (readSync(this.#file.fd, bytes, 0, bytes.length, offset) !== bytes.length) throw this.#damaged(index)
    return this.#keep(index, new L2Table(offset, bytes))
  }

  /**
   * The table with a cluster's entry.
   *
   * @throws BlockError `format` when it lies outside of the file
   */
  async table(cluster: number): Promise<L2Table | undefined> {
    const found = this.cached(cluster)
    if (found !== "unread") return found
    const index = this.#indexOf(cluster)
    const offset = this.#offsetOf(index)
    if (offset % this.#header.clusterSize !== 0) throw this.#damaged(index)
    return this.#keep(index, new L2Table(offset, await this.#file.read(offset, this.#header.clusterSize)))
  }

  /** Gives a cluster without one a table, which lies at `offset` and has no entries. */
  addTable(cluster: number, offset: number): L2Table {
    const index = this.#indexOf(cluster)
    this.#l1.writeBigUInt64BE((1n << 63n) | BigInt(offset), index * ENTRY_SIZE)
    this.#dirtyL1.add(Math.floor((index * ENTRY_SIZE) / L1_SECTOR))
    return this.#keep(index, new L2Table(offset, Buffer.alloc(this.#header.clusterSize), true))
  }

  /** The L1 entry says that nobody else refers to the table. */
  isOwnTable(cluster: number): boolean {
    return this.#l1.readUInt32BE(this.#indexOf(cluster) * ENTRY_SIZE) >>> 31 === 1
  }

  get dirtyTables(): number {
    return this.#dirty(() => true).length
  }

  /** What has to be durable before {@link ClusterMap.links} is written. */
  newTables(): ImageWrite[] {
    return this.#dirty(table => table.isNew)
  }

  /** What makes new clusters part of the disk. */
  links(): ImageWrite[] {
    const sectors = [...this.#dirtyL1].map(sector => ({
      offset: this.#header.l1Offset + sector * L1_SECTOR,
      bytes: this.#l1.subarray(sector * L1_SECTOR, (sector + 1) * L1_SECTOR),
    }))
    return [...this.#dirty(table => !table.isNew), ...sectors]
  }

  /** Both are written. */
  settled(): void {
    for (const table of this.#tables.values()) table.isDirty = table.isNew = false
    this.#dirtyL1.clear()
  }

  #dirty(which: (table: L2Table) => boolean): ImageWrite[] {
    return [...this.#tables.values()].filter(table => table.isDirty && which(table))
  }

  #keep(index: number, table: L2Table): L2Table {
    this.#tables.set(index, table)
    if (this.#tables.size > CACHED_TABLES)
      for (const [other, { isDirty }] of this.#tables)
        if (!isDirty && other !== index) {
          this.#tables.delete(other)
          break
        }
    return table
  }

  #indexOf(cluster: number): number {
    return Math.floor(cluster / this.perTable)
  }

  #offsetOf(index: number): number {
    const at = index * ENTRY_SIZE
    return (
      (this.#l1.readUInt32BE(at) & 0x00ffffff) * 2 ** 32 +
      ((this.#l1.readUInt32BE(at + 4) & 0xfffffe00) >>> 0)
    )
  }

  #damaged(index: number): BlockError {
    return new BlockError("format", `${this.#file.name}: L2 table ${index} lies outside of the file`)
  }
}
