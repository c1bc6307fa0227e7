import { crc32c } from "../erofs/crc32c.js"
import type { FT } from "../erofs/defs.js"
import { BLOCK_SIZE, DIRENT_HEADER_SIZE, DIRENT_TAIL_SIZE, DIRENT_TAIL_TYPE } from "./defs.js"

/** One name in a directory. */
export interface Dirent {
  /** Bytes, as latin1 text. */
  readonly name: string
  readonly inode: number
  readonly type: (typeof FT)[keyof typeof FT]
}

const USABLE = BLOCK_SIZE - DIRENT_TAIL_SIZE
const MAX_DIRENT_SIZE = direntSize(255)

/** Blocks that names take, at most. @param size - the sum of their {@link direntSize} */
export function directoryBlocks(size: number): number {
  return 1 + Math.ceil(size / (USABLE - MAX_DIRENT_SIZE))
}

/** Bytes of an entry with a name of so many bytes. */
export function direntSize(nameLength: number): number {
  return (DIRENT_HEADER_SIZE + nameLength + 3) & ~3
}

/**
 * Encodes a directory without an index: whole blocks, each with a checksum in an entry of its own at the end.
 *
 * @param entries - `.` and `..` first @param seed - the directory's, for checksums
 */
export function encodeDirectory(entries: Iterable<Dirent>, seed: number): Buffer {
  const blocks: Buffer[] = []
  let block = Buffer.alloc(BLOCK_SIZE)
  let [at, last] = [0, 0]
  for (const { name, inode, type } of entries) {
    const size = direntSize(name.length)
    if (at + size > USABLE) {
      blocks.push(seal(block, last, seed))
      block = Buffer.alloc(BLOCK_SIZE)
      at = 0
    }
    block.writeUInt32LE(inode, at)
    block.writeUInt16LE(size, at + 4)
    block.writeUInt8(name.length, at + 6)
    block.writeUInt8(type, at + 7)
    block.write(name, at + DIRENT_HEADER_SIZE, "latin1")
    last = at
    at += size
  }
  blocks.push(seal(block, last, seed))
  return Buffer.concat(blocks)
}

/** The last entry takes what is left; struct ext4_dir_entry_tail is behind it. */
function seal(block: Buffer, last: number, seed: number): Buffer {
  block.writeUInt16LE(USABLE - last, last + 4)
  block.writeUInt16LE(DIRENT_TAIL_SIZE, USABLE + 4)
  block.writeUInt8(DIRENT_TAIL_TYPE, USABLE + 7)
  block.writeUInt32LE(crc32c(seed, block.subarray(0, USABLE)), USABLE + 8)
  return block
}
