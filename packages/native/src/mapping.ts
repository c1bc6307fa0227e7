import { constants } from "node:os"
import { addon, type NativeMapping } from "./addon.js"
import { SysError } from "./errors.js"
import { IO_PUNCH_HOLE, IoBatch } from "./io.js"

/** Largest mapping: the largest `ArrayBuffer` of Node 20. */
export const MAX_MAPPING_SIZE = 2 ** 32
/** Of linux/fcntl.h. */
const F_SEAL_SHRINK = 2
/** A hole is made of whole pages: the file zeroes the rest of a range and keeps it. */
const PAGE_SIZE = 4096
/** Of asm-generic/mman-common.h. */
const MADV_DONTNEED = 4
const MADV_HUGEPAGE = 14

/** What {@link Mapping.create} makes. */
export interface CreateMappingOptions {
  /** Name of the memfd as /proc shows it, at most 200 bytes; for humans only. */
  readonly name: string
  /** Bytes, 1 to {@link MAX_MAPPING_SIZE}. */
  readonly size: number
  /** Inaccessible pages (64 KiB) directly before and after the mapping. Default false. */
  readonly guard?: boolean
}

/** What {@link Mapping.createPrivate} makes. */
export type CreatePrivateMappingOptions = Omit<CreateMappingOptions, "name">

/** What {@link Mapping.map} maps. */
export interface MapOptions {
  /** A regular file (memfd, tmpfs, …), but not on hugetlbfs. Duplicated: the caller keeps, and closes, its own. */
  readonly fd: number
  /** Where in the file to start, a multiple of 4096. */
  readonly offset: number
  /** Bytes, 1 to {@link MAX_MAPPING_SIZE}. `offset + size` must not exceed the file's size. */
  readonly size: number
  /**
   * Default true: writes reach the file. False: writes land in a private copy of the page and never in the
   * file (an `ArrayBuffer` cannot be read-only, and a write into read-only pages would kill the process).
   */
  readonly writable?: boolean
  /** As in {@link CreateMappingOptions}. */
  readonly guard?: boolean
  /**
   * Refuse a file that is not plain memory, before any call that its file system could make wait. For fds from a peer
   * that is not trusted. Default false.
   */
  readonly inMemory?: boolean
}

/** What {@link Mapping.mapDevice} maps. */
export interface MapDeviceOptions {
  /** A kernel object without a file behind it, or a character device. Duplicated, as in {@link MapOptions}. */
  readonly fd: number
  /** What to map, in bytes, as the device defines it; a multiple of 4096. */
  readonly offset: number
  /** Bytes, 1 to {@link MAX_MAPPING_SIZE}. A device has no size to compare it with: ask the device. */
  readonly size: number
}

/**
 * Memory shared between this process and whoever has the fd, visible as an `ArrayBuffer`.
 *
 * ```
 *   create/map ---> open --- close() ---> closed: buffer detached (length 0, reads give undefined), fd closed,
 *                    |                    memory unmapped once no asynchronous I/O uses it any more
 *                    '- collected by GC: the same, once neither the Mapping nor a view of it is reachable
 * ```
 *
 * - The buffer belongs to this isolate. A Worker maps the same memory again with
 *   `Mapping.map({ fd: mapping.fd, offset: 0, size })`: fd numbers are valid in every thread. Never put the
 *   buffer into `postMessage`: it would be copied in silence.
 * - Do not hand views to `fs.read`, `socket.write` and other asynchronous calls of Node: they keep only an
 *   address, and `close()` does not know of them. {@link IoBatch.runAsync} does it right.
 * - A peer that shrinks the file turns accesses beyond its new end into SIGBUS. That does not kill the
 *   process: from the faulting page to the end the mapping becomes private zero pages, and {@link faulted}
 *   is set from then on.
 *
 * At most 4096 mappings are open in one process at a time.
 *
 * @example
 * ```ts
 * using memory = Mapping.create({ name: "guest-ram", size: 128 * 2 ** 20, guard: true })
 * new Uint8Array(memory.buffer)[0] = 1
 * ```
 */
export class Mapping implements Disposable {
  readonly #native: NativeMapping
  readonly #discard: Discard
  /** Length in bytes. */
  readonly size: number
  /**
   * Address of the first byte in this process. Opaque: only ever passed back to the kernel (a KVM memory
   * slot). Stale once closed.
   */
  readonly hostAddress: bigint
  /** The file cannot shrink any more (`F_SEAL_SHRINK`), so {@link faulted} stays false. */
  readonly sealed: boolean
  /**
   * The file is plain memory: tmpfs or memfd. A page fault on any other file may wait for a disk, or
   * for a peer that serves the file through FUSE.
   */
  readonly inMemory: boolean
  /** All of the memory; detached (length 0) once closed. */
  readonly buffer: ArrayBuffer

  private constructor(native: NativeMapping, discard: Discard) {
    const isPrivate = native.fd === -1
    const seals = isPrivate ? F_SEAL_SHRINK : addon.getSeals(native.fd)
    this.#native = native
    this.#discard = discard
    this.size = native.size
    this.hostAddress = native.hostAddress
    this.sealed = seals >= 0 && (seals & F_SEAL_SHRINK) !== 0
    this.inMemory = seals >= 0
    this.buffer = native.buffer
  }

  /**
   * New zeroed memory: a memfd of exactly `size` bytes that is sealed against resizing by anybody.
   *
   * @throws {@link SysError} `ENOMEM`, `EMFILE`, …
   * @throws RangeError for a size outside 1 … {@link MAX_MAPPING_SIZE}
   * @see memfd_create(2), fcntl(2) F_ADD_SEALS
   */
  static create(options: CreateMappingOptions): Mapping {
    const { name, size, guard = false } = options
    return new Mapping(addon.createMapping(name, size, guard), holesFrom(0))
  }

  /**
   * New zeroed memory of this process alone: it has no file, so {@link fd} is -1 and no other process can map it, and
   * none that this one starts inherits it. Unlike a memfd it can have huge pages on every host ({@link preferHugePages}).
   *
   * @throws {@link SysError} `ENOMEM`
   * @throws RangeError for a size outside 1 … {@link MAX_MAPPING_SIZE}
   * @see mmap(2) MAP_ANONYMOUS, madvise(2) MADV_DONTFORK
   *
   * @example
   * ```ts
   * using memory = Mapping.createPrivate({ size: 128 * 2 ** 20, guard: true })
   * memory.preferHugePages(0, memory.size)
   * ```
   */
  static createPrivate(options: CreatePrivateMappingOptions): Mapping {
    const { size, guard = false } = options
    return new Mapping(addon.createPrivateMapping(size, guard), dropPages)
  }

  /**
   * Maps a part of a file that somebody else made.
   *
   * @throws {@link SysError} `EBADF`; `EACCES` (fd not opened for this); `EINVAL` (not a regular file,
   *   a file on hugetlbfs, or `inMemory` and it is not); `EOVERFLOW` (`offset + size` beyond the end of the file); `ENOMEM`
   * @throws RangeError for an unaligned offset or a size outside 1 … {@link MAX_MAPPING_SIZE}
   */
  static map(options: MapOptions): Mapping {
    const { fd, offset, size, writable = true, guard = false, inMemory = false } = options
    const native = addon.mapFile(fd, offset, size, writable, guard, inMemory)
    return new Mapping(native, writable ? holesFrom(offset) : cannotDiscard)
  }

  /**
   * Maps memory of the kernel, shared and writable: the `kvm_run` page of a vCPU and its rings.
   *
   * A `size` beyond what the device has is no error here. What lies there reads as zeroes, and {@link faulted} is set.
   *
   * @throws {@link SysError} `EBADF`; `EINVAL` (a file, pipe or socket); `ENODEV` (nothing to map); `ENOMEM`
   * @throws RangeError for an unaligned offset or a size outside 1 … {@link MAX_MAPPING_SIZE}
   * @see KVM_GET_VCPU_MMAP_SIZE in Documentation/virt/kvm/api.rst
   *
   * @example
   * ```ts
   * using run = Mapping.mapDevice({ fd: vcpuFd, offset: 0, size: ioctl(kvmFd, KVM_GET_VCPU_MMAP_SIZE) })
   * ```
   */
  static mapDevice(options: MapDeviceOptions): Mapping {
    const { fd, offset, size } = options
    return new Mapping(addon.mapDevice(fd, offset, size), cannotDiscard)
  }

  /** The mapping's own fd, close-on-exec; -1 once closed, and for memory without a file. */
  get fd(): number {
    return this.#native.fd
  }

  /** True after {@link close}. */
  get closed(): boolean {
    return this.#native.closed
  }

  /** True once an access hit pages that the file no longer has: contents from there on are zeroes of our own. */
  get faulted(): boolean {
    return this.#native.faulted
  }

  /** Number of {@link IoBatch.runAsync} calls under way that use the memory and keep it mapped. */
  get inFlight(): number {
    return this.#native.inFlight
  }

  /**
   * Gives pages back to the host, for everybody who maps the file: they read as zeroes from here on, and take memory
   * again when they are touched.
   *
   * @param offset - in the mapping, bytes, a multiple of 4096
   * @param size - bytes, a multiple of 4096
   * @throws RangeError for a range that is not whole pages of the mapping
   * @throws {@link SysError} `EBADF` (closed); `ENOTSUP` (memory of a device, a private mapping, or a file system without holes);
   *   `EPERM` (the file is sealed against writing)
   * @see fallocate(2) FALLOC_FL_PUNCH_HOLE, madvise(2) MADV_DONTNEED
   *
   * @example
   * ```ts
   * memory.discard(4096, 2 ** 20)   // a megabyte from the second page on
   * ```
   */
  discard(offset: number, size: number): void {
    this.#checkPages(offset, size)
    if (this.closed) throw new SysError(constants.errno.EBADF, "fallocate")
    if (size > 0) this.#discard(this.#native, offset, size)
  }

  /**
   * Asks the kernel to back a part with huge pages (2 MiB) as it is touched: fewer page faults for memory that will be
   * touched as a whole, more memory where it will not. Only advice: contents and size stay as they are.
   *
   * @param offset - in the mapping, bytes, a multiple of 4096
   * @param size - bytes, a multiple of 4096
   * @returns whether the kernel has them for memory of this kind
   * @throws RangeError for a range that is not whole pages of the mapping
   * @see madvise(2) MADV_HUGEPAGE
   *
   * @example
   * ```ts
   * const taken = memory.preferHugePages(0, 64 * 2 ** 20)
   * ```
   */
  preferHugePages(offset: number, size: number): boolean {
    this.#checkPages(offset, size)
    return this.#native.advise(offset, size, MADV_HUGEPAGE) === 0
  }

  #checkPages(offset: number, size: number): void {
    if (isPages(offset) && isPages(size) && offset + size <= this.size) return
    throw new RangeError(`not whole pages of the mapping: offset ${offset}, ${size} bytes`)
  }

  /** Detaches the buffer, closes the fd, and unmaps as soon as no asynchronous I/O uses the memory. Idempotent. */
  close(): void {
    this.#native.close()
  }

  [Symbol.dispose](): void {
    this.close()
  }
}

function isPages(bytes: number): boolean {
  return Number.isSafeInteger(bytes) && bytes >= 0 && bytes % PAGE_SIZE === 0
}

/** How memory of one kind is given back; the range is checked. */
type Discard = (native: NativeMapping, offset: number, size: number) => void

/** Memory of a file, from `start` of it on: a hole frees it for everybody. */
function holesFrom(start: number): Discard {
  let batch: IoBatch | undefined
  return ({ fd }, offset, size) => {
    batch ??= new IoBatch(1, 1)
    batch.setSegment(0, 0, 0, size)
    batch.setOp(0, IO_PUNCH_HOLE, fd, start + offset, 0, 1)
    batch.runSync([], 1)
    const result = batch.results[0]!
    if (result < 0) throw new SysError(-result, "fallocate")
  }
}

function dropPages(native: NativeMapping, offset: number, size: number): void {
  const error = native.advise(offset, size, MADV_DONTNEED)
  if (error !== 0) throw new SysError(error, "madvise")
}

/** Freeing a part of what is behind it would not free this memory. */
function cannotDiscard(): never {
  throw new SysError(constants.errno.EOPNOTSUPP, "fallocate")
}
