import type { ErofsFile, ErofsMetadata } from "../erofs/read.js"
import { ImageError } from "../errors.js"
import { FIRST_INODE, LINK_MAX, ROOT_INODE } from "./defs.js"

/** A file on its way to the disk. */
export interface Ext4Node {
  readonly file: ErofsFile
  readonly inode: number
  /** The directory it was found in; the root's is itself. */
  readonly parent: number
  /** Directories: what is in them. */
  readonly children: Map<string, Ext4Node> | undefined
  links: number
}

/** Where e2fsck puts what it finds without a name; it misses the folder. */
const LOST_AND_FOUND = "lost+found"
/** No file has it. */
const NO_NID = -1

/**
 * Numbers an image's files, level by level, those of one directory side by side.
 *
 * @returns in the order of their inodes
 * @throws ImageError `store-corrupt`; `limit` for more names of a file than ext4 has
 */
export function collectNodes(metadata: ErofsMetadata): Ext4Node[] {
  const root = newNode(metadata.root, ROOT_INODE, ROOT_INODE)
  const nodes = [root]
  const known = new Map([[metadata.root.nid, root]])
  const add = (parent: Ext4Node, name: string, file: ErofsFile) => {
    const node = known.get(file.nid) ?? newNode(file, FIRST_INODE + nodes.length - 1, parent.inode)
    if (node.links === 0) nodes.push(node)
    else if (node.children) throw new ImageError("store-corrupt", "a directory of an image is in two places")
    if (file.nid !== NO_NID) known.set(file.nid, node)
    countLink(parent, node)
    parent.children?.set(name, node)
  }
  for (let i = 0; i < nodes.length; i++) {
    const node = nodes[i] as Ext4Node
    if (!node.children || node.file.nid === NO_NID) continue
    for (const [name, file] of metadata.entries(node.file)) add(node, name, file)
    if (node === root && !root.children?.has(LOST_AND_FOUND))
      add(root, LOST_AND_FOUND, lostAndFound(root.file))
  }
  return nodes
}

function newNode(file: ErofsFile, inode: number, parent: number): Ext4Node {
  const isRoot = inode === ROOT_INODE
  return {
    file,
    inode,
    parent,
    links: isRoot ? 2 : 0,
    children: file.kind === "directory" ? new Map() : undefined,
  }
}

/** A directory has a name, `.`, and the `..` of each directory in it. */
function countLink(parent: Ext4Node, node: Ext4Node): void {
  if (node.children) {
    node.links = 2
    parent.links++
  } else if (++node.links > LINK_MAX) {
    const message = `ext4 has at most ${LINK_MAX} names of one file`
    throw new ImageError("limit", message, { limit: LINK_MAX, value: node.links })
  }
}

function lostAndFound({ mtime }: ErofsFile): ErofsFile {
  const [kind, mode] = ["directory", 0o700] as const
  return {
    ...{ nid: NO_NID, kind, mode, mtime, nlink: 2 },
    ...{ uid: 0, gid: 0, size: 0, major: 0, minor: 0, xattrs: undefined },
  }
}
