import { BLOCK_SIZE } from "../erofs/defs.js"
import type { PartWriter } from "./part-writer.js"
import type { SparseRegion } from "./sparse-map.js"

/** Puts a sparse file's regions into a part: every block that has a byte of one, and no other. */
export class SparseWriter {
  readonly #part: PartWriter
  readonly #regions: readonly SparseRegion[]
  /** Index of the region that the next byte belongs to, and how much of it there was. */
  #region = 0
  #done = 0
  /** Where the last byte stands in the file, plus one; 0 before the first. */
  #position = 0
  readonly #runs: number[] = []

  constructor(part: PartWriter, regions: readonly SparseRegion[]) {
    this.#part = part
    this.#regions = regions
  }

  /** Takes the next bytes of the regions. */
  append(bytes: Buffer): void {
    for (let at = 0; at < bytes.length; ) {
      const { offset, size } = this.#regions[this.#region] as SparseRegion
      if (this.#done === 0) this.#seek(offset)
      const taken = Math.min(size - this.#done, bytes.length - at)
      this.#part.append(bytes.subarray(at, at + taken))
      at += taken
      this.#done += taken
      if (this.#done < size) continue
      this.#region++
      this.#done = 0
      this.#advance(offset + size)
    }
  }

  /**
   * First block and number of blocks of each run of content, pair after pair.
   *
   * @param size - bytes of the file
   * @returns undefined when there is no block without content
   */
  runs(size: number): readonly number[] | undefined {
    const blocks = Math.ceil(size / BLOCK_SIZE)
    return this.#runs[0] === 0 && this.#runs[1] === blocks ? undefined : this.#runs
  }

  /** Zeros up to `offset`, as far as they share a block with content. */
  #seek(offset: number): void {
    const block = Math.floor(offset / BLOCK_SIZE)
    if (block === this.#lastBlock()) {
      this.#part.zeros(offset - this.#position)
      return
    }
    this.#part.pad()
    this.#part.zeros(offset % BLOCK_SIZE)
    if (block !== this.#lastBlock() + 1 || this.#runs.length === 0) this.#runs.push(block, 0)
  }

  #advance(end: number): void {
    this.#position = end
    const first = this.#runs.at(-2) as number
    this.#runs[this.#runs.length - 1] = Math.ceil(end / BLOCK_SIZE) - first
  }

  #lastBlock(): number {
    return this.#position === 0 ? -1 : Math.floor((this.#position - 1) / BLOCK_SIZE)
  }
}
