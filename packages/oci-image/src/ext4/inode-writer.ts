import { FT, S_IF } from "../erofs/defs.js"
import type { DiskContents } from "../erofs/disk-contents.js"
import type { ErofsMetadata } from "../erofs/read.js"
import type { BlockAllocator } from "./block-allocator.js"
import type { BlockWriter } from "./block-writer.js"
import type { ChecksumSeeds } from "./checksums.js"
import { contentRuns, copyRun } from "./content.js"
import { BLOCK_SIZE, EXT4_EXTENTS_FL, I_BLOCK_SIZE, INODE_SIZE } from "./defs.js"
import { type Dirent, encodeDirectory } from "./directory.js"
import { addExtents, type Extent, extentTree } from "./extents.js"
import type { Geometry } from "./geometry.js"
import { encodeInode, type Inode } from "./inode.js"
import type { Ext4Node } from "./nodes.js"
import { encodeXattrs, sealXattrBlock } from "./xattrs.js"

/** Where a file's content went: fields of its inode. */
export type StoredContent = Pick<Inode, "size" | "blocks" | "flags" | "content">

/** What files are written with. */
export interface InodeWriterParts {
  readonly geometry: Geometry
  readonly seeds: ChecksumSeeds
  readonly allocator: BlockAllocator
  /** First block of each group's inode table. */
  readonly inodeTables: readonly number[]
  readonly metadata: ErofsMetadata
  readonly contents: DiskContents
  /** For contents, and for inodes: each is nearly in order by itself. */
  readonly data: BlockWriter
  readonly tables: BlockWriter
}

/** Writes files: their content, then what their inodes say of it. */
export class InodeWriter {
  readonly #parts: InodeWriterParts

  constructor(parts: InodeWriterParts) {
    this.#parts = parts
  }

  async writeNode(node: Ext4Node): Promise<void> {
    const { file, inode, links } = node
    const stored = await this.#content(node)
    const attributes = await this.#attributes(node)
    await this.writeInode(inode, {
      mode: S_IF[file.kind] | file.mode,
      ...{ uid: file.uid, gid: file.gid, mtime: file.mtime, links },
      ...stored,
      ...attributes,
      blocks: stored.blocks + (attributes.xattrBlock > 0 ? 1 : 0),
    })
  }

  async writeInode(number: number, inode: Inode): Promise<void> {
    const { geometry, seeds, inodeTables, tables } = this.#parts
    const index = (number - 1) % geometry.inodesPerGroup
    const table = inodeTables[Math.floor((number - 1) / geometry.inodesPerGroup)] as number
    await tables.write(encodeInode(inode, seeds.inode(number)), table * BLOCK_SIZE + index * INODE_SIZE)
  }

  /** Writes bytes that begin a file of so many blocks; what is behind them is zero already. */
  async store(number: number, bytes: Buffer, blocks: number): Promise<StoredContent> {
    const ranges = this.#parts.allocator.take(blocks)
    const extents: Extent[] = []
    addExtents(extents, 0, ranges)
    let at = 0
    for (const { start, count } of ranges) {
      const part = bytes.subarray(at, at + count * BLOCK_SIZE)
      if (part.length > 0) await this.#parts.data.write(part, start * BLOCK_SIZE)
      at += count * BLOCK_SIZE
    }
    return this.#mapped(number, extents, blocks * BLOCK_SIZE)
  }

  #content(node: Ext4Node): Promise<StoredContent> | StoredContent {
    const { file, inode } = node
    switch (file.kind) {
      case "directory": {
        const bytes = encodeDirectory(dirents(node), this.#parts.seeds.inode(inode))
        return this.store(inode, bytes, bytes.length / BLOCK_SIZE)
      }
      case "symlink":
        return this.#symlink(node)
      case "file":
        return this.#file(node)
      case "char":
      case "block":
        return { size: 0, blocks: 0, flags: 0, content: encodeDevice(file.major, file.minor) }
      case "fifo":
        return { size: 0, blocks: 0, flags: 0, content: Buffer.alloc(0) }
    }
  }

  /** A short text stands in the inode, with room for the NUL that Linux adds. */
  async #symlink({ file, inode }: Ext4Node): Promise<StoredContent> {
    const text = Buffer.from(this.#parts.metadata.target(file), "latin1")
    if (text.length < I_BLOCK_SIZE) return { size: text.length, blocks: 0, flags: 0, content: text }
    const block = Buffer.alloc(BLOCK_SIZE)
    text.copy(block)
    return { ...(await this.store(inode, block, 1)), size: text.length }
  }

  async #file({ file, inode }: Ext4Node): Promise<StoredContent> {
    const { metadata, contents, allocator, data } = this.#parts
    const extents: Extent[] = []
    for (const run of contentRuns(metadata, file)) {
      const ranges = allocator.take(Math.ceil(run.size / BLOCK_SIZE))
      addExtents(extents, run.logical, ranges)
      await copyRun(contents, run, ranges, data)
    }
    return this.#mapped(inode, extents, file.size)
  }

  async #mapped(number: number, extents: readonly Extent[], size: number): Promise<StoredContent> {
    const { seeds, allocator, data } = this.#parts
    const { root, blocks } = extentTree(extents, seeds.inode(number), () => allocator.takeTogether(1))
    for (const { block, bytes } of blocks) await data.write(bytes, block * BLOCK_SIZE)
    const mapped = extents.reduce((sum, { count }) => sum + count, blocks.length)
    return { size, blocks: mapped, flags: EXT4_EXTENTS_FL, content: root }
  }

  async #attributes({ file }: Ext4Node): Promise<Pick<Inode, "xattrs" | "xattrBlock">> {
    const { seeds, allocator, data } = this.#parts
    const { inline, block } = encodeXattrs(file.xattrs)
    if (!block) return { xattrs: inline, xattrBlock: 0 }
    const xattrBlock = allocator.takeTogether(1)
    sealXattrBlock(block, seeds.xattrBlock(xattrBlock))
    await data.write(block, xattrBlock * BLOCK_SIZE)
    return { xattrs: inline, xattrBlock }
  }
}

function* dirents({ inode, parent, children }: Ext4Node): Generator<Dirent> {
  yield { name: ".", inode, type: FT.directory }
  yield { name: "..", inode: parent, type: FT.directory }
  for (const [name, node] of children ?? []) yield { name, inode: node.inode, type: FT[node.file.kind] }
}

/** Small numbers stand in the first word, others in the second. @see linux/kdev_t.h, old_encode_dev, new_encode_dev */
function encodeDevice(major: number, minor: number): Buffer {
  const out = Buffer.alloc(8)
  if (major < 256 && minor < 256) out.writeUInt16LE((major << 8) | minor, 0)
  else out.writeUInt32LE(((minor & 0xff) | (major << 8) | ((minor & ~0xff) << 12)) >>> 0, 4)
  return out
}
