import type { RawFile } from "./raw-file.js"

/** Pseudo fd of an extent that holds no data and reads as zeroes. */
export const ZERO_EXTENT = -1

/**
 * Where a piece of a disk lies: one row per run of bytes in one file. Used again for every request, so
 * that locating costs no allocation.
 */
export class ExtentList {
  /** Number of rows in use. */
  count = 0
  /** File descriptor of each row, or {@link ZERO_EXTENT}. */
  readonly fds: number[] = []
  /** Position in that file, bytes. */
  readonly offsets: number[] = []
  /** Bytes. */
  readonly lengths: number[] = []

  clear(): void {
    this.count = 0
  }

  /** Appends a run, or makes the last one longer where this one goes on from it. */
  add(fd: number, offset: number, length: number): void {
    const last = this.count - 1
    if (last >= 0 && this.fds[last] === fd && this.#goesOn(last, offset)) {
      this.lengths[last] = this.lengths[last]! + length
      return
    }
    const row = this.count++
    this.fds[row] = fd
    this.offsets[row] = offset
    this.lengths[row] = length
  }

  #goesOn(row: number, offset: number): boolean {
    return this.fds[row] === ZERO_EXTENT || this.offsets[row]! + this.lengths[row]! === offset
  }
}

/** Why a range is erased: all of it has to read as zeroes, or nobody needs it any more. */
export type EraseKind = "write-zeroes" | "discard"

/** What is to be done with a range. */
export type BlockAccess = "read" | "write"

/** How a disk is read and written past the host's page cache. */
export interface DirectAccess {
  /** The fd with `O_DIRECT`. Its I/O always waits for the disk. */
  readonly fd: number
  /** What positions, lengths and addresses in memory have to be multiples of. */
  readonly alignment: number
  /** An fd of the same file for what is not aligned. */
  readonly cachedFd: number
}

/**
 * What a block device stands on: it says where bytes lie, and the device moves them between there and guest
 * memory natively, many requests per call. A backend does no I/O of its own and never looks into the data.
 */
export interface BlockBackend {
  /** Bytes. The device offers `floor(size / 512)` sectors. */
  readonly size: number
  /** No write gets past the device, nor, because its fds are opened for reading only, past the kernel. */
  readonly readOnly: boolean
  /** All of it is memory (tmpfs, memfd): I/O never waits for a disk and is done at once. */
  readonly inMemory: boolean
  /** Ranges can be given back to the host; DISCARD and WRITE_ZEROES are offered. */
  readonly discard: boolean
  /** What a discard should be aligned to for room to be given back, bytes; 4096 where it is not said. */
  readonly discardAlignment?: number
  /**
   * Only for a disk that is one file from its start to its end and nothing else, so that any number of threads can serve
   * it at a time: what each of them needs for that. Formats with tables of their own have none.
   */
  readonly shareable?: RawFile
  /** Only for a disk that does without the host's page cache. */
  readonly direct?: DirectAccess
  /** Fds that a flush has to reach. */
  readonly flushFds: readonly number[]
  /**
   * Appends where `[offset, offset + length)` lies, in order, to `into`; the lengths add up to `length`. The
   * range was checked to be inside `size`.
   */
  locate(offset: number, length: number, into: ExtentList): void
  /**
   * Sees to it that a range can be located for reading or writing, where that takes more than the disk: content that
   * comes over a network, room that has to be found. Requests for the range wait for it; undefined when there is nothing
   * to wait for. It is asked again by each request, and {@link BlockBackend.locate} right after it.
   *
   * @returns rejected when the range cannot be had: the request ends in an I/O error
   */
  prepare?(offset: number, length: number, access: BlockAccess): Promise<void> | undefined
  /** Makes durable what was written so far, where that takes more than syncing {@link BlockBackend.flushFds}. */
  flush?(): Promise<void>
  /**
   * Makes a range read as zeroes, where that takes more than punching holes where it lies; the range was checked to be
   * inside `size`. What a discard leaves of clusters that it covers in part is up to the backend.
   */
  erase?(offset: number, length: number, kind: EraseKind): Promise<void>
  /** Looks at the size again, after the image was grown or shrunk. */
  refresh?(): void
  /** Closes every fd and gives up the lock. I/O in flight ends first, on duplicates. Idempotent. */
  close(): void
}
