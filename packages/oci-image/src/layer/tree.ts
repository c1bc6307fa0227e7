import type { PaxTime } from "./pax.js"

/** What a node is. `link` is a hard link to a file of a lower layer, not yet resolved. */
export type NodeKind = "directory" | "file" | "symlink" | "char" | "block" | "fifo" | "link"

const ROOT_OWNED_DIRECTORY = 0o755

/**
 * A file of a layer or of an image; two names of one file (hard links) are two map entries to one node.
 * Names are bytes (latin1 text). One class for every kind, so that code over a million of them stays fast.
 */
export class TreeNode {
  kind: NodeKind
  /** 12 permission bits. */
  mode = ROOT_OWNED_DIRECTORY
  uid = 0
  gid = 0
  /** Seconds since the epoch. */
  mtime = 0
  mtimeNsec = 0
  xattrs: ReadonlyMap<string, Buffer> | undefined = undefined
  /** Directories: what is in them. */
  readonly children: Map<string, TreeNode> | undefined
  /** Directories of a layer: names of lower layers that disappear. */
  whiteouts: Set<string> | undefined = undefined
  /** Directories of a layer: everything of lower layers disappears. */
  opaque = false
  /** Directories of a layer: only there because something is below; a lower one keeps its owner and mode. */
  implicit = false
  /** Files: bytes. */
  size = 0
  /** Files: first 4 KiB block inside the data part. */
  block = 0
  /**
   * Sparse files: first block in the file and number of blocks of each run that has content, sorted, pair after
   * pair. The runs' content stands from `block` on without gaps; all else is zero.
   */
  runs: readonly number[] | undefined = undefined
  /** Files: which data part. */
  part = -1
  /** Symlinks: the text. Links: the path of the file that is meant. */
  target = ""
  /** Device nodes. */
  major = 0
  minor = 0
  /** Scratch number of whoever walks the tree; -1 when unused. */
  slot = -1

  constructor(kind: NodeKind) {
    this.kind = kind
    this.children = kind === "directory" ? new Map() : undefined
  }

  setTime(time: PaxTime): void {
    this.mtime = time.seconds
    this.mtimeNsec = time.nanoseconds
  }

  /** Takes over owner, mode, time and attributes. */
  copyMetadata(from: TreeNode): void {
    this.mode = from.mode
    this.uid = from.uid
    this.gid = from.gid
    this.mtime = from.mtime
    this.mtimeNsec = from.mtimeNsec
    this.xattrs = from.xattrs
  }
}

/** A directory that no entry described yet. */
export function implicitDirectory(): TreeNode {
  const node = new TreeNode("directory")
  node.implicit = true
  return node
}

/** The names in a directory in byte order: what makes every output reproducible. */
export function sortedNames(directory: TreeNode): string[] {
  return [...(directory.children as Map<string, TreeNode>).keys()].sort()
}

/** Finds a node by path without following anything; undefined when it is not there. */
export function findNode(root: TreeNode, components: readonly string[]): TreeNode | undefined {
  let node: TreeNode | undefined = root
  for (const name of components) node = node?.children?.get(name)
  return node
}
