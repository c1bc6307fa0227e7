import { type FileHandle, open } from "node:fs/promises"
import { BLOCK_SIZE } from "../erofs/defs.js"
import type { PartBlocks } from "../erofs/extents.js"
import { ioError } from "../errors.js"
import type { EqualChunk } from "../layer/equal-contents.js"

/** Blocks that are compared at once: 1 MiB. */
const RUN_MAX = 256

/** Chunks one behind the other, in both places. */
interface Run {
  readonly chunks: EqualChunk[]
  readonly block: number
  readonly lower: number
  count: number
}

/**
 * Compares chunks with those of lower parts that may be equal, byte by byte.
 *
 * @param paths - files of the data parts
 * @returns those that are equal
 * @throws ImageError `io`
 */
export async function* proveEqual(
  chunks: Iterable<EqualChunk>,
  paths: readonly string[],
  parts: PartBlocks,
): AsyncGenerator<EqualChunk> {
  await using files = new PartFiles(paths, parts)
  for (const run of runsOf(chunks, parts)) {
    const [own, lower] = await Promise.all([
      files.read(0, run.block, run.count),
      files.read(1, run.lower, run.count),
    ])
    for (const chunk of run.chunks) {
      const from = (chunk.block - run.block) * BLOCK_SIZE
      const to = from + chunk.count * BLOCK_SIZE
      if (own.length >= to && own.subarray(from, to).equals(lower.subarray(from, to))) yield chunk
    }
  }
}

/** Few large reads take less time than many small ones. */
function* runsOf(chunks: Iterable<EqualChunk>, parts: PartBlocks): Generator<Run> {
  let run: Run | undefined
  for (const chunk of chunks) {
    if (run && goesOn(run, chunk, parts)) {
      run.chunks.push(chunk)
      run.count += chunk.count
      continue
    }
    if (run) yield run
    run = { ...chunk, chunks: [chunk] }
  }
  if (run) yield run
}

function goesOn({ block, lower, count }: Run, next: EqualChunk, parts: PartBlocks): boolean {
  const isBehind = block + count === next.block && lower + count === next.lower
  if (!isBehind || count + next.count > RUN_MAX) return false
  return parts.partAt(block) === parts.partAt(next.block) && parts.partAt(lower) === parts.partAt(next.lower)
}

class PartFiles implements AsyncDisposable {
  readonly #paths: readonly string[]
  readonly #parts: PartBlocks
  readonly #open = new Map<number, FileHandle>()
  readonly #buffers = [0, 1].map(() => Buffer.allocUnsafe(RUN_MAX * BLOCK_SIZE))

  constructor(paths: readonly string[], parts: PartBlocks) {
    this.#paths = paths
    this.#parts = parts
  }

  /** Blocks of one part, as many as there are; valid until the buffer is used again. */
  async read(buffer: 0 | 1, block: number, count: number): Promise<Buffer> {
    const part = this.#parts.partAt(block)
    const into = this.#buffers[buffer] as Buffer
    const at = (block - this.#parts.startOf(part)) * BLOCK_SIZE
    try {
      const file = await this.#file(part)
      const { bytesRead } = await file.read(into, 0, count * BLOCK_SIZE, at)
      return into.subarray(0, bytesRead)
    } catch (error) {
      throw ioError(error, "cannot compare the parts of an image")
    }
  }

  async #file(part: number): Promise<FileHandle> {
    const known = this.#open.get(part)
    if (known) return known
    const file = await open(this.#paths[part] as string)
    this.#open.set(part, file)
    return file
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const file of this.#open.values()) await file.close()
  }
}
