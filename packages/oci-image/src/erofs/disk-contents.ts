import { type FileHandle, open, readFile } from "node:fs/promises"
import { ImageError, ioError } from "../errors.js"
import type { LazyDiskPart } from "../lazy/lazy-image.js"
import { readRange } from "../sources/beneath.js"
import { BLOCK_SIZE } from "./defs.js"
import { ErofsMetadata } from "./read.js"

/** Content that may still have to arrive is waited for in pieces of this size. */
const STEP = 1024 * 1024

/** The files of an image's disk, all of which need not be there yet: `StoredImage` and `LazyImage` have one. */
export interface ReadableDisk {
  readonly parts: readonly LazyDiskPart[]
}

/** Reads an image's disk: its metadata, and the data parts behind it. */
export class DiskContents implements AsyncDisposable {
  readonly #metadata: LazyDiskPart
  readonly #parts: { readonly part: LazyDiskPart; readonly start: number; readonly end: number }[] = []
  readonly #open = new Map<string, FileHandle>()

  /** @throws ImageError `store-corrupt` for a disk without parts */
  constructor({ parts: [metadata, ...data] }: ReadableDisk) {
    if (!metadata) throw new ImageError("store-corrupt", "an image without a disk")
    this.#metadata = metadata
    let end = metadata.size
    for (const part of data) {
      this.#parts.push({ part, start: end, end: end + part.size })
      end += part.size
    }
  }

  /** What files there are. @throws ImageError `store-corrupt`, `io` */
  async metadata(): Promise<ErofsMetadata> {
    const bytes = await readFile(this.#metadata.path).catch(error => {
      throw ioError(error, "cannot read the image store")
    })
    return new ErofsMetadata(bytes)
  }

  /**
   * Bytes of the disk behind the metadata. What has not arrived yet is waited for.
   *
   * @throws ImageError `store-corrupt`, `io`, and what fetching throws
   */
  async *read(start: number, size: number): AsyncGenerator<Buffer> {
    for (let at = start; at < start + size; ) {
      const found = this.#parts.find(one => at >= one.start && at < one.end)
      if (!found)
        throw new ImageError("store-corrupt", "the content of a file lies outside of the image's disk")
      const file = await this.#file(found.part.path)
      const end = Math.min(start + size, found.end)
      for (; at < end; at += STEP)
        yield* readStep(file, found.part, at - found.start, Math.min(STEP, end - at))
      at = end
    }
  }

  async #file(path: string): Promise<FileHandle> {
    const known = this.#open.get(path)
    if (known) return known
    const file = await open(path).catch(error => {
      throw ioError(error, "cannot read the image store")
    })
    this.#open.set(path, file)
    return file
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const file of this.#open.values()) await file.close()
  }
}

async function* readStep(
  file: FileHandle,
  part: LazyDiskPart,
  at: number,
  size: number,
): AsyncGenerator<Buffer> {
  // What has not arrived reads as zeros, which nobody must take for the content.
  await part.prepare?.(at, size + (-size & (BLOCK_SIZE - 1)))
  let left = size
  for await (const bytes of readRange(file, at, at + size)) {
    left -= bytes.length
    yield bytes
  }
  if (left > 0) throw new ImageError("store-corrupt", "a data part of the image is too short")
}
