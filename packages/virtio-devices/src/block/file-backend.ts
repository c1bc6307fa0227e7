import { constants, openSync, statfsSync } from "node:fs"
import { closeFd, IO_PUNCH_HOLE, IoBatch, lockFile } from "@ts-vmm/native"
import type { BlockBackend } from "./backend.js"
import { BlockError } from "./errors.js"
import { diskSize, RawFileBackend } from "./raw-file.js"

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
    return fileBackend(fd, path, { readOnly, ...options }, directFd)
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

/** @throws BlockError `not-a-disk`, `locked` */
function fileBackend(
  fd: number,
  name: string,
  { readOnly = false, lock = true }: FileBackendOptions,
  directFd: number | undefined,
): BlockBackend {
  const size = diskSize(fd, name)
  if (lock && !lockFile(fd, readOnly ? "shared" : "exclusive")) {
    throw new BlockError("locked", `disk image ${name} is in use by somebody else`)
  }
  const inMemory = statfsSync(`/proc/self/fd/${fd}`).type === TMPFS_MAGIC
  const discard = !readOnly && canPunchHoles(fd, size)
  const file = { fd, name, readOnly, inMemory, discard }
  return new RawFileBackend(directFd === undefined ? file : { ...file, directFd })
}

/** Tries on a range after the end, which changes nothing. Block devices refuse it there and lose the feature. */
function canPunchHoles(fd: number, size: number): boolean {
  const batch = new IoBatch(1, 1)
  batch.setSegment(0, 0, 0, 4096)
  batch.setOp(0, IO_PUNCH_HOLE, fd, Math.ceil(size / 4096) * 4096, 0, 1)
  batch.runSync([new ArrayBuffer(1)], 1)
  return batch.results[0]! >= 0
}
