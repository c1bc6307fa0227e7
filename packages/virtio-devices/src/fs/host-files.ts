import { closeSync, openSync, readFileSync } from "node:fs"
import { constants } from "node:os"
import { closeFd, type FileCalls } from "@ts-vmm/native"
import * as abi from "./host-abi.js"
import type { FoundFile, Identity } from "./inode-table.js"

const { STATX } = abi
const { EMFILE } = constants.errno

/** For calls on an fd itself. */
export const NO_NAME = new Uint8Array(0)
const DEFAULT_ACL = Buffer.from("system.posix_acl_default")
const NO_VALUE = new Uint8Array(0)
const STATX_MASK = abi.STATX_BASIC_STATS | abi.STATX_BTIME | abi.STATX_MNT_ID
/** Of the fds that the process may have, a guest's files leave it one in so many. */
const FREE_PART = 4

/** An fd under /proc/self/fd: the way from one that only holds a file to the file. */
export interface Held {
  readonly procName: Uint8Array
}

/**
 * The calls that every use of a shared folder is made of, and the structures they fill. Results are 0 or more, or a
 * negative errno.
 */
export class HostFiles {
  readonly calls: FileCalls
  /** What the last {@link stat} found: struct statx. */
  readonly statx = new DataView(new ArrayBuffer(abi.STATX_SIZE))
  readonly #statxBytes = new Uint8Array(this.statx.buffer)
  readonly #how = new DataView(new ArrayBuffer(abi.OPEN_HOW_SIZE))
  readonly #howBytes = new Uint8Array(this.#how.buffer)
  readonly #proc: number
  /** The kernel gives the lowest number that is free, so one from here on says that few are left. */
  readonly #fdLimit = Math.floor((openFilesLimit() * (FREE_PART - 1)) / FREE_PART)

  #lastFd = 0
  #lastDevice = { major: -1, minor: -1, mount: -1, text: "" }

  /** @throws the error of open(2) where there is no /proc */
  constructor(calls: FileCalls) {
    this.calls = calls
    this.#proc = openSync("/proc/self/fd", abi.O_PATH | abi.O_DIRECTORY)
  }

  /** Of the last {@link stat}. */
  get mode(): number {
    return this.statx.getUint16(STATX.mode, true)
  }

  get uid(): number {
    return this.statx.getUint32(STATX.uid, true)
  }

  get gid(): number {
    return this.statx.getUint32(STATX.gid, true)
  }

  /** Whether half of the fds that a guest's files may take are taken, by whomever. */
  get isShort(): boolean {
    return this.#lastFd >= this.#fdLimit / 2
  }

  /** @returns fd, close-on-exec; `-EMFILE` also when the process would have few left for its own ends */
  open(directory: number, name: Uint8Array, flags: number, mode = 0, resolve = 0n): number {
    this.#how.setBigUint64(0, BigInt(flags | abi.O_CLOEXEC), true)
    this.#how.setBigUint64(8, BigInt(mode), true)
    this.#how.setBigUint64(16, resolve, true)
    const fd = this.calls.openat2(directory, name, this.#howBytes)
    this.#lastFd = fd
    if (fd < this.#fdLimit) return fd
    closeFd(fd)
    return -EMFILE
  }

  /** Opens the file that an fd holds. */
  reopen({ procName }: Held, flags: number, mode = 0): number {
    return this.open(this.#proc, procName, flags, mode)
  }

  /** Fills {@link statx}. */
  stat(fd: number): number {
    return this.calls.statx(fd, NO_NAME, abi.AT_EMPTY_PATH, STATX_MASK, this.#statxBytes)
  }

  /** The same for a name in a directory, a symbolic link itself. */
  statName(directory: number, name: Uint8Array): number {
    return this.calls.statx(directory, name, abi.AT_SYMLINK_NOFOLLOW, STATX_MASK, this.#statxBytes)
  }

  changeMode({ procName }: Held, mode: number): number {
    return this.calls.fchmodat(this.#proc, procName, mode & 0o7777)
  }

  changeOwner(fd: number, uid: number, gid: number): number {
    return this.calls.fchownat(fd, NO_NAME, uid, gid, abi.AT_EMPTY_PATH)
  }

  /** @param times - two struct timespec: access, modification */
  changeTimes({ procName }: Held, times: Uint8Array): number {
    return this.calls.utimensat(this.#proc, procName, times, 0)
  }

  /** A further name for a file. */
  link({ procName }: Held, directory: number, name: Uint8Array): number {
    return this.calls.linkat(this.#proc, procName, directory, name, abi.AT_SYMLINK_FOLLOW)
  }

  /** Whether files that are made in a directory get an access list from it. */
  hasDefaultAcl(directory: Held): boolean {
    return this.calls.getxattr(procPath(directory), DEFAULT_ACL, NO_VALUE) > 0
  }

  /** What an fd is of; {@link statx} tells more. The fd is closed when that cannot be found out. */
  identify(fd: number): FoundFile | number {
    const result = this.stat(fd)
    if (result < 0) {
      closeFd(fd)
      return result
    }
    return { fd, ...this.identity }
  }

  /** What tells the file of the last {@link stat} from others. */
  get identity(): Identity {
    const { statx } = this
    const [high, low] = [statx.getUint32(STATX.inode + 4, true), statx.getUint32(STATX.inode, true)]
    const inode = high < 2 ** 21 ? high * 2 ** 32 + low : `${high}:${low}`
    const born = statx.getUint32(STATX.born, true) * 1e9 + statx.getUint32(STATX.born + abi.STATX_NSEC, true)
    return { device: this.#device(), inode, born, type: this.mode & abi.S_IFMT }
  }

  /** The text is made anew only where a folder goes over to another file system. */
  #device(): string {
    const { statx } = this
    const last = this.#lastDevice
    const [major, minor] = [statx.getUint32(STATX.devMajor, true), statx.getUint32(STATX.devMinor, true)]
    const mount = statx.getUint32(STATX.mount, true)
    if (last.major !== major || last.minor !== minor || last.mount !== mount)
      this.#lastDevice = { major, minor, mount, text: `${major}:${minor}:${mount}` }
    return this.#lastDevice.text
  }

  close(): void {
    closeSync(this.#proc)
  }
}

/** The name of an fd in /proc/self/fd. */
export function procName(fd: number): Uint8Array {
  return Buffer.from(String(fd))
}

/** The path of a file that an fd holds, for calls that take nothing else. */
export function procPath({ procName }: Held): Uint8Array {
  return Buffer.concat([PROC_FD, procName])
}

const PROC_FD = Buffer.from("/proc/self/fd/")

/** RLIMIT_NOFILE. */
function openFilesLimit(): number {
  const limit = /^Max open files +(\d+)/m.exec(readFileSync("/proc/self/limits", "latin1"))?.[1]
  return limit === undefined ? Number.POSITIVE_INFINITY : Number(limit)
}
