import { BLOCK_SIZE, BLOCKS_PER_GROUP, DESCRIPTOR_SIZE, INODES_PER_BLOCK } from "./defs.js"

/** How a file system is divided. */
export interface Geometry {
  readonly blocks: number
  readonly groups: number
  /** A multiple of {@link INODES_PER_BLOCK}, so that tables are whole blocks. */
  readonly inodesPerGroup: number
  /** Blocks of one group's inode table. */
  readonly tableBlocks: number
  /** Blocks of all group descriptors. */
  readonly descriptorBlocks: number
  /** Groups that begin with a copy of the superblock and the descriptors, beside the first; ascending. */
  readonly backupGroups: readonly number[]
}

/** What a file system has to hold. */
export interface Content {
  readonly inodes: number
  /** Blocks of contents, directories and all that belongs to single files. */
  readonly blocks: number
}

/** For a new file of 16 KiB, as mke2fs does. */
const BLOCKS_PER_INODE = 4
/** As many as a bitmap has bits, in whole blocks of a table. */
const MAX_INODES_PER_GROUP = 8 * BLOCK_SIZE
/** A last group of less is left out: its copies of superblock and descriptors would be most of it. */
const LAST_GROUP_MIN = 2048

/**
 * Divides a disk.
 *
 * @param inodes - that are needed
 * @returns undefined when so many inodes do not fit
 */
export function divide(diskBlocks: number, inodes: number): Geometry | undefined {
  const last = diskBlocks % BLOCKS_PER_GROUP
  const blocks = diskBlocks > BLOCKS_PER_GROUP && last < LAST_GROUP_MIN ? diskBlocks - last : diskBlocks
  const groups = Math.ceil(blocks / BLOCKS_PER_GROUP)
  const perGroup = Math.ceil(Math.max(inodes, blocks / BLOCKS_PER_INODE) / groups)
  const inodesPerGroup = Math.ceil(perGroup / INODES_PER_BLOCK) * INODES_PER_BLOCK
  if (inodesPerGroup > MAX_INODES_PER_GROUP) return undefined
  return {
    blocks,
    groups,
    inodesPerGroup,
    tableBlocks: inodesPerGroup / INODES_PER_BLOCK,
    descriptorBlocks: Math.ceil((groups * DESCRIPTOR_SIZE) / BLOCK_SIZE),
    backupGroups: backupGroups(groups),
  }
}

/** The smallest disk of whole groups with so much content and so many free blocks. */
export function roomyDisk(content: Content, freeBlocks: number): number {
  let groups = Math.ceil((content.blocks + freeBlocks) / BLOCKS_PER_GROUP)
  for (;;) {
    const geometry = divide(groups * BLOCKS_PER_GROUP, content.inodes)
    if (geometry && content.blocks + freeBlocks + overheadBlocks(geometry) <= geometry.blocks)
      return geometry.blocks
    groups++
  }
}

/** Blocks that are taken before any content, at most. */
export function overheadBlocks(geometry: Geometry): number {
  const { groups, tableBlocks, descriptorBlocks, backupGroups } = geometry
  const copies = 1 + backupGroups.length
  // Tables stand in one piece, so that one may leave a gap before a copy.
  return copies * (1 + descriptorBlocks + tableBlocks) + groups * (2 + tableBlocks)
}

/** Whether a group has a copy (`sparse_super`): 1 and the powers of 3, 5 and 7. */
function backupGroups(groups: number): number[] {
  const found = new Set<number>()
  for (const base of [3, 5, 7]) for (let group = 1; group < groups; group *= base) found.add(group)
  return [...found].sort((a, b) => a - b)
}
