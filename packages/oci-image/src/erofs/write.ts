import type { TreeNode } from "../layer/tree.js"
import { chunkFormat, encodeChunkMap } from "./chunks.js"
import { crc32c } from "./crc32c.js"
import {
  BLOCK_BITS,
  BLOCK_SIZE,
  EROFS_FEATURE_COMPAT_MTIME,
  EROFS_FEATURE_COMPAT_SB_CHKSUM,
  EROFS_FEATURE_INCOMPAT_CHUNKED_FILE,
  EROFS_I_DATALAYOUT_BIT,
  EROFS_INODE_CHUNK_BASED,
  EROFS_INODE_EXTENDED_SIZE,
  EROFS_INODE_FLAT_INLINE,
  EROFS_INODE_FLAT_PLAIN,
  EROFS_INODE_LAYOUT_EXTENDED,
  EROFS_SUPER_MAGIC_V1,
  EROFS_SUPER_OFFSET,
  EROFS_SUPER_SIZE,
  FT,
  INODE,
  S_IF,
  SUPER,
} from "./defs.js"
import { encodeDirectory } from "./directory.js"
import { type Extent, PartBlocks } from "./extents.js"
import { nidOf, type Plan, type PlannedInode, planMetadata } from "./plan.js"
import { encodeXattrs, xattrCount } from "./xattrs.js"

/** What a metadata part is made of. */
export interface MetadataInput {
  /** The finished tree: no whiteouts, no unresolved links. Nodes' `slot` must be -1. */
  readonly root: TreeNode
  /** Bytes of the data parts in the order of files' `part`; each a multiple of 4096. */
  readonly partSizes: readonly number[]
  /** Where the content of a file stands that is not, or not all, in the part of its own layer. */
  readonly shared?: (file: TreeNode) => readonly Extent[] | undefined
  /** 16 bytes that identify the file system. */
  readonly uuid: Buffer
}

/**
 * Makes an image's metadata part: superblock, inodes, directories, symlinks, attributes. File contents stay in
 * the data parts, which follow it on the disk in order. Equal input gives equal bytes.
 *
 * ```
 * | superblock, inodes with small directories and symlinks | large directories | part 0 | part 1 | ...
 * '---------------------- metadata part ------------------------------------'
 * ```
 *
 * @returns pieces that make up the part, one after the other, in all a multiple of 4096 bytes
 */
export function* writeMetadata(input: MetadataInput): Generator<Buffer> {
  const parts = new PartBlocks(input.partSizes)
  const plan = planMetadata(input.root, file => input.shared?.(file) ?? parts.extentsOf(file))
  const superblock = encodeSuperblock(plan, plan.blocks + parts.total, input.uuid)
  const writer = new InodeWriter(plan)
  let first = true
  for (const piece of writer.pieces()) {
    if (first) sealSuperblock(piece, superblock)
    first = false
    yield piece
  }
}

function encodeSuperblock(plan: Plan, blocks: number, uuid: Buffer): Buffer {
  const sb = Buffer.alloc(EROFS_SUPER_SIZE)
  sb.writeUInt32LE(EROFS_SUPER_MAGIC_V1, SUPER.magic)
  sb.writeUInt32LE(EROFS_FEATURE_COMPAT_SB_CHKSUM | EROFS_FEATURE_COMPAT_MTIME, SUPER.featureCompat)
  sb.writeUInt8(BLOCK_BITS, SUPER.blkszbits)
  sb.writeUInt16LE(nidOf(plan.inodes[0] as PlannedInode), SUPER.rootNid)
  sb.writeUInt32LE(plan.inodes.length, SUPER.inos)
  sb.writeUInt32LE(blocks, SUPER.blocks)
  uuid.copy(sb, SUPER.uuid, 0, 16)
  // Only where it is needed: kernels before 5.15 mount the rest.
  if (plan.inodes.some(inode => inode.chunks))
    sb.writeUInt32LE(EROFS_FEATURE_INCOMPAT_CHUNKED_FILE, SUPER.featureIncompat)
  return sb
}

/** Puts the superblock into the first block; its checksum covers the block from there to its end. */
function sealSuperblock(firstPiece: Buffer, superblock: Buffer): void {
  const block = firstPiece.subarray(EROFS_SUPER_OFFSET, BLOCK_SIZE)
  superblock.copy(block)
  block.writeUInt32LE(crc32c(0xffffffff, block), SUPER.checksum)
}

const PIECE = 256 * BLOCK_SIZE

class InodeWriter {
  readonly #plan: Plan
  #piece = Buffer.alloc(0)
  /** Byte offset of the current piece in the part. */
  #base = 0

  constructor(plan: Plan) {
    this.#plan = plan
  }

  *pieces(): Generator<Buffer> {
    yield* this.#inodes()
    yield* this.#contents()
  }

  /** The inode area in pieces of whole blocks; an inode's attributes may reach into the next piece. */
  *#inodes(): Generator<Buffer> {
    const end = this.#plan.contentBlock * BLOCK_SIZE
    let piece = this.#newPiece(0, end)
    for (const inode of this.#plan.inodes) {
      const bytes = this.#encode(inode)
      let at = inode.at
      for (let done = 0; done < bytes.length; ) {
        while (at >= this.#base + piece.length) {
          yield piece
          piece = this.#newPiece(this.#base + piece.length, end)
        }
        const copied = bytes.copy(piece, at - this.#base, done)
        done += copied
        at += copied
      }
    }
    yield piece
  }

  #newPiece(base: number, end: number): Buffer {
    this.#base = base
    this.#piece = Buffer.alloc(Math.min(PIECE, end - base))
    return this.#piece
  }

  *#contents(): Generator<Buffer> {
    for (const inode of this.#plan.inodes) {
      const outside = outsideBytes(inode)
      if (outside === 0) continue
      const content = this.#content(inode).subarray(0, outside)
      yield content
      const missing = -content.length & (BLOCK_SIZE - 1)
      if (missing > 0) yield Buffer.alloc(missing)
    }
  }

  /** The inode, its attributes, and what else stands behind it: an inline tail or a chunk map. */
  #encode(inode: PlannedInode): Buffer {
    const { node } = inode
    const out = Buffer.alloc(EROFS_INODE_EXTENDED_SIZE)
    out.writeUInt16LE(EROFS_INODE_LAYOUT_EXTENDED | (layoutOf(inode) << EROFS_I_DATALAYOUT_BIT), INODE.format)
    out.writeUInt16LE(xattrCount(inode.xattrSize), INODE.xattrIcount)
    out.writeUInt16LE(S_IF[node.kind as keyof typeof S_IF] | node.mode, INODE.mode)
    writeU64(out, node.kind === "file" ? node.size : inode.size, INODE.size)
    out.writeUInt32LE(this.#unionField(inode), INODE.u)
    out.writeUInt32LE(node.slot + 1, INODE.ino)
    out.writeUInt32LE(node.uid, INODE.uid)
    out.writeUInt32LE(node.gid, INODE.gid)
    out.writeBigInt64LE(BigInt(node.mtime), INODE.mtime)
    out.writeUInt32LE(node.mtimeNsec, INODE.mtimeNsec)
    out.writeUInt32LE(inode.nlink, INODE.nlink)
    const xattrs = encodeXattrs(node.xattrs)
    const tail = this.#tail(inode)
    return xattrs.length + tail.length === 0 ? out : Buffer.concat([out, xattrs, tail])
  }

  #tail(inode: PlannedInode): Buffer {
    if (inode.inline) return this.#content(inode).subarray(outsideBytes(inode))
    return inode.chunks ? encodeChunkMap(inode.chunks, this.#plan.blocks) : Buffer.alloc(0)
  }

  #unionField(inode: PlannedInode): number {
    const { node } = inode
    switch (node.kind) {
      case "char":
      case "block":
        return encodeDevice(node.major, node.minor)
      case "file":
        if (inode.chunks) return chunkFormat(inode.chunks)
        // The data parts stand behind this one.
        return node.size === 0 ? 0 : this.#plan.blocks + inode.place
      default:
        return outsideBytes(inode) > 0 ? inode.block : 0
    }
  }

  #content(inode: PlannedInode): Buffer {
    if (!inode.names) return Buffer.from(inode.node.target, "latin1")
    return encodeDirectory(inode.names.map(name => this.#dirent(inode, name)))
  }

  #dirent(directory: PlannedInode, name: string): { name: string; nid: number; fileType: number } {
    const { node, parent } = directory
    const child = name === "." ? node : name === ".." ? parent : (node.children?.get(name) as TreeNode)
    const inode = this.#plan.inodes[child.slot] as PlannedInode
    return { name, nid: nidOf(inode), fileType: FT[child.kind as keyof typeof FT] }
  }
}

function layoutOf(inode: PlannedInode): number {
  if (inode.chunks) return EROFS_INODE_CHUNK_BASED
  return inode.inline ? EROFS_INODE_FLAT_INLINE : EROFS_INODE_FLAT_PLAIN
}

/** Bytes of an inode's content that stand in blocks of their own. */
function outsideBytes(inode: PlannedInode): number {
  return inode.inline ? inode.size - (inode.size % BLOCK_SIZE) : inode.size
}

/** @see linux/kdev_t.h, new_encode_dev */
function encodeDevice(major: number, minor: number): number {
  return ((minor & 0xff) | (major << 8) | ((minor & ~0xff) << 12)) >>> 0
}

function writeU64(out: Buffer, value: number, at: number): void {
  out.writeUInt32LE(value % 2 ** 32, at)
  out.writeUInt32LE(Math.floor(value / 2 ** 32), at + 4)
}
