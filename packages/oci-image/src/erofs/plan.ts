import { sortedNames, type TreeNode } from "../layer/tree.js"
import { type ChunkMap, chunkMap, chunkMapSize } from "./chunks.js"
import {
  BLOCK_SIZE,
  EROFS_INODE_EXTENDED_SIZE,
  EROFS_SUPER_OFFSET,
  EROFS_SUPER_SIZE,
  NID_UNIT,
} from "./defs.js"
import { directorySize } from "./directory.js"
import type { Extent } from "./extents.js"
import { encodeXattrs } from "./xattrs.js"

/** Where one inode and its data will stand in the metadata part. */
export interface PlannedInode {
  readonly node: TreeNode
  /** The directory it is first found in; the root's is itself. */
  readonly parent: TreeNode
  /** Directories: sorted names, `.` and `..` among them. */
  readonly names: readonly string[] | undefined
  /** Bytes of content that the metadata part holds: entries of a directory, text of a symlink. */
  readonly size: number
  readonly xattrSize: number
  /** Files whose content is not in one piece: how the map behind the inode divides them. */
  readonly chunks: ChunkMap | undefined
  /** Other files: where their content begins among the blocks of all data parts. */
  readonly place: number
  /** Byte offset of the inode. */
  at: number
  nlink: number
  /** Whether the last, partial block of the content stands right behind the inode. */
  inline: boolean
  /** First block of the content that does not stand behind the inode. */
  block: number
}

/** The layout of a metadata part. */
export interface Plan {
  /** In order of their place; a node's `slot` is its index here. */
  readonly inodes: readonly PlannedInode[]
  /** First block behind the inodes, where content that is not inline begins. */
  readonly contentBlock: number
  /** Blocks of the whole metadata part. */
  readonly blocks: number
}

/** Says where the content of a file stands, in the order of the file; holes are left out. */
export type Locate = (file: TreeNode) => readonly Extent[]

/**
 * Decides where everything goes. Inodes stand level by level, those of one directory side by side: what a path
 * walk or a listing needs is close together. Nodes' `slot` must be -1 before and is set.
 */
export function planMetadata(root: TreeNode, locate: Locate): Plan {
  const inodes = collect(root, locate)
  let at = EROFS_SUPER_OFFSET + EROFS_SUPER_SIZE
  for (const inode of inodes) at = place(inode, at)
  const contentBlock = Math.ceil(at / BLOCK_SIZE)
  let block = contentBlock
  for (const inode of inodes) {
    inode.block = block
    block += outOfLineBlocks(inode)
  }
  return { inodes, contentBlock, blocks: block }
}

/** Blocks of an inode's content that do not stand behind it. */
export function outOfLineBlocks(inode: PlannedInode): number {
  return inode.inline ? Math.floor(inode.size / BLOCK_SIZE) : Math.ceil(inode.size / BLOCK_SIZE)
}

/** The number by which directories name an inode. */
export function nidOf(inode: PlannedInode): number {
  return inode.at / NID_UNIT
}

function collect(root: TreeNode, locate: Locate): PlannedInode[] {
  const inodes: PlannedInode[] = []
  add(inodes, root, root, locate)
  for (let i = 0; i < inodes.length; i++) {
    const directory = inodes[i] as PlannedInode
    for (const name of directory.names ?? []) {
      const child = directory.node.children?.get(name)
      if (!child) continue
      const known = inodes[child.slot]
      if (known) known.nlink++
      else add(inodes, child, directory.node, locate)
      if (child.kind === "directory") directory.nlink++
    }
  }
  return inodes
}

function add(inodes: PlannedInode[], node: TreeNode, parent: TreeNode, locate: Locate): void {
  node.slot = inodes.length
  const names = node.kind === "directory" ? [...sortedNames(node), ".", ".."].sort() : undefined
  inodes.push({
    node,
    parent,
    names,
    size: names ? directorySize(names) : node.kind === "symlink" ? node.target.length : 0,
    xattrSize: node.xattrs ? encodeXattrs(node.xattrs).length : 0,
    ...contentOf(node, locate),
    at: 0,
    nlink: names ? 2 : 1,
    inline: false,
    block: 0,
  })
}

function contentOf(node: TreeNode, locate: Locate): Pick<PlannedInode, "chunks" | "place"> {
  if (node.kind !== "file" || node.size === 0) return { chunks: undefined, place: 0 }
  const extents = locate(node)
  const [first] = extents
  const isWhole = extents.length === 1 && first?.count === Math.ceil(node.size / BLOCK_SIZE)
  return isWhole
    ? { chunks: undefined, place: first.block }
    : { chunks: chunkMap(node.size, extents), place: 0 }
}

/**
 * Places an inode at or after `at`: it does not cross a block border, nor does an inline tail, which the kernel
 * reads from one block. A chunk map may: its entries are read one by one.
 *
 * @returns the first free byte behind it
 */
function place(inode: PlannedInode, at: number): number {
  const tail = inode.size % BLOCK_SIZE
  const head = EROFS_INODE_EXTENDED_SIZE + inode.xattrSize
  inode.inline = tail > 0 && head + tail <= BLOCK_SIZE
  const together = inode.inline ? head + tail : EROFS_INODE_EXTENDED_SIZE
  const crosses = (at % BLOCK_SIZE) + together > BLOCK_SIZE
  inode.at = crosses ? Math.ceil(at / BLOCK_SIZE) * BLOCK_SIZE : at
  const end = inode.at + head + (inode.inline ? tail : 0) + chunkMapSize(inode.chunks)
  return Math.ceil(end / NID_UNIT) * NID_UNIT
}
