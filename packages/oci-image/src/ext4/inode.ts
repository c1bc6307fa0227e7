import { crc32c } from "../erofs/crc32c.js"
import { EXTRA_ISIZE, INODE, INODE_SIZE, LINK_MAX } from "./defs.js"

/** What an inode says. */
export interface Inode {
  /** Kind and permissions, `st_mode`. */
  readonly mode: number
  readonly uid: number
  readonly gid: number
  readonly mtime: { readonly seconds: number; readonly nanoseconds: number }
  readonly links: number
  readonly size: number
  /** Blocks that it takes: content, tree of extents, attributes. */
  readonly blocks: number
  readonly flags: number
  /** `i_block`, at most 60 bytes. */
  readonly content: Buffer
  /** Block of extended attributes; 0 without one. */
  readonly xattrBlock: number
  /** Attributes that stand in the inode. */
  readonly xattrs: Buffer
}

const SECTORS_PER_BLOCK = 8
/** Seconds have 34 bits, beginning 2^31 before 1970. */
const TIME_MIN = -(2 ** 31)
const TIME_MAX = 2 ** 34 - 2 ** 31 - 1

/** Encodes `struct ext4_inode`. All four times are the one that an image knows. @param seed - the inode's, for its checksum */
export function encodeInode(inode: Inode, seed: number): Buffer {
  const out = Buffer.alloc(INODE_SIZE)
  out.writeUInt16LE(inode.mode, INODE.mode)
  putHalves(out, inode.uid, INODE.uid, INODE.uidHigh)
  putHalves(out, inode.gid, INODE.gid, INODE.gidHigh)
  out.writeUInt32LE(inode.size % 2 ** 32, INODE.size)
  out.writeUInt32LE(Math.floor(inode.size / 2 ** 32), INODE.sizeHigh)
  // A directory with more says 1: nobody knows (dir_nlink).
  out.writeUInt16LE(inode.links >= LINK_MAX ? 1 : inode.links, INODE.links)
  const sectors = inode.blocks * SECTORS_PER_BLOCK
  out.writeUInt32LE(sectors % 2 ** 32, INODE.blocks)
  out.writeUInt16LE(Math.floor(sectors / 2 ** 32), INODE.blocksHigh)
  out.writeUInt32LE(inode.flags, INODE.flags)
  inode.content.copy(out, INODE.block)
  out.writeUInt32LE(inode.xattrBlock, INODE.fileAcl)
  out.writeUInt16LE(EXTRA_ISIZE, INODE.extraIsize)
  putTimes(out, inode.mtime)
  inode.xattrs.copy(out, INODE.xattrs)
  putHalves(out, crc32c(seed, out), INODE.checksum, INODE.checksumHigh)
  return out
}

function putHalves(out: Buffer, value: number, low: number, high: number): void {
  out.writeUInt16LE(value & 0xffff, low)
  out.writeUInt16LE(value >>> 16, high)
}

function putTimes(out: Buffer, { seconds, nanoseconds }: Inode["mtime"]): void {
  const time = Math.min(Math.max(seconds, TIME_MIN), TIME_MAX)
  const low = time | 0
  const extra = ((time - low) / 2 ** 32) | (nanoseconds << 2)
  for (const at of [INODE.atime, INODE.ctime, INODE.mtime, INODE.crtime]) out.writeInt32LE(low, at)
  for (const at of [INODE.atimeExtra, INODE.ctimeExtra, INODE.mtimeExtra, INODE.crtimeExtra])
    out.writeUInt32LE(extra >>> 0, at)
}
