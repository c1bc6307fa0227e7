import { crc32c } from "../erofs/crc32c.js"
import type { BlockRange } from "./block-allocator.js"
import { BLOCK_SIZE, EXT_INIT_MAX_LEN, EXT4_EXT_MAGIC, EXTENT_SIZE, I_BLOCK_SIZE } from "./defs.js"

/** Blocks of a file that stand side by side on the disk. */
export interface Extent {
  /** First block in the file. */
  readonly logical: number
  readonly count: number
  /** First block on the disk. */
  readonly start: number
}

/** A node of the tree that is not in the inode. */
export interface ExtentBlock {
  readonly block: number
  readonly bytes: Buffer
}

/** Entries beside the header in `i_block`, and in a block, which ends with its checksum. */
const ROOT_ENTRIES = I_BLOCK_SIZE / EXTENT_SIZE - 1
const BLOCK_ENTRIES = Math.floor((BLOCK_SIZE - 4) / EXTENT_SIZE) - 1
const CHECKSUM_OFFSET = (BLOCK_ENTRIES + 1) * EXTENT_SIZE

/** Appends the extents of blocks from `logical` on. */
export function addExtents(extents: Extent[], logical: number, ranges: readonly BlockRange[]): void {
  let at = logical
  for (const { start, count } of ranges)
    for (let done = 0; done < count; done += EXT_INIT_MAX_LEN) {
      const length = Math.min(EXT_INIT_MAX_LEN, count - done)
      extents.push({ logical: at, count: length, start: start + done })
      at += length
    }
}

/** Blocks of a tree over so many extents, at most. */
export function extentBlocks(extents: number): number {
  let [blocks, entries] = [0, extents]
  while (entries > ROOT_ENTRIES) {
    entries = Math.ceil(entries / BLOCK_ENTRIES)
    blocks += entries
  }
  return blocks
}

/**
 * Makes a file's tree of extents.
 *
 * @param extents - ascending @param seed - the inode's, for checksums @param take - gives a block for a node
 * @returns `i_block`, and the nodes that it leads to
 */
export function extentTree(
  extents: readonly Extent[],
  seed: number,
  take: () => number,
): { root: Buffer; blocks: ExtentBlock[] } {
  const blocks: ExtentBlock[] = []
  let entries = extents.map(({ logical, count, start }) => ({
    logical,
    bytes: leafEntry(logical, count, start),
  }))
  let depth = 0
  for (; entries.length > ROOT_ENTRIES; depth++) {
    const above: typeof entries = []
    for (let i = 0; i < entries.length; i += BLOCK_ENTRIES) {
      const part = entries.slice(i, i + BLOCK_ENTRIES)
      const block = take()
      const logical = part[0]?.logical ?? 0
      blocks.push({ block, bytes: blockNode(part, depth, seed) })
      above.push({ logical, bytes: indexEntry(logical, block) })
    }
    entries = above
  }
  return { root: node(entries, depth, ROOT_ENTRIES, I_BLOCK_SIZE), blocks }
}

/** struct ext4_extent. */
function leafEntry(logical: number, count: number, start: number): Buffer {
  const entry = Buffer.alloc(EXTENT_SIZE)
  entry.writeUInt32LE(logical, 0)
  entry.writeUInt16LE(count, 4)
  entry.writeUInt32LE(start, 8)
  return entry
}

/** struct ext4_extent_idx. */
function indexEntry(logical: number, block: number): Buffer {
  const entry = Buffer.alloc(EXTENT_SIZE)
  entry.writeUInt32LE(logical, 0)
  entry.writeUInt32LE(block, 4)
  return entry
}

function blockNode(entries: readonly { bytes: Buffer }[], depth: number, seed: number): Buffer {
  const bytes = node(entries, depth, BLOCK_ENTRIES, BLOCK_SIZE)
  bytes.writeUInt32LE(crc32c(seed, bytes.subarray(0, CHECKSUM_OFFSET)), CHECKSUM_OFFSET)
  return bytes
}

/** struct ext4_extent_header and its entries. */
function node(entries: readonly { bytes: Buffer }[], depth: number, max: number, size: number): Buffer {
  const bytes = Buffer.alloc(size)
  bytes.writeUInt16LE(EXT4_EXT_MAGIC, 0)
  bytes.writeUInt16LE(entries.length, 2)
  bytes.writeUInt16LE(max, 4)
  bytes.writeUInt16LE(depth, 6)
  entries.forEach((entry, i) => {
    entry.bytes.copy(bytes, (i + 1) * EXTENT_SIZE)
  })
  return bytes
}
