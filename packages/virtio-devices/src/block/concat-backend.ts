import { type BlockBackend, type ExtentList, ZERO_EXTENT } from "./backend.js"
import { SECTOR_SIZE } from "./defs.js"
import { BlockError } from "./errors.js"
import { openFileBackend } from "./file-backend.js"

/** Most parts in one disk. A request that spans them all still fits one batch of native I/O. */
export const MAX_PARTS = 512

/** One piece of a concatenated disk. */
export interface ConcatPart {
  /** The piece: a path, opened for reading, or a backend that the disk then owns. */
  readonly source: string | BlockBackend
  /** Bytes it takes on the disk, a multiple of 512. A shorter source is followed by zeroes, a longer one cut. */
  readonly size: number
}

/**
 * One read-only disk from several, one after the other: a container image is its metadata part and the data
 * parts of its layers, and a layer's file is shared by every image that has it.
 *
 * @param parts 1 to {@link MAX_PARTS}; on an error everything opened is closed, backends handed in included
 * @throws BlockError `part`, `open`, `not-a-disk`, `locked`
 *
 * @example
 * ```ts
 * const image = concatBackend([
 *   { source: "meta.erofs", size: 1 << 20 },
 *   { source: "layer0.data", size: 64 << 20 },
 * ])
 * ```
 */
export function concatBackend(parts: readonly ConcatPart[]): BlockBackend {
  const opened: BlockBackend[] = []
  try {
    if (parts.length === 0 || parts.length > MAX_PARTS) {
      throw new BlockError("part", `disk of ${parts.length} parts`, { value: parts.length })
    }
    for (const { source } of parts) {
      opened.push(typeof source === "string" ? openFileBackend(source, { readOnly: true }) : source)
    }
    for (const [i, { direct }] of opened.entries())
      if (direct) throw new BlockError("part", `part ${i} does without the page cache`, { value: i })
    parts.forEach(({ size }, i) => {
      if (!Number.isSafeInteger(size) || size <= 0 || size % SECTOR_SIZE !== 0) {
        throw new BlockError("part", `part ${i} of ${size} bytes is not a whole number of sectors`, {
          value: i,
        })
      }
    })
    return new ConcatBackend(
      opened,
      parts.map(part => part.size),
    )
  } catch (error) {
    for (const backend of opened) backend.close()
    for (const { source } of parts) if (typeof source !== "string") source.close()
    throw error
  }
}

class ConcatBackend implements BlockBackend {
  readonly size: number
  readonly readOnly = true
  readonly discard = false
  readonly flushFds: readonly number[] = []
  readonly inMemory: boolean
  readonly #parts: readonly BlockBackend[]
  readonly #prepares: boolean
  /** Where each part starts, and the end of the disk. */
  readonly #starts: readonly number[]

  constructor(parts: readonly BlockBackend[], sizes: readonly number[]) {
    const starts = [0]
    for (const size of sizes) starts.push(starts.at(-1)! + size)
    this.#parts = parts
    this.#starts = starts
    this.size = starts.at(-1)!
    this.inMemory = parts.every(part => part.inMemory)
    this.#prepares = parts.some(part => part.prepare !== undefined)
    if (!Number.isSafeInteger(this.size)) throw new BlockError("part", "disk is larger than 2^53 bytes")
  }

  locate(offset: number, length: number, into: ExtentList): void {
    let at = offset
    const end = offset + length
    for (let part = this.#partAt(offset); at < end; part++) {
      const start = this.#starts[part]!
      const stop = Math.min(end, this.#starts[part + 1]!)
      const backend = this.#parts[part]!
      const data = Math.min(stop, Math.max(at, start + backend.size))
      if (data > at) backend.locate(at - start, data - at, into)
      if (stop > data) into.add(ZERO_EXTENT, 0, stop - data)
      at = stop
    }
  }

  /** Waits for all parts that a range has something of. */
  prepare(offset: number, length: number): Promise<void> | undefined {
    if (!this.#prepares) return undefined
    const waits: Promise<void>[] = []
    const end = offset + length
    for (let part = this.#partAt(offset), at = offset; at < end; part++) {
      const start = this.#starts[part]!
      const stop = Math.min(end, this.#starts[part + 1]!)
      const wait = this.#parts[part]!.prepare?.(at - start, stop - at, "read")
      if (wait) waits.push(wait)
      at = stop
    }
    return waits.length > 0 ? Promise.all(waits).then(() => undefined) : undefined
  }

  close(): void {
    for (const part of this.#parts) part.close()
  }

  #partAt(offset: number): number {
    let low = 0
    let high = this.#parts.length - 1
    while (low < high) {
      const middle = (low + high + 1) >>> 1
      if (this.#starts[middle]! <= offset) low = middle
      else high = middle - 1
    }
    return low
  }
}
