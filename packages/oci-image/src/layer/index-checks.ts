import { BLOCK_SIZE } from "../erofs/defs.js"
import { ImageError } from "../errors.js"
import { isUsableXattr, MAJOR_MAX, MINOR_MAX, SYMLINK_MAX } from "./layer-tree.js"
import { NAME_MAX } from "./names.js"
import type { TreeNode } from "./tree.js"

/** Components of the longest path that Linux takes: no tree is deeper. */
export const MAX_DEPTH = 2048
const MAX_ID = 0xfffffffe
const MAX_XATTR_BYTES = 0xffff

/** Refuses what is no file name. @throws ImageError `index-corrupt` */
export function checkName(name: string): void {
  if (name === "" || name === "." || name === ".." || name.length > NAME_MAX || /[/\0]/.test(name))
    throw corrupt("wrong name")
}

/**
 * Refuses a record that no layer gives.
 *
 * @param blocks - 4 KiB blocks of the data part
 * @throws ImageError `index-corrupt`
 */
export function checkNode(node: TreeNode, blocks: number): void {
  if (node.mode > 0o7777 || node.uid > MAX_ID || node.gid > MAX_ID) throw corrupt("wrong mode or owner")
  if (!Number.isSafeInteger(node.mtime) || node.mtimeNsec >= 1e9) throw corrupt("wrong time")
  for (const [name, value] of node.xattrs ?? [])
    if (!isUsableXattr(name) || name.includes("\0") || value.length > MAX_XATTR_BYTES)
      throw corrupt("wrong attribute")
  for (const name of node.whiteouts ?? []) checkName(name)
  switch (node.kind) {
    case "file":
      checkContent(node, blocks)
      break
    case "symlink":
      if (node.target === "" || node.target.length > SYMLINK_MAX || node.target.includes("\0"))
        throw corrupt("wrong symlink")
      break
    case "link":
      for (const name of node.target.split("/")) checkName(name)
      break
    case "char":
    case "block":
      if (node.major > MAJOR_MAX || node.minor > MINOR_MAX) throw corrupt("wrong device number")
  }
}

function checkContent({ size, block, runs }: TreeNode, blocks: number): void {
  if (!Number.isSafeInteger(size) || size < 0) throw corrupt("wrong file size")
  const own = Math.ceil(size / BLOCK_SIZE)
  const stored = runs ? countRuns(runs, own) : own
  if (stored > 0 && block + stored > blocks) throw corrupt("file outside the data part")
}

/** Blocks of all runs, which are sorted, apart from each other, and inside the file. */
function countRuns(runs: readonly number[], blocks: number): number {
  let end = 0
  let stored = 0
  for (let i = 0; i < runs.length; i += 2) {
    const start = runs[i] as number
    const count = runs[i + 1] ?? 0
    if (count === 0 || start < end) throw corrupt("wrong runs")
    end = start + count
    stored += count
  }
  if (end > blocks) throw corrupt("runs outside the file")
  return stored
}

/** @returns the error that says what is wrong with an index */
export function corrupt(why: string): ImageError {
  return new ImageError("index-corrupt", `stored layer index is damaged: ${why}`)
}
