import { closeSync, constants as fsConstants, openSync } from "node:fs"
import { constants } from "node:os"
import { basename, dirname } from "node:path"
import { closeFd, type FileCalls, files } from "@ts-vmm/native"
import * as abi from "./host-abi.js"
import type { Inode, NewInode } from "./inode-table.js"
import { keepOwners, type Owners, squashOwners } from "./owners.js"

const { EBADF, EEXIST, EINVAL, EIO, ELOOP, ENOENT, EPERM } = constants.errno
const { S_IFMT, STATX } = abi

const EMPTY = new Uint8Array(0)
/** What of a guest's open flags reaches the host; the rest is the guest kernel's own business, or is not for guests. */
const OPEN_FLAGS =
  abi.O_ACCMODE | abi.O_TRUNC | abi.O_APPEND | abi.O_DSYNC | abi.O_SYNC | abi.O_NOATIME | abi.O_NONBLOCK
/** Ways to allocate that file systems have and that change no other bytes. */
const FALLOCATE_MODES = abi.FALLOC_FL_KEEP_SIZE | abi.FALLOC_FL_PUNCH_HOLE | abi.FALLOC_FL_ZERO_RANGE

/** How a {@link SharedFolder} is shared. */
export interface SharedFolderOptions {
  /** Nothing can be changed through it. Default false. */
  readonly readOnly?: boolean
  /**
   * `keep`: owners are the same inside and outside; needs root. `squash`: all belongs to this user outside, whom the
   * guest sees as root. Default: `keep` for root, else `squash`.
   */
  readonly owners?: "keep" | "squash"
}

/** Whom a new file belongs to, as the guest says it. */
export interface Creator {
  readonly uid: number
  readonly gid: number
}

/**
 * A folder of the host, or one file of it, as a guest may use it. Every method is a few system calls, relative to a file
 * that the guest found before, and returns 0 or more, or a negative errno.
 *
 * Nothing outside can be reached: names are single components, symbolic links are the guest's to follow, and a file
 * is named by an fd that holds it. Devices can neither be made nor opened.
 */
export class SharedFolder {
  readonly root: NewInode
  readonly readOnly: boolean
  readonly owners: Owners
  /** Result of the last {@link stat}: struct statx. */
  readonly statx = new DataView(new ArrayBuffer(abi.STATX_SIZE))
  readonly #statxBytes = new Uint8Array(this.statx.buffer)
  readonly #how = new DataView(new ArrayBuffer(abi.OPEN_HOW_SIZE))
  readonly #howBytes = new Uint8Array(this.#how.buffer)
  /** /proc/self/fd: the way from an O_PATH fd to its file. */
  readonly #proc: number
  /** The one name in the root, where a single file is shared. */
  readonly #only: Uint8Array | undefined
  readonly #umask = process.umask()
  readonly #calls: FileCalls

  /** @param path - a folder or a regular file @throws the error of open(2) */
  constructor(path: string, options: SharedFolderOptions = {}, calls: FileCalls = files) {
    const { readOnly = false, owners = process.getuid?.() === 0 ? "keep" : "squash" } = options
    this.#calls = calls
    this.readOnly = readOnly
    this.owners = owners === "keep" ? keepOwners : squashOwners(process.getuid?.() ?? 0)
    const { folder, only } = openShared(path)
    this.#only = only
    this.#proc = openSync("/proc/self/fd", abi.O_PATH | abi.O_DIRECTORY)
    const root = this.#identify(folder)
    if (typeof root === "number") throw new Error(`${path}: statx failed`)
    this.root = root
  }

  /** Whether this is the root of a single shared file, in which nothing can be made, removed or renamed. */
  isFixed(directory: Inode): boolean {
    return this.#only !== undefined && directory.fd === this.root.fd
  }

  /** Whether the guest may know of this name. */
  isShared(directory: Inode, name: Uint8Array): boolean {
    return !this.isFixed(directory) || Buffer.compare(name, this.#only as Uint8Array) === 0
  }

  /** @returns the file, whose fd is the caller's, or a negative errno */
  lookup(parent: Inode, name: Uint8Array): NewInode | number {
    if (!this.isShared(parent, name)) return -ENOENT
    const fd = this.#open(parent.fd, name, abi.O_PATH | abi.O_NOFOLLOW, 0, WITHIN)
    return fd < 0 ? fd : this.#identify(fd)
  }

  /** Fills {@link statx}. */
  stat(inode: Pick<Inode, "fd">): number {
    return this.#calls.statx(inode.fd, EMPTY, abi.AT_EMPTY_PATH, abi.STATX_BASIC_STATS, this.#statxBytes)
  }

  /** @returns fd of a regular file */
  openFile(inode: Inode, flags: number): number {
    if (inode.type !== abi.S_IFREG) return inode.type === abi.S_IFDIR ? -EBADF : -ELOOP
    return this.#reopen(inode, flags & OPEN_FLAGS)
  }

  /** @returns fd of a directory */
  openDirectory(inode: Inode): number {
    return this.#reopen(inode, abi.O_RDONLY | abi.O_DIRECTORY)
  }

  /** Makes and opens a regular file. @returns fd; `-EEXIST` when the name is taken */
  create(parent: Inode, name: Uint8Array, flags: number, mode: number, creator: Creator): number {
    if (this.isFixed(parent)) return this.isShared(parent, name) ? -EEXIST : -EPERM
    const how = (flags & OPEN_FLAGS) | abi.O_CREAT | abi.O_EXCL | abi.O_NOFOLLOW
    return this.#handOver(this.#open(parent.fd, name, how, mode & 0o7777, WITHIN), mode, creator)
  }

  /** Makes and opens a file without a name. @returns fd */
  createUnnamed(directory: Inode, flags: number, mode: number, creator: Creator): number {
    if (this.isFixed(directory)) return -EPERM
    const how = (flags & (abi.O_ACCMODE | abi.O_APPEND)) | abi.O_TMPFILE
    return this.#handOver(this.#open(this.#proc, directory.procName, how, mode & 0o7777), mode, creator)
  }

  /** The file that an fd is open on, as {@link lookup} has it. */
  identifyOpen(fd: number): NewInode | number {
    const path = this.#open(this.#proc, Buffer.from(String(fd)), abi.O_PATH)
    return path < 0 ? path : this.#identify(path)
  }

  makeDirectory(parent: Inode, name: Uint8Array, mode: number, creator: Creator): number {
    if (this.isFixed(parent)) return -EPERM
    const made = this.#calls.mkdirat(parent.fd, name, mode & 0o7777)
    return made < 0 ? made : this.#handOverNamed(parent, name, abi.S_IFDIR, mode, creator)
  }

  /** Regular files, FIFOs and sockets: a device node would be the host's device. */
  makeNode(parent: Inode, name: Uint8Array, mode: number, creator: Creator): number {
    const type = mode & S_IFMT
    if (type !== abi.S_IFREG && type !== abi.S_IFIFO && type !== abi.S_IFSOCK) return -EPERM
    if (this.isFixed(parent)) return -EPERM
    const made = this.#calls.mknodat(parent.fd, name, type | (mode & 0o7777), 0)
    return made < 0 ? made : this.#handOverNamed(parent, name, type, mode, creator)
  }

  makeLink(parent: Inode, name: Uint8Array, target: Uint8Array, creator: Creator): number {
    if (this.isFixed(parent)) return -EPERM
    const made = this.#calls.symlinkat(target, parent.fd, name)
    return made < 0 ? made : this.#handOverNamed(parent, name, S_IFLNK, undefined, creator)
  }

  /** A further name for a file. */
  link(inode: Inode, parent: Inode, name: Uint8Array): number {
    if (this.isFixed(parent)) return -EPERM
    if (inode.type === abi.S_IFDIR) return -EPERM
    return this.#calls.linkat(this.#proc, inode.procName, parent.fd, name, abi.AT_SYMLINK_FOLLOW)
  }

  unlink(parent: Inode, name: Uint8Array): number {
    return this.isFixed(parent) ? -EPERM : this.#calls.unlinkat(parent.fd, name, 0)
  }

  removeDirectory(parent: Inode, name: Uint8Array): number {
    return this.isFixed(parent) ? -EPERM : this.#calls.unlinkat(parent.fd, name, abi.AT_REMOVEDIR)
  }

  rename(from: Inode, name: Uint8Array, to: Inode, newName: Uint8Array, flags: number): number {
    if (this.isFixed(from) || this.isFixed(to)) return -EPERM
    // A whiteout is a device node.
    if ((flags & ~(abi.RENAME_NOREPLACE | abi.RENAME_EXCHANGE)) !== 0) return -EINVAL
    return this.#calls.renameat2(from.fd, name, to.fd, newName, flags)
  }

  /** @returns bytes of the target in `into` */
  readLink(inode: Inode, into: Uint8Array): number {
    return inode.type === S_IFLNK ? this.#calls.readlinkat(inode.fd, EMPTY, into) : -EINVAL
  }

  changeMode(inode: Inode, mode: number): number {
    return this.#calls.fchmodat(this.#proc, inode.procName, mode & 0o7777)
  }

  /** @param uid - the guest's, undefined keeps it; and so for `gid` */
  changeOwner(inode: Inode, uid: number | undefined, gid: number | undefined): number {
    const hostUid = uid === undefined ? -1 : this.owners.toHost(uid)
    const hostGid = gid === undefined ? -1 : this.owners.toHost(gid)
    if (hostUid === undefined || hostGid === undefined) return -EPERM
    return this.#calls.fchownat(inode.fd, EMPTY, hostUid, hostGid, abi.AT_EMPTY_PATH)
  }

  /** @param fd - one that is open for writing, if there is one */
  changeSize(inode: Inode, size: number, fd?: number): number {
    if (fd !== undefined) return this.#calls.ftruncate(fd, size)
    const own = this.openFile(inode, abi.O_WRONLY | abi.O_NONBLOCK)
    if (own < 0) return own
    const result = this.#calls.ftruncate(own, size)
    closeFd(own)
    return result
  }

  /** @param times - two struct timespec: access, modification */
  changeTimes(inode: Inode, times: Uint8Array): number {
    return this.#calls.utimensat(this.#proc, inode.procName, times, 0)
  }

  allocate(fd: number, mode: number, offset: number, length: number): number {
    return (mode & ~FALLOCATE_MODES) === 0 ? this.#calls.fallocate(fd, mode, offset, length) : -EOPNOTSUPP
  }

  /** @param into - struct statfs */
  statFileSystem(inode: Inode, into: Uint8Array): number {
    return this.#calls.fstatfs(inode.fd, into)
  }

  /** Path of a file for calls that take no fd. */
  pathOf(inode: Inode): Uint8Array {
    return Buffer.concat([PROC_FD, inode.procName])
  }

  /** Closes the folder, with which the server goes. */
  close(): void {
    closeSync(this.#proc)
    closeSync(this.root.fd)
  }

  #reopen(inode: Inode, flags: number): number {
    if (this.readOnly && (flags & (abi.O_ACCMODE | abi.O_TRUNC)) !== abi.O_RDONLY) return -EROFS
    return this.#open(this.#proc, inode.procName, flags)
  }

  #open(directory: number, name: Uint8Array, flags: number, mode = 0, resolve = 0n): number {
    this.#how.setBigUint64(0, BigInt(flags | abi.O_CLOEXEC), true)
    this.#how.setBigUint64(8, BigInt(mode), true)
    this.#how.setBigUint64(16, resolve, true)
    return this.#calls.openat2(directory, name, this.#howBytes)
  }

  /** Takes the fd over. */
  #identify(fd: number): NewInode | number {
    const result = this.stat({ fd })
    if (result < 0) {
      closeFd(fd)
      return result
    }
    const device = `${this.#stat32(STATX.devMajor)}:${this.#stat32(STATX.devMinor)}`
    const key = `${device}:${this.statx.getBigUint64(STATX.inode, true)}`
    return { fd, key, device, type: this.statx.getUint16(STATX.mode, true) & S_IFMT }
  }

  /** Gives a file that was just made to its creator; the fd is closed when that fails. */
  #handOver(fd: number, mode: number, creator: Creator): number {
    if (fd < 0) return fd
    const result = this.#settle(fd, mode, creator)
    if (result >= 0) return fd
    closeFd(fd)
    return result
  }

  /** The same for what was made by name; somebody else's file under that name now is left alone. */
  #handOverNamed(
    parent: Inode,
    name: Uint8Array,
    type: number,
    mode: number | undefined,
    creator: Creator,
  ): number {
    const made = this.lookup(parent, name)
    if (typeof made === "number") return made
    const isOurs = made.type === type && this.#stat32(STATX.uid) === process.geteuid?.()
    const result = isOurs ? this.#settle(made.fd, mode, creator) : -EIO
    closeFd(made.fd)
    return result
  }

  #settle(fd: number, mode: number | undefined, creator: Creator): number {
    const uid = this.owners.toHost(creator.uid)
    if (uid !== undefined && uid !== process.geteuid?.()) {
      const result = this.#calls.fchownat(fd, EMPTY, uid, -1, abi.AT_EMPTY_PATH)
      if (result < 0) return result
    }
    // In a directory with the set-group-ID bit a file has the directory's group already.
    const gid = this.owners.toHost(creator.gid)
    const stat = this.stat({ fd })
    if (stat < 0) return stat
    const inherited = this.#stat32(STATX.gid) !== process.getegid?.()
    if (gid !== undefined && !inherited && gid !== process.getegid?.()) {
      const result = this.#calls.fchownat(fd, EMPTY, -1, gid, abi.AT_EMPTY_PATH)
      if (result < 0) return result
    }
    if (mode === undefined) return 0
    const kept =
      inherited && isForeignGroup(mode, creator, this.#stat32(STATX.gid)) ? mode & ~abi.S_ISGID : mode
    // This process's mask took bits away, or the change of owner did.
    const isWhole = (mode & (this.#umask | SET_ID_BITS)) === 0
    return isWhole ? 0 : this.#calls.fchmodat(this.#proc, Buffer.from(String(fd)), kept & 0o7777)
  }

  #stat32(offset: number): number {
    return this.statx.getUint32(offset, true)
  }
}

const { EOPNOTSUPP, EROFS } = constants.errno
const S_IFLNK = fsConstants.S_IFLNK
const SET_ID_BITS = 0o6000
const SET_GROUP_AND_RUN = 0o2010
const PROC_FD = Buffer.from("/proc/self/fd/")
/** Names are single components already; this holds also if one were not. */
const WITHIN = abi.RESOLVE_BENEATH | abi.RESOLVE_NO_MAGICLINKS

/** A file that would run with the rights of a group that its maker is not in. */
function isForeignGroup(mode: number, creator: Creator, gid: number): boolean {
  const runsAsGroup = (mode & S_IFMT) !== abi.S_IFDIR && (mode & SET_GROUP_AND_RUN) === SET_GROUP_AND_RUN
  return runsAsGroup && creator.uid !== 0 && creator.gid !== gid
}

/** @returns fd of the folder, or of the one that holds a single file */
function openShared(path: string): { folder: number; only?: Uint8Array } {
  const fd = openSync(path, abi.O_PATH)
  const into = new Uint8Array(abi.STATX_SIZE)
  files.statx(fd, EMPTY, abi.AT_EMPTY_PATH, abi.STATX_BASIC_STATS, into)
  const type = new DataView(into.buffer).getUint16(STATX.mode, true) & S_IFMT
  if (type === abi.S_IFDIR) return { folder: fd }
  closeSync(fd)
  if (type !== abi.S_IFREG) throw new Error(`${path} is neither a folder nor a regular file`)
  return {
    folder: openSync(dirname(path), abi.O_PATH | abi.O_DIRECTORY),
    only: Buffer.from(basename(path)),
  }
}
