import { addon, type NativeReservation } from "./addon.js"

/** What {@link Reservation.map} maps, and where. */
export interface ReservationMapOptions {
  /** Where in the reservation, bytes, whole pages. */
  readonly offset: number
  /** Bytes, whole pages. It may end beyond the file's end. */
  readonly size: number
  /** A regular file, but not on hugetlbfs, open for reading, and for writing when `writable`. Stays the caller's. */
  readonly fd: number
  /** Where in the file to start, bytes, whole pages. */
  readonly fileOffset: number
  /** Writes reach the file. False: there are none. */
  readonly writable: boolean
}

/**
 * Address space of this process that is kept for mappings of files, which come and go in it: what a KVM memory slot can
 * lie over for as long as a guest runs. Where no file is mapped, an access fails.
 *
 * This process has no way to look into it, so it makes no difference to it what others do with the files. Guests feel
 * it: an access to a page without a file ends their KVM_RUN with `EFAULT`; so does one beyond the file's end, or KVM tries
 * it again until it is there (asynchronous page faults), and a signal ends that.
 *
 * @see mmap(2), mremap(2)
 *
 * @example
 * ```ts
 * using window = new Reservation(256 * 2 ** 20)
 * const result = window.map({ offset: 0, size: 2 ** 21, fd, fileOffset: 0, writable: false })
 * if (result < 0) console.log(errnoName(result))
 * ```
 */
export class Reservation implements Disposable {
  readonly #native: NativeReservation
  /** Bytes. */
  readonly size: number
  /** Address of the first byte in this process, a multiple of 2 MiB: for a KVM memory slot. Stale once closed. */
  readonly hostAddress: bigint

  /**
   * @param size - bytes, whole pages, at most {@link MAX_MAPPING_SIZE}
   * @throws {@link SysError} `ENOMEM`
   * @throws RangeError for a size out of range
   */
  constructor(size: number) {
    this.#native = new addon.Reservation(size)
    this.size = size
    this.hostAddress = this.#native.hostAddress
  }

  /**
   * Maps a part of a file, shared, in place of what was there. When it fails, that is still there.
   *
   * @returns 0, or a negative errno: `EBADF`; `EINVAL` (no regular file, or on hugetlbfs); `EACCES` (the fd is not open
   *   for this); `ENOMEM`
   * @throws RangeError for a range that is not whole pages of the reservation, and so after {@link close}
   */
  map({ offset, size, fd, fileOffset, writable }: ReservationMapOptions): number {
    return this.#native.map(offset, size, fd, fileOffset, writable)
  }

  /**
   * Takes away what is mapped in a range.
   *
   * @param offset - in the reservation, bytes, whole pages
   * @param size - bytes, whole pages
   * @returns 0, or a negative errno: `ENOMEM` (the process has too many mappings)
   * @throws RangeError for a range that is not whole pages of the reservation, and so after {@link close}
   */
  clear(offset: number, size: number): number {
    return this.#native.clear(offset, size)
  }

  /** Gives the address space back: only once no memory slot lies over it. Idempotent. */
  close(): void {
    this.#native.close()
  }

  [Symbol.dispose](): void {
    this.close()
  }
}
