import type { PartBlocks } from "../erofs/extents.js"
import { CONTENT_CHUNK, type Content, type Contents, eachContent } from "./contents.js"
import type { TreeNode } from "./tree.js"

/** A chunk that may be equal to one of a lower part. Blocks count over all parts, one after the other. */
export interface EqualChunk {
  readonly block: number
  readonly count: number
  /** Where the lower one begins. */
  readonly lower: number
}

/**
 * Finds the chunks of an image's files that, by their hashes, stand in the part of a lower layer too. Of several equal
 * ones the lowest is meant: it is the one that most images have.
 *
 * @param root - the image's tree
 * @param parts - contents of the data parts, lowest first
 * @returns in the order of their blocks
 */
export function* findEqualChunks(
  root: TreeNode,
  parts: readonly Contents[],
  blocks: PartBlocks,
): Generator<EqualChunk> {
  if (parts.length < 2) return
  const wanted = startsOf(root, blocks)
  const lower = new Map<number, number>()
  for (const [part, contents] of parts.entries()) {
    const start = blocks.startOf(part)
    if (part > 0) yield* equalIn(contents, start, wanted, lower)
    if (part === parts.length - 1) return
    for (const content of eachContent(contents))
      for (const { key, block } of chunksOf(content, start)) if (!lower.has(key)) lower.set(key, block)
  }
}

function* equalIn(
  contents: Contents,
  start: number,
  wanted: ReadonlySet<number>,
  lower: ReadonlyMap<number, number>,
): Generator<EqualChunk> {
  for (const content of eachContent(contents)) {
    if (!wanted.has(start + content.block)) continue
    for (const { key, block, count } of chunksOf(content, start)) {
      const found = lower.get(key)
      if (found !== undefined) yield { block, count, lower: found }
    }
  }
}

/** First blocks of the contents that the image shows. */
function startsOf(root: TreeNode, blocks: PartBlocks): Set<number> {
  const starts = new Set<number>()
  const walk = (directory: TreeNode) => {
    for (const node of directory.children?.values() ?? []) {
      if (node.kind === "directory") walk(node)
      else if (isPlain(node)) starts.add(blocks.startOf(node.part) + node.block)
    }
  }
  walk(root)
  return starts
}

/** Whether a file's content stands in its part as it is in the file. */
export function isPlain(node: TreeNode): boolean {
  return node.kind === "file" && node.size > 0 && node.runs === undefined
}

/** A hash and a number of blocks, as one number. */
function* chunksOf({ block, blocks, hashes }: Content, start: number) {
  for (const [i, hash] of hashes.entries()) {
    const count = Math.min(CONTENT_CHUNK, blocks - i * CONTENT_CHUNK)
    yield { key: hash + count * 2 ** 32, block: start + block + i * CONTENT_CHUNK, count }
  }
}
