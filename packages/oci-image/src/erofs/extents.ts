import type { TreeNode } from "../layer/tree.js"
import { BLOCK_SIZE } from "./defs.js"

/** A run of a file's content. All in blocks of 4 KiB. */
export interface Extent {
  /** First block in the file. */
  readonly start: number
  readonly count: number
  /** Where it stands among the blocks of all data parts, one part after the other. */
  readonly block: number
}

/** Where each data part begins among the blocks of all of them. */
export class PartBlocks {
  readonly #starts: readonly number[]
  /** Blocks of all parts. */
  readonly total: number

  /** @param sizes - bytes of the parts, each a multiple of 4096 */
  constructor(sizes: readonly number[]) {
    let total = 0
    this.#starts = sizes.map(size => {
      const start = total
      total += size / BLOCK_SIZE
      return start
    })
    this.total = total
  }

  /** First block of a part. */
  startOf(part: number): number {
    return this.#starts[part] as number
  }

  /** The part that a block is in. */
  partAt(block: number): number {
    let part = this.#starts.length - 1
    while (part > 0 && this.startOf(part) > block) part--
    return part
  }

  /** Where the content of a file stands in the part of its own layer, in the order of the file; holes are left out. */
  extentsOf({ size, runs, part, block }: TreeNode): Extent[] {
    const count = Math.ceil(size / BLOCK_SIZE)
    if (count === 0) return []
    let at = this.startOf(part) + block
    if (!runs) return [{ start: 0, count, block: at }]
    const extents: Extent[] = []
    for (let i = 0; i < runs.length; i += 2) {
      const run = runs[i + 1] as number
      extents.push({ start: runs[i] as number, count: run, block: at })
      at += run
    }
    return extents
  }
}
