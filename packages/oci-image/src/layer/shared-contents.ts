import { BLOCK_SIZE } from "../erofs/defs.js"
import type { Extent, PartBlocks } from "../erofs/extents.js"
import { CONTENT_CHUNK } from "./contents.js"
import { type EqualChunk, isPlain } from "./equal-contents.js"
import type { TreeNode } from "./tree.js"

/** A proven chunk's place, and its number of blocks, which are few, as one number. */
const COUNT_LIMIT = 2 * CONTENT_CHUNK

/**
 * Which chunks of an image's files stand in the part of a lower layer, and are mapped there. Only chunks whose bytes were
 * compared get in: what a layer says of its content can then never change what a file of another layer contains.
 */
export class SharedContents {
  readonly #parts: PartBlocks
  readonly #lower = new Map<number, number>()
  /** Bytes of all of them: each counts once, however many files have it. */
  bytes = 0

  constructor(parts: PartBlocks) {
    this.#parts = parts
  }

  /** Takes a chunk in whose bytes are those of the lower one. */
  add({ block, count, lower }: EqualChunk): void {
    this.#lower.set(block, lower * COUNT_LIMIT + count)
    this.bytes += count * BLOCK_SIZE
  }

  /**
   * Where the content of a file stands, in the order of the file.
   *
   * @returns undefined when it stands in the part of its own layer
   */
  extentsOf(node: TreeNode): readonly Extent[] | undefined {
    if (this.#lower.size === 0 || !isPlain(node)) return undefined
    const own = this.#parts.startOf(node.part) + node.block
    const blocks = Math.ceil(node.size / BLOCK_SIZE)
    const pieces = new Pieces()
    let isShared = false
    for (let start = 0; start < blocks; start += CONTENT_CHUNK) {
      const count = Math.min(CONTENT_CHUNK, blocks - start)
      const lower = this.#lowerOf(own + start, count)
      isShared ||= lower !== undefined
      pieces.add({ start, count, block: lower ?? own + start })
    }
    return isShared ? pieces.extents : undefined
  }

  #lowerOf(block: number, count: number): number | undefined {
    const found = this.#lower.get(block)
    // A file may be longer than the content that stands where it begins.
    if (found === undefined || found % COUNT_LIMIT < count) return undefined
    return Math.floor(found / COUNT_LIMIT)
  }
}

/** Puts extents together that go on where the last one ended. */
class Pieces {
  readonly extents: Extent[] = []

  add(next: Extent): void {
    const last = this.extents.at(-1)
    if (last && last.block + last.count === next.block)
      this.extents[this.extents.length - 1] = { ...last, count: last.count + next.count }
    else this.extents.push(next)
  }
}
