import { type EraseKind, ExtentList, ZERO_EXTENT } from "../backend.js"
import { BlockError } from "../errors.js"
import { type ClusterPiece, type ClusterReader, clusterPieces, type Qcow2Image } from "./cluster-reader.js"
import { ImageFile, type ImageWrite } from "./image-file.js"
import type { L2Table } from "./l2-table.js"
import type { Refcounts } from "./refcounts.js"

/** Tables changed in memory; when there are more, what changed is written without waiting for the guest to flush. */
const MAX_DIRTY_TABLES = 32

/**
 * Gives clusters of the disk room of their own in the image, and writes what changed of its metadata in an order that a
 * crash can stop anywhere. One call at a time.
 */
export class ClusterWriter {
  readonly #image: Qcow2Image
  readonly #reader: ClusterReader
  readonly #refcounts: Refcounts

  constructor(image: Qcow2Image, reader: ClusterReader, refcounts: Refcounts) {
    this.#image = image
    this.#reader = reader
    this.#refcounts = refcounts
  }

  /** Every cluster of the range may be written as it is. */
  isReady(offset: number, length: number): boolean {
    const { header, map } = this.#image
    for (const { cluster } of clusterPieces(offset, length, header.clusterSize)) {
      const table = map.cached(cluster)
      if (table === undefined || table === "unread" || !table.isOwn(cluster % map.perTable)) return false
    }
    return true
  }

  /** Allocates what the range needs. */
  async makeReady(offset: number, length: number): Promise<void> {
    const { header, map } = this.#image
    for (const { cluster } of clusterPieces(offset, length, header.clusterSize)) {
      const table = await this.#tableFor(cluster)
      if (!table.isOwn(cluster % map.perTable)) await this.#replace(cluster, table)
    }
    if (map.dirtyTables > MAX_DIRTY_TABLES) await this.flush()
  }

  /** Makes a range read as zeroes: whole clusters give back their room, parts of others are written unless discarded. */
  async erase(offset: number, length: number, kind: EraseKind): Promise<void> {
    const { header, map } = this.#image
    for (const piece of clusterPieces(offset, length, header.clusterSize)) {
      const left = header.size - piece.cluster * header.clusterSize
      const isWhole = piece.length === Math.min(header.clusterSize, left)
      if (isWhole && !this.#mustWriteZeroes(piece)) await this.#clear(piece)
      else if (kind === "write-zeroes") await this.#writeZeroes(piece)
      if (map.dirtyTables > MAX_DIRTY_TABLES) await this.flush()
    }
  }

  /** Version 2 has no word for zeroes over a backing file. */
  #mustWriteZeroes({ offset }: ClusterPiece): boolean {
    const { header, backing } = this.#image
    return header.version === 2 && offset < (backing?.size ?? 0)
  }

  async #clear({ cluster, offset }: ClusterPiece): Promise<void> {
    const { map, backing } = this.#image
    const hides = offset < (backing?.size ?? 0)
    if (!hides && !(await map.table(cluster))) return
    const table = await this.#tableFor(cluster)
    const index = cluster % map.perTable
    const old = this.#placeOf(table, index)
    if (!old && (table.kind(index) === "zero" || !hides)) return
    if (old) this.#refcounts.releaseLater(old.offset, old.length)
    table.clear(index, hides)
  }

  async #writeZeroes({ cluster, offset, length }: ClusterPiece): Promise<void> {
    const { file, header, map } = this.#image
    if (!(await this.#hasContent(cluster, offset))) return
    await this.makeReady(offset, length)
    const table = await this.#tableFor(cluster)
    const at = table.hostOffset(cluster % map.perTable) + (offset % header.clusterSize)
    await file.write({ offset: at, bytes: Buffer.alloc(length) })
  }

  async #hasContent(cluster: number, offset: number): Promise<boolean> {
    const { map, backing } = this.#image
    const kind = (await map.table(cluster))?.kind(cluster % map.perTable) ?? "none"
    return kind === "none" ? offset < (backing?.size ?? 0) : kind !== "zero"
  }

  /** Makes data durable, then what refers to it. */
  async flush(): Promise<void> {
    const { file } = this.#image
    for (const stage of this.#stages()) {
      for (const write of stage) await file.write(write)
      await file.sync()
    }
    this.#settled()
    await this.#refcounts.releaseNow()
  }

  /** As {@link ClusterWriter.flush}, for an end that cannot be waited for. */
  flushNow(): void {
    const { file } = this.#image
    for (const stage of this.#stages()) {
      for (const write of stage) file.writeNow(write)
      file.syncNow()
    }
    this.#settled()
  }

  /**
   * What is in one stage is durable before the next begins. The first are the data, which lie in the file already:
   * nothing may refer to a cluster before its content is there, nor to one that is not counted.
   */
  #stages(): ImageWrite[][] {
    const { map } = this.#image
    const before = [...this.#refcounts.writes(), ...map.newTables()]
    const links = [...map.links(), ...this.#refcounts.headerWrites()]
    return [[], before, links].filter((stage, index) => index === 0 || stage.length > 0)
  }

  #settled(): void {
    this.#image.map.settled()
    this.#refcounts.settled()
  }

  async #tableFor(cluster: number): Promise<L2Table> {
    const { file, map } = this.#image
    const table = await map.table(cluster)
    if (!table) return map.addTable(cluster, await this.#allocate())
    // Without snapshots nothing but L1 refers to a table.
    if (!map.isOwnTable(cluster))
      throw new BlockError("format", `${file.name}: an L2 table is shared, and there is no snapshot`)
    return table
  }

  /** A cluster of its own with the content that the disk has there. */
  async #replace(cluster: number, table: L2Table): Promise<void> {
    const index = cluster % this.#image.map.perTable
    const old = this.#placeOf(table, index)
    const hostOffset = await this.#allocate()
    await this.#copy(cluster, hostOffset)
    if (old) this.#refcounts.releaseLater(old.offset, old.length)
    table.setOwn(index, hostOffset)
  }

  /** What a cluster has of the image's file so far. @throws BlockError `format` when that is not in it */
  #placeOf(table: L2Table, index: number): { readonly offset: number; readonly length: number } | undefined {
    const { file, header } = this.#image
    if (table.kind(index) === "compressed") return table.compressed(index, header.clusterBits)
    const offset = table.hostOffset(index)
    if (offset === 0) return undefined
    if (offset + header.clusterSize > this.#refcounts.fileSize)
      throw new BlockError("format", `${file.name}: a cluster lies behind the end of the file`)
    return { offset, length: header.clusterSize }
  }

  /** A new cluster reads as zeroes. */
  async #allocate(): Promise<number> {
    const offset = await this.#refcounts.allocate()
    await this.#image.file.extend(this.#refcounts.fileSize)
    return offset
  }

  /**
   * Also where all of it is about to be written: were the machine to stop before that is durable, the cluster would have
   * neither the old content nor the new.
   */
  async #copy(cluster: number, hostOffset: number): Promise<void> {
    const { file, header } = this.#image
    const start = cluster * header.clusterSize
    const length = Math.min(header.clusterSize, header.size - start)
    await this.#reader.makeReady(start, length)
    const extents = new ExtentList()
    this.#reader.locate(start, length, extents)
    for (let row = 0, at = hostOffset; row < extents.count; row++) {
      const size = extents.lengths[row]!
      if (extents.fds[row] !== ZERO_EXTENT) {
        const source = new ImageFile(extents.fds[row]!, file.name)
        await file.write({ offset: at, bytes: await source.read(extents.offsets[row]!, size) })
      }
      at += size
    }
  }
}
