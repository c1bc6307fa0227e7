import { crc32c } from "../erofs/crc32c.js"
import type { BlockAllocator, BlockRange } from "./block-allocator.js"
import type { BlockWriter } from "./block-writer.js"
import type { ChecksumSeeds } from "./checksums.js"
import {
  BLOCK_SIZE,
  BLOCKS_PER_GROUP,
  DESCRIPTOR_SIZE,
  EXT4_BG_BLOCK_UNINIT,
  EXT4_BG_INODE_UNINIT,
  EXT4_BG_INODE_ZEROED,
  GROUP,
} from "./defs.js"
import type { Geometry } from "./geometry.js"

/** Where what describes the groups is, and what it has to say. */
export interface GroupsInput {
  readonly geometry: Geometry
  readonly seeds: ChecksumSeeds
  readonly allocator: BlockAllocator
  readonly tables: GroupTables
  /** The last inode in use; all below are. */
  readonly lastInode: number
  /** Directories of each group. */
  readonly directories: readonly number[]
}

/** First blocks, by group. */
export interface GroupTables {
  readonly blockBitmaps: readonly number[]
  readonly inodeBitmaps: readonly number[]
  readonly inodeTables: readonly number[]
}

/** What the superblock says of all groups. */
export interface GroupsSummary {
  /** Of all groups, in whole blocks. */
  readonly descriptors: Buffer
  readonly freeBlocks: number
  readonly freeInodes: number
}

/** Takes the blocks for bitmaps and tables: all at the beginning of the disk (`flex_bg`), so that free space is in one piece. */
export function takeTables(allocator: BlockAllocator, { groups, tableBlocks }: Geometry): GroupTables {
  const each = <T>(make: () => T): T[] => Array.from({ length: groups }, make)
  return {
    blockBitmaps: each(() => allocator.takeTogether(1)),
    inodeBitmaps: each(() => allocator.takeTogether(1)),
    inodeTables: each(() => allocator.takeTogether(tableBlocks)),
  }
}

/**
 * Writes the bitmaps of groups that hold something; the others are known to hold nothing. Tables are zeroes where no inode
 * is, and say so: Linux need not clear them.
 */
export async function writeGroups(input: GroupsInput, writer: BlockWriter): Promise<GroupsSummary> {
  const { geometry, tables } = input
  const descriptors = Buffer.alloc(geometry.descriptorBlocks * BLOCK_SIZE)
  const summary = { descriptors, freeBlocks: 0, freeInodes: 0 }
  const blockBitmaps = new BlockBitmaps(input)
  for (let group = 0; group < geometry.groups; group++) {
    const blocks = blockBitmaps.next(group)
    const inodes = inodeBitmap(input, group)
    if (blocks.isKept) await writer.write(blocks.bitmap, (tables.blockBitmaps[group] as number) * BLOCK_SIZE)
    if (inodes.isKept) await writer.write(inodes.bitmap, (tables.inodeBitmaps[group] as number) * BLOCK_SIZE)
    encodeDescriptor(input, group, { blocks, inodes }).copy(descriptors, group * DESCRIPTOR_SIZE)
    summary.freeBlocks += blocks.free
    summary.freeInodes += inodes.free
  }
  return summary
}

interface Bitmap {
  readonly bitmap: Buffer
  readonly free: number
  /** Whether it is written: one that says nothing need not be. */
  readonly isKept: boolean
}

function encodeDescriptor(
  { geometry, seeds, tables, directories }: GroupsInput,
  group: number,
  { blocks, inodes }: { blocks: Bitmap; inodes: Bitmap },
): Buffer {
  const out = Buffer.alloc(DESCRIPTOR_SIZE)
  out.writeUInt32LE(tables.blockBitmaps[group] as number, GROUP.blockBitmap)
  out.writeUInt32LE(tables.inodeBitmaps[group] as number, GROUP.inodeBitmap)
  out.writeUInt32LE(tables.inodeTables[group] as number, GROUP.inodeTable)
  out.writeUInt16LE(blocks.free, GROUP.freeBlocks)
  out.writeUInt16LE(inodes.free, GROUP.freeInodes)
  out.writeUInt16LE(directories[group] ?? 0, GROUP.usedDirectories)
  const unwritten = (blocks.isKept ? 0 : EXT4_BG_BLOCK_UNINIT) | (inodes.isKept ? 0 : EXT4_BG_INODE_UNINIT)
  out.writeUInt16LE(EXT4_BG_INODE_ZEROED | unwritten, GROUP.flags)
  // Inodes are used from the first on, so that those that are free were never used.
  out.writeUInt16LE(inodes.free, GROUP.unusedInodes)
  const sum = (bytes: Buffer) => crc32c(seeds.fileSystem, bytes) & 0xffff
  if (blocks.isKept) out.writeUInt16LE(sum(blocks.bitmap), GROUP.blockBitmapChecksum)
  const inodeBytes = inodes.bitmap.subarray(0, geometry.inodesPerGroup / 8)
  if (inodes.isKept) out.writeUInt16LE(sum(inodeBytes), GROUP.inodeBitmapChecksum)
  out.writeUInt16LE(crc32c(seeds.group(group), out) & 0xffff, GROUP.checksum)
  return out
}

function inodeBitmap({ geometry, lastInode }: GroupsInput, group: number): Bitmap {
  const { inodesPerGroup } = geometry
  const used = Math.min(Math.max(lastInode - group * inodesPerGroup, 0), inodesPerGroup)
  const bitmap = Buffer.alloc(BLOCK_SIZE)
  setBits(bitmap, 0, used)
  setBits(bitmap, inodesPerGroup, BLOCKS_PER_GROUP)
  return { bitmap, free: inodesPerGroup - used, isKept: used > 0 }
}

/** Block bitmaps, group by group. */
class BlockBitmaps {
  readonly #geometry: Geometry
  readonly #taken: readonly BlockRange[]
  readonly #copies: ReadonlyMap<number, number>
  #at = 0

  constructor({ geometry, allocator }: GroupsInput) {
    this.#geometry = geometry
    this.#taken = allocator.taken
    this.#copies = new Map(allocator.copies.map(({ start, count }) => [start / BLOCKS_PER_GROUP, count]))
  }

  next(group: number): Bitmap {
    const first = group * BLOCKS_PER_GROUP
    const size = Math.min(BLOCKS_PER_GROUP, this.#geometry.blocks - first)
    const bitmap = Buffer.alloc(BLOCK_SIZE)
    const copy = this.#copies.get(group) ?? 0
    setBits(bitmap, 0, copy)
    let used = copy
    for (
      let range = this.#taken[this.#at];
      range && range.start < first + size;
      range = this.#taken[this.#at]
    ) {
      const [from, to] = [Math.max(range.start - first, 0), Math.min(range.start + range.count - first, size)]
      setBits(bitmap, from, to)
      used += to - from
      if (range.start + range.count > first + size) break
      this.#at++
    }
    setBits(bitmap, size, BLOCKS_PER_GROUP)
    // The last one also says where the disk ends.
    return { bitmap, free: size - used, isKept: used > copy || group === this.#geometry.groups - 1 }
  }
}

function setBits(bitmap: Buffer, from: number, to: number): void {
  let at = from
  for (; at < to && at % 8 !== 0; at++) setBit(bitmap, at)
  if (at >= to) return
  const whole = to - (to % 8)
  bitmap.fill(0xff, at / 8, whole / 8)
  for (at = whole; at < to; at++) setBit(bitmap, at)
}

function setBit(bitmap: Buffer, bit: number): void {
  bitmap[bit >> 3] = (bitmap[bit >> 3] as number) | (1 << (bit & 7))
}
