import { Reservation } from "@ts-vmm/native"
import type { GuestAddress } from "@ts-vmm/vm-memory"
import type { DeviceMemory, SharedMemoryRegion } from "../device-memory.js"

/** `VIRTIO_FS_SHMCAP_ID_CACHE` of linux/virtio_fs.h; virtio 1.3, section 5.11.6.2. */
const CACHE_REGION = 0
/** log2 of {@link RANGE_SIZE}: `map_alignment` of struct fuse_init_out. */
export const MAP_ALIGNMENT = 21
/**
 * What is mapped is whole ranges of this many bytes, the size that Linux asks for (`FUSE_DAX_SZ` of fs/fuse/dax.c). So a
 * guest cannot cut the window into more mappings than it has ranges: Linux gives a process 65,530 in all.
 */
const RANGE_SIZE = 2 ** MAP_ALIGNMENT
/** 2,048 ranges: a machine's file systems together have fewer than half of what the process may have. */
const MAX_WINDOW_SIZE = 2 ** 32
/** For a range in which nothing is mapped; no node has this id. */
const NOBODY = 0

/** A part of the window, bytes. */
export interface WindowPart {
  readonly offset: number
  readonly size: number
}

/** What is mapped there. */
export interface FilePart {
  /** Node id of the file. */
  readonly node: number
  readonly fd: number
  /** Bytes. */
  readonly fileOffset: number
  readonly writable: boolean
}

/**
 * Guest address space in which the guest finds pages of files: those of the host's page cache, without a copy.
 *
 * Each range is empty or belongs to one file, until the guest removes or forgets it. Nothing here looks at what is
 * mapped, and buffers of devices cannot lie in it, so a file that shrinks is its guests' trouble alone.
 *
 * @see virtio 1.3, section 5.11.6.2
 */
export class DaxWindow {
  /** For whoever runs the guest to place. */
  readonly memory: DeviceMemory
  readonly #reservation: Reservation
  /** Node ids, by range. */
  readonly #nodes: Float64Array
  #start: GuestAddress | undefined
  #isEmpty = true

  /** @throws RangeError for a size that is no power of two from 2 MiB to 4 GiB; SysError `ENOMEM` */
  constructor(size: number, readOnly: boolean) {
    const isPower = Number.isInteger(Math.log2(size))
    if (!(isPower && size >= RANGE_SIZE && size <= MAX_WINDOW_SIZE))
      throw new RangeError("dax.size must be a power of two from 2 MiB to 4 GiB")
    this.#reservation = new Reservation(size)
    this.#nodes = new Float64Array(size / RANGE_SIZE)
    const { hostAddress } = this.#reservation
    this.memory = {
      size,
      alignment: RANGE_SIZE,
      parts: [{ hostAddress, size, readOnly }],
      placedAt: start => {
        this.#start = start
      },
    }
  }

  /** What the registers tell the driver; empty until somebody placed it. */
  get regions(): readonly SharedMemoryRegion[] {
    if (this.#start === undefined) return []
    return [{ id: CACHE_REGION, base: this.#start, length: this.memory.size }]
  }

  /** Ranges that have a file. */
  get mapped(): number {
    return this.#nodes.filter(node => node !== NOBODY).length
  }

  /** Whether a part is whole ranges of the window, at least one. */
  has({ offset, size }: WindowPart): boolean {
    return size > 0 && isRanges(size) && isRanges(offset) && offset + size <= this.memory.size
  }

  /**
   * Maps a part of a file in place of what was there. When it fails, that is still there.
   *
   * @param part - one that the window {@link has}
   * @returns 0 or a negative errno
   */
  map(part: WindowPart, { node, fd, fileOffset, writable }: FilePart): number {
    const result = this.#reservation.map({ ...part, fd, fileOffset, writable })
    if (result === 0) this.#note(part, node)
    return result
  }

  /** Takes away what is mapped in a part that the window {@link has}. @returns 0 or a negative errno */
  remove(part: WindowPart): number {
    const result = this.#reservation.clear(part.offset, part.size)
    if (result === 0) this.#note(part, NOBODY)
    return result
  }

  /** Takes a file away. What the kernel has no memory to take away goes with the next {@link clear}. */
  forget(node: number): void {
    if (this.#isEmpty) return
    for (let range = this.#nodes.indexOf(node); range >= 0; range = this.#nodes.indexOf(node, range + 1))
      this.remove({ offset: range * RANGE_SIZE, size: RANGE_SIZE })
  }

  /** Takes all files away. */
  clear(): void {
    if (this.#isEmpty) return
    this.#isEmpty = this.remove({ offset: 0, size: this.memory.size }) === 0
  }

  /** Gives the address space back: only once no guest has it. */
  close(): void {
    this.#reservation.close()
  }

  #note({ offset, size }: WindowPart, node: number): void {
    this.#nodes.fill(node, offset / RANGE_SIZE, (offset + size) / RANGE_SIZE)
    if (node !== NOBODY) this.#isEmpty = false
  }
}

/** Whether a number of bytes, or a position in a file, is whole ranges. */
export function isRanges(bytes: number): boolean {
  return Number.isSafeInteger(bytes) && bytes % RANGE_SIZE === 0
}
