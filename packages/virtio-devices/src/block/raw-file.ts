import { closeFd, fdStat, ioctl } from "@ts-vmm/native"
import type { BlockBackend, DirectAccess, ExtentList } from "./backend.js"
import { BlockError } from "./errors.js"

/** No disk has larger blocks, and buffers of Linux are pages. */
const DIRECT_ALIGNMENT = 4096
/** `_IOR(0x12, 114, size_t)`: bytes of a block device, linux/fs.h. */
const BLKGETSIZE64 = 0x80081272

/** A disk that is one open file, in plain data: all that another thread of this process needs to serve it as well. */
export interface RawFile {
  readonly fd: number
  /** The same file with `O_DIRECT`, to get past the host's page cache. */
  readonly directFd?: number
  /** For messages. */
  readonly name: string
  readonly readOnly: boolean
  /** See {@link BlockBackend.inMemory}. */
  readonly inMemory: boolean
  /** See {@link BlockBackend.discard}. */
  readonly discard: boolean
}

/** The disk that an open file is. Nothing about it changes but its size, which is the file's. */
export class RawFileBackend implements BlockBackend {
  readonly readOnly: boolean
  readonly inMemory: boolean
  readonly discard: boolean
  readonly flushFds: readonly number[]
  readonly direct?: DirectAccess
  readonly shareable: RawFile
  #size: number
  #closed = false

  /**
   * @param file its fds are the backend's from here on
   * @throws BlockError `not-a-disk`
   */
  constructor(file: RawFile) {
    const { fd, directFd, readOnly } = file
    this.#size = diskSize(fd, file.name)
    this.shareable = file
    this.readOnly = readOnly
    this.inMemory = file.inMemory
    this.discard = file.discard
    this.flushFds = readOnly ? [] : [fd]
    if (directFd !== undefined) this.direct = { fd: directFd, alignment: DIRECT_ALIGNMENT, cachedFd: fd }
  }

  get size(): number {
    return this.#size
  }

  locate(offset: number, length: number, into: ExtentList): void {
    into.add(this.direct?.fd ?? this.shareable.fd, offset, length)
  }

  refresh(): void {
    this.#size = diskSize(this.shareable.fd, this.shareable.name)
  }

  close(): void {
    if (this.#closed) return
    this.#closed = true
    closeFd(this.shareable.fd)
    if (this.direct) closeFd(this.direct.fd)
  }
}

/** Bytes of a disk. @throws BlockError `not-a-disk` for what is neither a file nor a block device */
export function diskSize(fd: number, name: string): number {
  const { kind, size } = fdStat(fd)
  if (kind === "file") return size
  if (kind !== "block") throw new BlockError("not-a-disk", `${name} is a ${kind}, not a disk image`)
  const bytes = new BigUint64Array(1)
  ioctl(fd, BLKGETSIZE64, bytes)
  return Number(bytes[0])
}
