import { closeSync } from "node:fs"
import { constants } from "node:os"
import { closeFd, type FileCalls, files } from "@ts-vmm/native"
import * as abi from "./host-abi.js"
import { HostFiles, NO_NAME, procName, procPath } from "./host-files.js"
import type { FoundFile, Identity, Inode } from "./inode-table.js"
import { type Creator, settle } from "./new-file.js"
import { isOwner, keepOwners, type Owners, squashOwners } from "./owners.js"
import { openShared, type SingleFile } from "./single-file.js"

const { EEXIST, EINVAL, EIO, EISDIR, ELOOP, EMFILE, ENODATA, ENOENT, EOPNOTSUPP, EPERM, EROFS } =
  constants.errno
const { S_IFMT } = abi

/** What of a guest's open flags reaches the host; the rest is the guest kernel's own business, or is not for guests. */
const OPEN_FLAGS =
  abi.O_ACCMODE | abi.O_TRUNC | abi.O_APPEND | abi.O_DSYNC | abi.O_SYNC | abi.O_NOATIME | abi.O_NONBLOCK
/** Ways to allocate that file systems have and that change no other bytes. */
const FALLOCATE_MODES = abi.FALLOC_FL_KEEP_SIZE | abi.FALLOC_FL_PUNCH_HOLE | abi.FALLOC_FL_ZERO_RANGE
/** Names are single components already; this holds also if one were not. */
const WITHIN = abi.RESOLVE_BENEATH | abi.RESOLVE_NO_MAGICLINKS

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

/**
 * A folder of the host, or one file of it, as a guest may use it. Every method is a few system calls, relative to a file
 * that the guest found before, and returns 0 or more, or a negative errno.
 *
 * Nothing outside can be reached: names are single components, symbolic links are the guest's to follow, and a file
 * is named by an fd that holds it. Devices can neither be made nor opened.
 */
export class SharedFolder {
  readonly root: FoundFile
  readonly readOnly: boolean
  readonly owners: Owners
  readonly #single: SingleFile | undefined
  readonly #host: HostFiles
  readonly #calls: FileCalls

  /** @param path - a folder or a regular file @throws the error of open(2) */
  constructor(path: string, options: SharedFolderOptions = {}, calls: FileCalls = files) {
    const [uid, gid] = [process.geteuid?.() ?? 0, process.getegid?.() ?? 0]
    const { readOnly = false, owners = uid === 0 ? "keep" : "squash" } = options
    this.#calls = calls
    this.readOnly = readOnly
    this.owners = owners === "keep" ? keepOwners : squashOwners(uid, gid)
    this.#host = new HostFiles(calls)
    try {
      const { folder, single } = openShared(path)
      this.#single = single
      const root = this.#host.identify(folder)
      if (typeof root === "number") throw new Error(`${path} cannot be shared: statx gives ${root}`)
      this.root = root
    } catch (error) {
      this.#host.close()
      throw error
    }
  }

  /** What the last {@link stat} found: struct statx. */
  get statx(): DataView {
    return this.#host.statx
  }

  /** Whether this stands for the folder around a single shared file: nothing in it, or of it, can be changed. */
  isFixed(directory: Pick<Inode, "fd">): boolean {
    return this.#single !== undefined && directory.fd === this.root.fd
  }

  /** Whether the process is getting short of fds. */
  get isShortOfFds(): boolean {
    return this.#host.isShort
  }

  /** @returns who the file of that name is, or a negative errno; {@link statx} is the file's */
  identify(parent: Inode, name: Uint8Array): Identity | number {
    const own = this.#nameIn(parent, name)
    const result = own === undefined ? -ENOENT : this.#host.statName(parent.fd, own)
    return result < 0 ? result : this.#host.identity
  }

  /** @returns the file, whose fd is the caller's, or a negative errno; {@link statx} is the file's */
  lookup(parent: Inode, name: Uint8Array): FoundFile | number {
    const own = this.#nameIn(parent, name)
    if (own === undefined) return -ENOENT
    const fd = this.#host.open(parent.fd, own, abi.O_PATH | abi.O_NOFOLLOW, 0, WITHIN)
    return fd < 0 ? fd : this.#host.identify(fd)
  }

  /** Fills {@link statx}. */
  stat(inode: Pick<Inode, "fd">): number {
    const result = this.#host.stat(inode.fd)
    if (result >= 0 && this.isFixed(inode)) this.#single?.disguise(this.statx)
    return result
  }

  /** @returns fd of a regular file */
  openFile(inode: Inode, flags: number): number {
    if (inode.type !== abi.S_IFREG) return inode.type === abi.S_IFDIR ? -EISDIR : -ELOOP
    const own = flags & OPEN_FLAGS
    if (this.readOnly && (own & (abi.O_ACCMODE | abi.O_TRUNC)) !== abi.O_RDONLY) return -EROFS
    const fd = this.#host.reopen(inode, own)
    // Only a file's owner may leave no trace of having read it, and the guest's root need not be that.
    const isRefused = fd === -EPERM && (own & abi.O_NOATIME) !== 0
    return isRefused ? this.#host.reopen(inode, own & ~abi.O_NOATIME) : fd
  }

  /** @returns fd of a directory */
  openDirectory(inode: Inode): number {
    return this.#host.reopen(inode, abi.O_RDONLY | abi.O_DIRECTORY)
  }

  /**
   * Reads entries of a directory.
   *
   * @param fd - its own, open @param isThere - the position is where the last read ended
   * @returns bytes of struct linux_dirent64, 0 at the end
   */
  readDirectory(inode: Inode, fd: number, position: bigint, isThere: boolean, into: Uint8Array): number {
    if (this.#single && this.isFixed(inode)) return this.#single.entries(position, into)
    const at = isThere ? 0 : this.seek(fd, position, abi.SEEK_SET)
    return at < 0 ? at : this.#calls.getdents64(fd, into)
  }

  /** Makes and opens a regular file. @returns fd; `-EEXIST` when the name is taken */
  create(parent: Inode, name: Uint8Array, flags: number, mode: number, creator: Creator): number {
    const may = this.#mayMake(parent, creator)
    if (may < 0) return this.isFixed(parent) && this.#nameIn(parent, name) ? -EEXIST : may
    const how = (flags & OPEN_FLAGS) | abi.O_CREAT | abi.O_EXCL | abi.O_NOFOLLOW
    const fd = this.#host.open(parent.fd, name, how, mode & 0o7777, WITHIN)
    return this.#handOver(fd, parent, mode, creator)
  }

  /** Makes and opens a file without a name. @returns fd */
  createUnnamed(directory: Inode, flags: number, mode: number, creator: Creator): number {
    const may = this.#mayMake(directory, creator)
    if (may < 0) return may
    const how = (flags & (abi.O_ACCMODE | abi.O_APPEND)) | abi.O_TMPFILE
    return this.#handOver(this.#host.reopen(directory, how, mode & 0o7777), directory, mode, creator)
  }

  /** @returns who the file is that an fd is open on, or a negative errno; {@link statx} is the file's */
  identifyOpen(fd: number): Identity | number {
    const result = this.#host.stat(fd)
    return result < 0 ? result : this.#host.identity
  }

  /** The file that an fd is open on, as {@link lookup} has it. */
  holdOpen(fd: number): FoundFile | number {
    const held = this.#host.reopen({ procName: procName(fd) }, abi.O_PATH)
    return held < 0 ? held : this.#host.identify(held)
  }

  makeDirectory(parent: Inode, name: Uint8Array, mode: number, creator: Creator): number {
    const may = this.#mayMake(parent, creator)
    if (may < 0) return may
    const made = this.#calls.mkdirat(parent.fd, name, mode & 0o7777)
    return made < 0 ? made : this.#handOverNamed(parent, name, abi.S_IFDIR, mode, creator)
  }

  /** Regular files, FIFOs and sockets: a device node would be the host's device. */
  makeNode(parent: Inode, name: Uint8Array, mode: number, creator: Creator): number {
    const type = mode & S_IFMT
    if (type !== abi.S_IFREG && type !== abi.S_IFIFO && type !== abi.S_IFSOCK) return -EPERM
    const may = this.#mayMake(parent, creator)
    if (may < 0) return may
    const made = this.#calls.mknodat(parent.fd, name, type | (mode & 0o7777), 0)
    return made < 0 ? made : this.#handOverNamed(parent, name, type, mode, creator)
  }

  makeLink(parent: Inode, name: Uint8Array, target: Uint8Array, creator: Creator): number {
    const may = this.#mayMake(parent, creator)
    if (may < 0) return may
    const made = this.#calls.symlinkat(target, parent.fd, name)
    return made < 0 ? made : this.#handOverNamed(parent, name, abi.S_IFLNK, undefined, creator)
  }

  /** A further name for a file. */
  link(inode: Inode, parent: Inode, name: Uint8Array): number {
    if (this.isFixed(parent) || inode.type === abi.S_IFDIR) return -EPERM
    return this.#host.link(inode, parent.fd, name)
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
    return inode.type === abi.S_IFLNK ? this.#calls.readlinkat(inode.fd, NO_NAME, into) : -EINVAL
  }

  changeMode(inode: Inode, mode: number): number {
    return this.isFixed(inode) ? -EPERM : this.#host.changeMode(inode, mode)
  }

  /** @param uid - the guest's, undefined keeps it; and so for `gid` */
  changeOwner(inode: Inode, uid: number | undefined, gid: number | undefined): number {
    if (!isOwner(uid ?? 0) || !isOwner(gid ?? 0)) return -EINVAL
    const hostUid = uid === undefined ? -1 : this.owners.users.toHost(uid)
    const hostGid = gid === undefined ? -1 : this.owners.groups.toHost(gid)
    if (hostUid === undefined || hostGid === undefined || this.isFixed(inode)) return -EPERM
    return this.#host.changeOwner(inode.fd, hostUid, hostGid)
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
    return this.isFixed(inode) ? -EPERM : this.#host.changeTimes(inode, times)
  }

  allocate(fd: number, mode: number, offset: number, length: number): number {
    return (mode & ~FALLOCATE_MODES) === 0 ? this.#calls.fallocate(fd, mode, offset, length) : -EOPNOTSUPP
  }

  /** @returns the new position */
  seek(fd: number, offset: bigint, whence: number): number {
    return this.#calls.lseek(fd, offset, whence)
  }

  /** Copies inside the host. @returns bytes copied */
  copy(from: number, fromOffset: bigint, to: number, toOffset: bigint, length: number): number {
    const offset = (position: bigint) => new Uint8Array(BigInt64Array.of(position).buffer)
    return this.#calls.copyFileRange(from, offset(fromOffset), to, offset(toOffset), length, 0)
  }

  /** @returns fd of a regular file, open for as much as may be: locks to write need one that can be written to */
  openForLocks(inode: Inode): number {
    if (inode.type !== abi.S_IFREG) return -EINVAL
    const fd = this.readOnly ? -EROFS : this.#host.reopen(inode, abi.O_RDWR | abi.O_NONBLOCK)
    return fd < 0 && fd !== -EMFILE ? this.#host.reopen(inode, abi.O_RDONLY | abi.O_NONBLOCK) : fd
  }

  /** @param command - `F_OFD_SETLK` or `F_OFD_GETLK` @param lock - struct flock */
  lockRange(fd: number, command: number, lock: Uint8Array): number {
    return this.#calls.fcntlLock(fd, command, lock)
  }

  /** flock(2), which does not wait. @param operation - `LOCK_SH`, `LOCK_EX` or `LOCK_UN` */
  lockWhole(fd: number, operation: number): number {
    return this.#calls.flock(fd, operation | abi.LOCK_NB)
  }

  /** @param into - struct statfs */
  statFileSystem(inode: Inode, into: Uint8Array): number {
    return this.#calls.fstatfs(inode.fd, into)
  }

  /** @param name - the host's, and so below @returns bytes of the value in `into` */
  getAttribute(inode: Inode, name: Uint8Array, into: Uint8Array): number {
    if (this.isFixed(inode)) return -ENODATA
    const length = this.#calls.getxattr(procPath(inode), name, into)
    // A link or a FIFO can have no such attribute, so it has none.
    return length === -EPERM ? -ENODATA : length
  }

  /** Takes a set-group-ID bit away, if there is one. */
  dropSetGroup(inode: Inode): number {
    const result = this.#host.stat(inode.fd)
    if (result < 0 || (this.#host.mode & abi.S_ISGID) === 0) return result
    return this.changeMode(inode, this.#host.mode & ~abi.S_ISGID)
  }

  /** @returns bytes of NUL-terminated names in `into` */
  listAttributes(inode: Inode, into: Uint8Array): number {
    return this.isFixed(inode) ? 0 : this.#calls.listxattr(procPath(inode), into)
  }

  setAttribute(inode: Inode, name: Uint8Array, value: Uint8Array, flags: number): number {
    return this.isFixed(inode) ? -EPERM : this.#calls.setxattr(procPath(inode), name, value, flags)
  }

  removeAttribute(inode: Inode, name: Uint8Array): number {
    return this.isFixed(inode) ? -EPERM : this.#calls.removexattr(procPath(inode), name)
  }

  /** Closes the folder, with which the server goes. */
  close(): void {
    this.#host.close()
    closeSync(this.root.fd)
  }

  /** The name of a file on the host; undefined where the guest may not know of it. */
  #nameIn(directory: Inode, name: Uint8Array): Uint8Array | undefined {
    if (!this.#single || !this.isFixed(directory)) return name
    return this.#single.isNamed(name) ? this.#single.target : undefined
  }

  /** @returns 0 where this creator may make something */
  #mayMake(parent: Inode, { uid, gid }: Creator): number {
    if (this.isFixed(parent)) return -EPERM
    return isOwner(uid) && isOwner(gid) ? 0 : -EINVAL
  }

  /** Gives an open file that was just made to its creator; the fd is closed when that fails. */
  #handOver(fd: number, parent: Inode, mode: number, creator: Creator): number {
    if (fd < 0) return fd
    const result = settle(this.#host, this.owners, fd, parent, mode, creator)
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
    const isOurs = made.type === type && this.#host.uid === process.geteuid?.()
    const result = isOurs ? settle(this.#host, this.owners, made.fd, parent, mode, creator) : -EIO
    closeFd(made.fd)
    return result
  }
}
