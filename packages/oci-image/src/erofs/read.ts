import { ImageError } from "../errors.js"
import type { NodeKind } from "../layer/tree.js"
import {
  BLOCK_BITS,
  BLOCK_SIZE,
  EROFS_BLOCK_MAP_ENTRY_SIZE,
  EROFS_DIRENT_SIZE,
  EROFS_I_DATALAYOUT_BIT,
  EROFS_INODE_CHUNK_BASED,
  EROFS_INODE_EXTENDED_SIZE,
  EROFS_INODE_FLAT_INLINE,
  EROFS_INODE_FLAT_PLAIN,
  EROFS_INODE_LAYOUT_EXTENDED,
  EROFS_NULL_ADDR,
  EROFS_SUPER_MAGIC_V1,
  EROFS_SUPER_OFFSET,
  EROFS_XATTR_ENTRY_SIZE,
  EROFS_XATTR_HEADER_SIZE,
  EROFS_XATTR_INDEX,
  INODE,
  NID_UNIT,
  S_IF,
  SUPER,
} from "./defs.js"

/** A file as a guest sees it. */
export interface ErofsFile {
  /** Its number: equal for all names of one file. */
  readonly nid: number
  readonly kind: Exclude<NodeKind, "link">
  /** 12 permission bits. */
  readonly mode: number
  readonly uid: number
  readonly gid: number
  readonly mtime: { readonly seconds: number; readonly nanoseconds: number }
  readonly nlink: number
  /** Bytes of content. */
  readonly size: number
  readonly major: number
  readonly minor: number
  readonly xattrs: ReadonlyMap<string, Buffer> | undefined
}

/** A piece of a file's content: where it is on the disk, or a hole. */
export interface ErofsRun {
  /** Byte of the disk; it is not in the metadata part. */
  readonly start: number | undefined
  readonly size: number
}

/** How many blocks a chunk has, as a power of two. @see EROFS_CHUNK_FORMAT_BLKBITS_MASK */
const CHUNK_BITS_MASK = 0x1f
const FORMAT_MASK = S_IF.file | S_IF.directory | S_IF.char | S_IF.fifo
const KINDS = new Map(Object.entries(S_IF).map(([kind, bits]) => [bits as number, kind as ErofsFile["kind"]]))
const SELF: ReadonlySet<string> = new Set([".", ".."])

/**
 * Reads the metadata part of a disk that `writeMetadata` made: what a guest that mounts the disk would see, and nothing
 * that was written down beside it.
 *
 * Every method throws ImageError `store-corrupt` where the part is damaged.
 */
export class ErofsMetadata {
  readonly #bytes: Buffer
  readonly root: ErofsFile

  constructor(bytes: Buffer) {
    this.#bytes = bytes
    this.root = whole(() => {
      const superblock = bytes.subarray(EROFS_SUPER_OFFSET)
      if (superblock.readUInt32LE(SUPER.magic) !== EROFS_SUPER_MAGIC_V1) throw corrupt("it has no superblock")
      if (superblock.readUInt8(SUPER.blkszbits) !== BLOCK_BITS) throw corrupt("its blocks have another size")
      return this.#file(superblock.readUInt16LE(SUPER.rootNid))
    })
  }

  /** More names than fit into the part. */
  get namesMax(): number {
    return this.#bytes.length / EROFS_DIRENT_SIZE
  }

  /** The names in a directory, in byte order, with their files. */
  entries(directory: ErofsFile): [name: string, file: ErofsFile][] {
    return whole(() =>
      this.#names(this.#content(directory))
        .filter(([name]) => !SELF.has(name))
        .map(([name, nid]) => [name, this.#file(nid)]),
    )
  }

  /** The text of a symlink, as bytes (latin1 text). */
  target(link: ErofsFile): string {
    return whole(() => this.#content(link).toString("latin1"))
  }

  /** Where the content of a file is, in order. */
  *runs({ nid, size }: ErofsFile): Generator<ErofsRun> {
    const inode = whole(() => this.#inode(nid))
    const layout = inode.readUInt16LE(INODE.format) >> EROFS_I_DATALAYOUT_BIT
    const union = inode.readUInt32LE(INODE.u)
    if (layout === EROFS_INODE_FLAT_PLAIN) yield { start: union * BLOCK_SIZE, size }
    else if (layout === EROFS_INODE_CHUNK_BASED) yield* this.#chunks(inode, nid, size, union)
    else throw corrupt(`file ${nid} has content of another layout`)
  }

  *#chunks(inode: Buffer, nid: number, size: number, format: number): Generator<ErofsRun> {
    if (format & ~CHUNK_BITS_MASK) throw corrupt(`file ${nid} has chunks of another format`)
    const chunk = BLOCK_SIZE * 2 ** format
    const mapAt = nid * NID_UNIT + EROFS_INODE_EXTENDED_SIZE + xattrSize(inode)
    const map = this.#range(mapAt, Math.ceil(size / chunk) * EROFS_BLOCK_MAP_ENTRY_SIZE)
    for (let at = 0; at < size; at += chunk) {
      const block = map.readUInt32LE((at / chunk) * EROFS_BLOCK_MAP_ENTRY_SIZE)
      const start = block === EROFS_NULL_ADDR ? undefined : block * BLOCK_SIZE
      yield { start, size: Math.min(chunk, size - at) }
    }
  }

  #file(nid: number): ErofsFile {
    const inode = this.#inode(nid)
    const bits = inode.readUInt16LE(INODE.mode)
    const kind = KINDS.get(bits & FORMAT_MASK)
    if (kind === undefined) throw corrupt(`file ${nid} is of no known kind`)
    const union = inode.readUInt32LE(INODE.u)
    const isDevice = kind === "char" || kind === "block"
    return {
      nid,
      kind,
      mode: bits & 0o7777,
      uid: inode.readUInt32LE(INODE.uid),
      gid: inode.readUInt32LE(INODE.gid),
      mtime: {
        seconds: Number(inode.readBigInt64LE(INODE.mtime)),
        nanoseconds: inode.readUInt32LE(INODE.mtimeNsec),
      },
      nlink: inode.readUInt32LE(INODE.nlink),
      size: sizeOf(inode),
      // linux/kdev_t.h, new_decode_dev
      major: isDevice ? (union & 0xfff00) >>> 8 : 0,
      minor: isDevice ? (union & 0xff) | ((union >>> 12) & 0xfff00) : 0,
      xattrs: this.#xattrs(nid, xattrSize(inode)),
    }
  }

  #inode(nid: number): Buffer {
    const at = nid * NID_UNIT
    const inode = this.#bytes.subarray(at, at + EROFS_INODE_EXTENDED_SIZE)
    if ((inode.readUInt16LE(INODE.format) & 1) === EROFS_INODE_LAYOUT_EXTENDED) return inode
    throw corrupt(`file ${nid} has another layout`)
  }

  /** Content that the metadata part holds: whole blocks, and a last part behind the inode. */
  #content({ nid }: ErofsFile): Buffer {
    const inode = this.#inode(nid)
    const size = sizeOf(inode)
    const layout = inode.readUInt16LE(INODE.format) >> EROFS_I_DATALAYOUT_BIT
    if (layout !== EROFS_INODE_FLAT_INLINE && layout !== EROFS_INODE_FLAT_PLAIN)
      throw corrupt(`file ${nid} has content of another layout`)
    const tail = layout === EROFS_INODE_FLAT_INLINE ? size % BLOCK_SIZE : 0
    const tailAt = nid * NID_UNIT + EROFS_INODE_EXTENDED_SIZE + xattrSize(inode)
    const blocks = this.#range(inode.readUInt32LE(INODE.u) * BLOCK_SIZE, size - tail)
    return tail === 0 ? blocks : Buffer.concat([blocks, this.#range(tailAt, tail)])
  }

  #range(at: number, size: number): Buffer {
    if (size > 0 && at + size > this.#bytes.length) throw corrupt("content lies behind its end")
    return this.#bytes.subarray(at, at + size)
  }

  #names(content: Buffer): [name: string, nid: number][] {
    const names: [string, number][] = []
    for (let at = 0; at < content.length; at += BLOCK_SIZE) {
      const block = content.subarray(at, at + BLOCK_SIZE)
      const count = block.readUInt16LE(8) / EROFS_DIRENT_SIZE
      for (let i = 0; i < count; i++) {
        const entry = i * EROFS_DIRENT_SIZE
        const end = i + 1 < count ? block.readUInt16LE(entry + EROFS_DIRENT_SIZE + 8) : block.length
        // A last name that does not reach the end of its block is ended by a NUL.
        const name = block.toString("latin1", block.readUInt16LE(entry + 8), end).replace(/\0.*$/s, "")
        names.push([name, Number(block.readBigUInt64LE(entry))])
      }
    }
    return names
  }

  #xattrs(nid: number, size: number): ReadonlyMap<string, Buffer> | undefined {
    if (size === 0) return undefined
    const body = this.#range(nid * NID_UNIT + EROFS_INODE_EXTENDED_SIZE, size)
    const xattrs = new Map<string, Buffer>()
    for (let at = EROFS_XATTR_HEADER_SIZE; at < size; ) {
      const valueAt = at + EROFS_XATTR_ENTRY_SIZE + body.readUInt8(at)
      const end = valueAt + body.readUInt16LE(at + 2)
      if (end > size) throw corrupt(`attributes of file ${nid} lie behind their end`)
      const prefix = EROFS_XATTR_INDEX.find(([, index]) => index === body.readUInt8(at + 1))?.[0]
      if (prefix === undefined) throw corrupt(`attributes of file ${nid} are of no known kind`)
      const name = `${prefix}${body.toString("latin1", at + EROFS_XATTR_ENTRY_SIZE, valueAt)}`
      xattrs.set(name, body.subarray(valueAt, end))
      at = end + (-end & 3)
    }
    return xattrs
  }
}

function sizeOf(inode: Buffer): number {
  return Number(inode.readBigUInt64LE(INODE.size))
}

function xattrSize(inode: Buffer): number {
  const count = inode.readUInt16LE(INODE.xattrIcount)
  return count === 0 ? 0 : EROFS_XATTR_HEADER_SIZE + 4 * (count - 1)
}

/** Buffers refuse to be read behind their end. */
function whole<T>(read: () => T): T {
  try {
    return read()
  } catch (error) {
    if (error instanceof RangeError) throw corrupt(error.message)
    throw error
  }
}

function corrupt(why: string): ImageError {
  return new ImageError("store-corrupt", `the metadata of an image is damaged: ${why}`)
}
