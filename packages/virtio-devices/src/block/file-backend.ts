import { constants, openSync, statfsSync } from "node:fs"
import { closeFd, fdStat, IO_PUNCH_HOLE, IoBatch, ioctl, lockFile } from "@ts-vmm/native"
import type { BlockBackend, DirectAccess, ExtentList } from "./backend.js"
import { BlockError } from "./errors.js"

/** How {@link openFileBackend} opens. */
export interface FileBackendOptions {
  /** Open for reading only; default false. */
  readonly readOnly?: boolean
  /**
   * Lock the image, exclusively for writing or shared for reading, so that a second writer is refused; default
   * true. The lock goes with the fd, however the process ends.
   */
  readonly lock?: boolean
  /** Whether the path may be a symbolic link; default true. */
  readonly followLinks?: boolean
  /**
   * Read and write past the host's page cache (`O_DIRECT`): for disks larger than the host's memory, and guests with a
   * cache of their own. Requests that are not aligned to 4096 bytes, in memory or on the disk, use the cache. Default false.
   */
  readonly direct?: boolean
}

/** `f_type` of tmpfs, linux/magic.h. */
const TMPFS_MAGIC = 0x01021994
/** No disk has larger blocks, and buffers of Linux are pages. */
const DIRECT_ALIGNMENT = 4096
/** `_IOR(0x12, 114, size_t)`: bytes of a block device, linux/fs.h. */
const BLKGETSIZE64 = 0x80081272

/**
 * A raw disk image, or a host block device. The bytes are the disk, whatever they look like: no format is
 * ever guessed.
 *
 * @param path a regular file or a block device
 * @throws BlockError `open`, `not-a-disk`, `locked`, `unsupported` (`direct` on a file system without it)
 *
 * @example
 * ```ts
 * const disk = new BlockDevice(openFileBackend("disk.img", { readOnly: true }))
 * ```
 */
export function openFileBackend(path: string, options: FileBackendOptions = {}): BlockBackend {
  const { readOnly = false, followLinks = true } = options
  let fd: number
  try {
    // O_NONBLOCK: a path that turns out to be a FIFO must not hold up the process. Node adds O_CLOEXEC.
    const flags = (readOnly ? constants.O_RDONLY : constants.O_RDWR) | constants.O_NONBLOCK
    fd = openSync(path, followLinks ? flags : flags | constants.O_NOFOLLOW)
  } catch (cause) {
    throw new BlockError("open", `disk image ${path} cannot be opened: ${(cause as Error).message}`, {
      cause,
    })
  }
  let directFd: number | undefined
  try {
    if (options.direct) directFd = openDirect(fd, path, readOnly)
    return new FileBackend(fd, path, { readOnly, ...options }, directFd)
  } catch (error) {
    closeFd(fd)
    if (directFd !== undefined) closeFd(directFd)
    throw error
  }
}

/** The same file once more, whatever lies at its path by now: an fd keeps its flags to itself only if it was opened. */
function openDirect(fd: number, path: string, readOnly: boolean): number {
  try {
    const flags = (readOnly ? constants.O_RDONLY : constants.O_RDWR) | constants.O_NONBLOCK
    return openSync(`/proc/self/fd/${fd}`, flags | constants.O_DIRECT)
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code !== "EINVAL") throw cause
    throw new BlockError("unsupported", `the file system of ${path} has no O_DIRECT: do without direct`, {
      cause,
    })
  }
}

class FileBackend implements BlockBackend {
  readonly readOnly: boolean
  readonly inMemory: boolean
  readonly discard: boolean
  readonly flushFds: readonly number[]
  readonly direct?: DirectAccess
  readonly #fd: number
  readonly #name: string
  #size: number
  #closed = false

  constructor(
    fd: number,
    name: string,
    { readOnly = false, lock = true }: FileBackendOptions,
    directFd: number | undefined,
  ) {
    this.#fd = fd
    if (directFd !== undefined) this.direct = { fd: directFd, alignment: DIRECT_ALIGNMENT, cachedFd: fd }
    this.#name = name
    this.readOnly = readOnly
    this.#size = diskSize(fd, name)
    if (lock && !lockFile(fd, readOnly ? "shared" : "exclusive")) {
      throw new BlockError("locked", `disk image ${name} is in use by somebody else`)
    }
    this.inMemory = statfsSync(`/proc/self/fd/${fd}`).type === TMPFS_MAGIC
    this.discard = !readOnly && canPunchHoles(fd, this.#size)
    this.flushFds = readOnly ? [] : [fd]
  }

  get size(): number {
    return this.#size
  }

  locate(offset: number, length: number, into: ExtentList): void {
    into.add(this.direct?.fd ?? this.#fd, offset, length)
  }

  refresh(): void {
    this.#size = diskSize(this.#fd, this.#name)
  }

  close(): void {
    if (this.#closed) return
    this.#closed = true
    closeFd(this.#fd)
    if (this.direct) closeFd(this.direct.fd)
  }
}

function diskSize(fd: number, name: string): number {
  const { kind, size } = fdStat(fd)
  if (kind === "file") return size
  if (kind !== "block") throw new BlockError("not-a-disk", `${name} is a ${kind}, not a disk image`)
  const bytes = new BigUint64Array(1)
  ioctl(fd, BLKGETSIZE64, bytes)
  return Number(bytes[0])
}

/** Tries on a range after the end, which changes nothing. Block devices refuse it there and lose the feature. */
function canPunchHoles(fd: number, size: number): boolean {
  const batch = new IoBatch(1, 1)
  batch.setSegment(0, 0, 0, 4096)
  batch.setOp(0, IO_PUNCH_HOLE, fd, Math.ceil(size / 4096) * 4096, 0, 1)
  batch.runSync([new ArrayBuffer(1)], 1)
  return batch.results[0]! >= 0
}
