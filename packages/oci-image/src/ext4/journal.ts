import { BLOCK_SIZE, BLOCKS_PER_GROUP, JBD2_MAGIC_NUMBER, JBD2_SUPERBLOCK_V2 } from "./defs.js"

/** Disks up to so many groups have a journal of so many blocks: mke2fs's sizes, up to 64 MiB. */
const SIZES: readonly (readonly [groups: number, blocks: number])[] = [
  [1, 1024],
  [8, 4096],
  [16, 8192],
  [Number.POSITIVE_INFINITY, 16_384],
]
/** Offsets in `struct journal_superblock_s`. */
const SUPER = {
  magic: 0x0,
  blockType: 0x4,
  blockSize: 0xc,
  maxLength: 0x10,
  first: 0x14,
  sequence: 0x18,
  users: 0x40,
}

/** Blocks of the journal of a disk. */
export function journalBlocks(diskBlocks: number): number {
  const found = SIZES.find(([groups]) => diskBlocks <= groups * BLOCKS_PER_GROUP) as (typeof SIZES)[number]
  return found[1]
}

/** The first block of an empty journal of so many blocks; the others are zeroes. */
export function encodeJournal(blocks: number): Buffer {
  const out = Buffer.alloc(BLOCK_SIZE)
  out.writeUInt32BE(JBD2_MAGIC_NUMBER, SUPER.magic)
  out.writeUInt32BE(JBD2_SUPERBLOCK_V2, SUPER.blockType)
  out.writeUInt32BE(BLOCK_SIZE, SUPER.blockSize)
  out.writeUInt32BE(blocks, SUPER.maxLength)
  out.writeUInt32BE(1, SUPER.first)
  out.writeUInt32BE(1, SUPER.sequence)
  out.writeUInt32BE(1, SUPER.users)
  return out
}
