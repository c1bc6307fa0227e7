import type { ErofsMetadata } from "../erofs/read.js"
import { ImageError } from "../errors.js"
import { contentRuns } from "./content.js"
import { BLOCK_SIZE, BLOCKS_PER_GROUP, FIRST_INODE, I_BLOCK_SIZE, MAX_BLOCKS } from "./defs.js"
import { directoryBlocks, direntSize } from "./directory.js"
import { extentBlocks } from "./extents.js"
import { type Content, divide, type Geometry, overheadBlocks, roomyDisk } from "./geometry.js"
import { journalBlocks } from "./journal.js"
import type { Ext4Node } from "./nodes.js"
import { encodeXattrs } from "./xattrs.js"

/** Free space of a disk whose size nobody gave: 1 GiB. */
const DEFAULT_FREE_BLOCKS = 2 ** 30 / BLOCK_SIZE
/** Extents that copies of the superblock divide, at most. */
const DIVIDED = 64

/**
 * Decides how big a disk is and how it is divided.
 *
 * @param size - bytes; without one the files and a gigabyte have room
 * @throws ImageError `limit` for a size that is none or in which the files have no room; `store-corrupt`, `entry-xattr`
 */
export function planDisk(metadata: ErofsMetadata, nodes: readonly Ext4Node[], size?: number): Geometry {
  if (
    size !== undefined &&
    !(Number.isSafeInteger(size) && size >= BLOCK_SIZE && size / BLOCK_SIZE <= MAX_BLOCKS)
  )
    throw new ImageError("limit", `no disk has ${size} bytes`, { size })
  const content = {
    inodes: FIRST_INODE + nodes.length,
    blocks: DIVIDED + nodes.reduce((sum, node) => sum + nodeBlocks(metadata, node), 0),
  }
  const diskBlocks =
    size === undefined ? roomyDisk(withJournal(content), DEFAULT_FREE_BLOCKS) : Math.floor(size / BLOCK_SIZE)
  const geometry = divide(diskBlocks, content.inodes)
  const needed = content.blocks + journalBlocks(diskBlocks)
  if (geometry && needed + overheadBlocks(geometry) <= geometry.blocks) return geometry
  const enough = roomyDisk(withJournal(content), 0) * BLOCK_SIZE
  const message = `the image does not fit on a disk of ${size} bytes: ${enough} are enough`
  throw new ImageError("limit", message, { size: size ?? 0, enough })
}

/** The journal's size depends on the disk's, which is at least as large as the files. */
function withJournal({ inodes, blocks }: Content): Content {
  return { inodes, blocks: blocks + journalBlocks(blocks + DEFAULT_FREE_BLOCKS + BLOCKS_PER_GROUP) }
}

/** Blocks that a file takes, at most. */
function nodeBlocks(metadata: ErofsMetadata, { file, children }: Ext4Node): number {
  const attributes = encodeXattrs(file.xattrs).block ? 1 : 0
  if (children) {
    const names = [...children.keys()].reduce((sum, name) => sum + direntSize(name.length), 2 * direntSize(2))
    return attributes + directoryBlocks(names)
  }
  if (file.kind === "symlink") return attributes + (file.size >= I_BLOCK_SIZE ? 1 : 0)
  return file.kind === "file" ? attributes + fileBlocks(metadata, file) : attributes
}

function fileBlocks(metadata: ErofsMetadata, file: Ext4Node["file"]): number {
  const runs = contentRuns(metadata, file)
  const blocks = runs.reduce((sum, { size }) => sum + Math.ceil(size / BLOCK_SIZE), 0)
  return blocks + extentBlocks(runs.length + Math.ceil(blocks / BLOCKS_PER_GROUP))
}
