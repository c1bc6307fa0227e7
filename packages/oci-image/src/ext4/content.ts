import type { DiskContents } from "../erofs/disk-contents.js"
import type { ErofsFile, ErofsMetadata } from "../erofs/read.js"
import { ImageError } from "../errors.js"
import type { BlockRange } from "./block-allocator.js"
import type { BlockWriter } from "./block-writer.js"
import { BLOCK_SIZE, MAX_BLOCKS } from "./defs.js"

/** Content of a file that stands side by side in the image. */
export interface ContentRun {
  /** First block in the file. */
  readonly logical: number
  /** Byte of the image's disk. */
  readonly start: number
  size: number
}

/** What of a file is no hole, in order. @throws ImageError `store-corrupt`; `limit` for one that ext4 cannot have */
export function contentRuns(metadata: ErofsMetadata, file: ErofsFile): ContentRun[] {
  if (file.size > MAX_BLOCKS * BLOCK_SIZE)
    throw new ImageError("limit", `ext4 has no files of ${file.size} bytes`, { value: file.size })
  const runs: ContentRun[] = []
  let at = 0
  for (const { start, size } of file.size > 0 ? metadata.runs(file) : []) {
    const last = runs.at(-1)
    if (start !== undefined) {
      const follows = last && last.start + last.size === start && last.logical * BLOCK_SIZE + last.size === at
      if (follows) last.size += size
      else runs.push({ logical: at / BLOCK_SIZE, start, size })
    }
    at += size
  }
  return runs
}

/** Copies a run to blocks of the new disk; the last one is filled up with zeroes. */
export async function copyRun(
  contents: DiskContents,
  { start, size }: ContentRun,
  ranges: readonly BlockRange[],
  writer: BlockWriter,
): Promise<void> {
  let at = start
  for (const range of ranges) {
    let to = range.start * BLOCK_SIZE
    const end = Math.min(at + range.count * BLOCK_SIZE, start + size)
    for await (const bytes of contents.read(at, end - at)) {
      await writer.write(bytes, to)
      to += bytes.length
    }
    at = end
    const missing = -to & (BLOCK_SIZE - 1)
    if (missing > 0) await writer.write(Buffer.alloc(missing), to)
  }
}
