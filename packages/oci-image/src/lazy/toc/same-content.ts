import type { FileHandle } from "node:fs/promises"
import { BLOCK_SIZE } from "../../erofs/defs.js"
import type { TreeNode } from "../../layer/tree.js"
import { readRange } from "../../sources/beneath.js"
import type { FilePair } from "./same-tree.js"

const CHUNK = 256 * 1024
const ZEROS = Buffer.alloc(CHUNK)

/**
 * Compares the contents of files in two data parts.
 *
 * @param told - the part with the files of a table of contents
 * @param actual - the part of the layer itself
 * @returns the path of the first file that differs
 */
export async function differingContent(
  files: Iterable<FilePair>,
  told: FileHandle,
  actual: FileHandle,
): Promise<string | undefined> {
  for (const pair of files) if (!(await sameFile(pair, told, actual))) return pair.path
  return undefined
}

async function sameFile(pair: FilePair, told: FileHandle, actual: FileHandle): Promise<boolean> {
  const base = pair.told.block * BLOCK_SIZE
  for (const { at, size, position } of segmentsOf(pair.actual)) {
    for (let done = 0; done < size; done += CHUNK) {
      const length = Math.min(CHUNK, size - done)
      const bytes = await readAt(told, base + at + done, length)
      const expected =
        position === undefined ? ZEROS.subarray(0, length) : await readAt(actual, position + done, length)
      if (!bytes.equals(expected)) return false
    }
  }
  return true
}

/** A piece of a file, and where it stands in the data part; of a hole nowhere. */
interface Segment {
  readonly at: number
  readonly size: number
  readonly position: number | undefined
}

function* segmentsOf({ block, size, runs }: TreeNode): Generator<Segment> {
  const position = block * BLOCK_SIZE
  if (!runs) {
    yield { at: 0, size, position }
    return
  }
  let [done, stored] = [0, 0]
  for (let i = 0; i < runs.length; i += 2) {
    const at = (runs[i] as number) * BLOCK_SIZE
    const end = Math.min(size, at + (runs[i + 1] as number) * BLOCK_SIZE)
    yield { at: done, size: at - done, position: undefined }
    yield { at, size: end - at, position: position + stored }
    stored += end - at
    done = end
  }
  yield { at: done, size: size - done, position: undefined }
}

async function readAt(file: FileHandle, position: number, length: number): Promise<Buffer> {
  const pieces: Buffer[] = []
  for await (const piece of readRange(file, position, position + length)) pieces.push(piece)
  return pieces.length === 1 ? (pieces[0] as Buffer) : Buffer.concat(pieces)
}
