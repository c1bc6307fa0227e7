import { ImageError } from "../errors.js"
import { checkLimit, type ImageLimits } from "../limits.js"
import type { PaxRecords } from "./pax.js"
import { badSparse, checkSparse, OldSparseMap, type SparseMap } from "./sparse-map.js"
import type { TarEntry } from "./tar-entry.js"
import { isGnuHeader, type RawHeader, TYPEFLAG } from "./tar-header.js"

/** Makes sparse entries of a stream, and bounds what all of them cost together. */
export class SparseEntries {
  readonly #limits: ImageLimits
  readonly #isWanted: boolean
  #regions = 0
  #holes = 0

  /** @param isWanted - whether they are handed out; otherwise they are refused */
  constructor(limits: ImageLimits, isWanted: boolean) {
    this.#limits = limits
    this.#isWanted = isWanted
  }

  /**
   * The map that an entry's headers begin.
   *
   * @param block - the whole header block
   * @param at - its offset in the stream, for messages
   * @returns undefined for what is not sparse
   * @throws ImageError `tar-sparse`, `limit`
   */
  mapOf(raw: RawHeader, block: Buffer, pax: PaxRecords | undefined, at: number): SparseMap | undefined {
    const isOld = raw.typeflag === TYPEFLAG.gnuSparse
    if (!pax?.sparse && !isOld) return undefined
    if (!this.#isWanted) throw new ImageError("tar-sparse", `sparse file at offset ${at}`, { at })
    if (pax?.sparse && isOld) throw badSparse("is described in two formats")
    const max = this.#limits.sparseRegions - this.#regions
    if (pax?.sparse) return pax.sparse.map(max)
    // In any other header the map stands where a part of the name does.
    if (!isGnuHeader(block)) throw badSparse("is in a header of another format")
    return new OldSparseMap(block, at, max)
  }

  /**
   * Puts an entry and its complete map together.
   *
   * @param stored - bytes of content that follow
   * @throws ImageError `tar-sparse`, `limit`
   */
  finish(entry: TarEntry, map: SparseMap, stored: number): TarEntry {
    const { regions, realSize, name } = map
    checkSparse(map, stored, this.#limits)
    this.#regions += regions.count
    this.#holes += realSize - regions.stored
    checkLimit("holeBytes", this.#holes, this.#limits.holeBytes, "holes in sparse files")
    return { ...entry, path: name ?? entry.path, size: realSize, sparse: regions.list }
  }
}
