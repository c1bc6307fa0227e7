import { ImageError } from "../errors.js"
import { BLOCK_SIZE, BLOCKS_PER_GROUP } from "./defs.js"
import type { Geometry } from "./geometry.js"

/** Blocks side by side. */
export interface BlockRange {
  readonly start: number
  readonly count: number
}

/**
 * Gives out blocks from the first to the last, so that what is written together stands together. Copies of the superblock
 * are passed over.
 */
export class BlockAllocator {
  readonly #blocks: number
  readonly #copies: readonly BlockRange[]
  readonly #taken: { start: number; count: number }[] = []
  #next: number
  #passed = 0

  /** The superblock and the descriptors are taken from the beginning. */
  constructor({ blocks, descriptorBlocks, backupGroups }: Geometry) {
    const count = 1 + descriptorBlocks
    this.#blocks = blocks
    this.#copies = backupGroups.map(group => ({ start: group * BLOCKS_PER_GROUP, count }))
    this.#next = 0
    this.take(count)
  }

  /** Ranges that were taken, ascending and apart; copies of the superblock are not among them. */
  get taken(): readonly BlockRange[] {
    return this.#taken
  }

  /** Copies of the superblock and the descriptors. */
  get copies(): readonly BlockRange[] {
    return this.#copies
  }

  /** @throws ImageError `limit` when the disk is full */
  take(count: number): BlockRange[] {
    const ranges: BlockRange[] = []
    for (let left = count; left > 0; ) {
      const range = { start: this.#next, count: Math.min(left, this.#room()) }
      if (range.count > 0) ranges.push(this.#note(range))
      else this.#pass()
      left -= range.count
    }
    return ranges
  }

  /** Takes blocks that stand in one piece. @returns the first one @throws ImageError `limit` when the disk is full */
  takeTogether(count: number): number {
    while (this.#room() < count) this.#pass()
    return this.#note({ start: this.#next, count }).start
  }

  /** Free blocks before the next copy, or the end. */
  #room(): number {
    return (this.#copies[this.#passed]?.start ?? this.#blocks) - this.#next
  }

  #pass(): void {
    const copy = this.#copies[this.#passed++]
    if (!copy)
      throw new ImageError(
        "limit",
        `the image does not fit on a disk of ${this.#blocks * BLOCK_SIZE} bytes: give it a greater size`,
        { size: this.#blocks * BLOCK_SIZE },
      )
    this.#next = copy.start + copy.count
  }

  #note(range: BlockRange): BlockRange {
    const last = this.#taken.at(-1)
    if (last && last.start + last.count === range.start) last.count += range.count
    else this.#taken.push({ ...range })
    this.#next = range.start + range.count
    return range
  }
}
