import { constants } from "node:os"
import { closeFd, files } from "@ts-vmm/native"
import { type DirectoryEntry, DirectoryReader } from "./directory-reader.js"
import { HandleTable } from "./handle-table.js"
import * as abi from "./host-abi.js"
import { type Inode, InodeTable, type NewInode } from "./inode-table.js"
import * as fuse from "./protocol.js"
import { FUSE } from "./protocol.js"
import type { FuseReply } from "./reply.js"
import type { FuseRequest } from "./request.js"
import type { Creator, SharedFolder } from "./shared-folder.js"
import { guestAttributes, hostAttribute } from "./xattr-names.js"

const {
  EBADF,
  EEXIST,
  EINVAL,
  EIO,
  ENFILE,
  ENODATA,
  ENOENT,
  ENOSYS,
  EOPNOTSUPP,
  EPERM,
  ERANGE,
  EROFS,
  EXDEV,
} = constants.errno

/** How long a guest may believe what it was told. */
export type FsCacheMode = "none" | "auto" | "always"

/** Options of a {@link FuseServer}. */
export interface FuseServerOptions {
  readonly cache: FsCacheMode
  /** The guest may keep writes to itself for a while. */
  readonly writeback: boolean
  /** Most files that the guest knows, and most that it has open. */
  readonly maxFiles: number
}

/** For requests without an answer. */
export const NO_REPLY = Number.NEGATIVE_INFINITY
/** Bytes of data in one read or write. */
export const MAX_TRANSFER = 1024 * 1024
const PAGE_SIZE = 4096
const MAX_BACKGROUND = 64
/** Longest copy inside the host in one request: the guest asks again for the rest. */
const MAX_COPY = 16 * 1024 * 1024
const MAX_XATTR_SIZE = 64 * 1024
const VALID_SECONDS: Readonly<Record<FsCacheMode, number>> = { none: 0, auto: 1, always: 86_400 }

/** Where the arguments of a request start. */
const ARGS = fuse.IN_HEADER_SIZE

/** An operation: least bytes of its arguments, what carries it out, and whether it changes the folder. */
interface Operation {
  readonly least: number
  readonly run: (request: FuseRequest) => number
  readonly writes: boolean
}

/**
 * A FUSE server over a {@link SharedFolder}: takes a request, does it, and puts the answer together.
 *
 * Every request's arguments are checked here or by the host's kernel; a request that makes no sense gets `EINVAL`, one
 * that names a file or handle that there is not gets `EBADF` or `ENOENT`.
 */
export class FuseServer {
  readonly #folder: SharedFolder
  readonly #options: FuseServerOptions
  readonly #reply: FuseReply
  readonly #inodes: InodeTable
  readonly #handles: HandleTable
  readonly #directories = new DirectoryReader()
  readonly #operations: ReadonlyMap<number, Operation>
  #submounts = false
  #writeback = false

  constructor(folder: SharedFolder, reply: FuseReply, options: FuseServerOptions) {
    this.#folder = folder
    this.#reply = reply
    this.#options = options
    this.#inodes = new InodeTable(folder.root, options.maxFiles)
    this.#handles = new HandleTable(options.maxFiles)
    this.#operations = this.#table()
  }

  /** Files that the guest knows, and those that it has open. */
  get counts(): { readonly inodes: number; readonly handles: number } {
    return { inodes: this.#inodes.size, handles: this.#handles.size }
  }

  /** @returns bytes of the answer's body, a negative errno, or {@link NO_REPLY} */
  serve(request: FuseRequest): number {
    const operation = this.#operations.get(request.opcode)
    if (!operation) return -ENOSYS
    if (request.length < ARGS + operation.least) return -EINVAL
    if (operation.writes && this.#folder.readOnly) return -EROFS
    return operation.run(request)
  }

  /** What a read or write works on, or a negative errno. */
  dataHandle(request: FuseRequest): { readonly fd: number; inMemory?: boolean } | number {
    if (request.length < ARGS + fuse.READ_IN_SIZE) return -EINVAL
    if (request.opcode === FUSE.WRITE && this.#folder.readOnly) return -EROFS
    return this.#handles.file(request.u64(ARGS)) ?? -EBADF
  }

  /** The fd that a fsync works on, or a negative errno. */
  syncFd(request: FuseRequest): number {
    if (request.length < ARGS + 16) return -EINVAL
    const number = request.u64(ARGS)
    const handle =
      request.opcode === FUSE.FSYNC ? this.#handles.file(number) : this.#handles.directory(number)
    return handle?.fd ?? -EBADF
  }

  /** The guest is gone: nothing of what it knew or had open is kept. */
  reset(): void {
    this.#handles.clear()
    this.#inodes.clear()
  }

  #table(): ReadonlyMap<number, Operation> {
    const reads = (least: number, run: Operation["run"]): Operation => ({ least, run, writes: false })
    const writes = (least: number, run: Operation["run"]): Operation => ({ least, run, writes: true })
    return new Map<number, Operation>([
      [FUSE.INIT, reads(16, request => this.#init(request))],
      [FUSE.DESTROY, reads(0, () => this.#destroy())],
      [FUSE.LOOKUP, reads(1, request => this.#lookup(request))],
      [FUSE.FORGET, reads(8, request => this.#forget(request))],
      [FUSE.BATCH_FORGET, reads(8, request => this.#batchForget(request))],
      [FUSE.INTERRUPT, reads(0, () => NO_REPLY)],
      [FUSE.GETATTR, reads(16, request => this.#getAttributes(request))],
      [FUSE.SETATTR, writes(88, request => this.#setAttributes(request))],
      [FUSE.READLINK, reads(0, request => this.#readLink(request))],
      [FUSE.STATFS, reads(0, request => this.#statFileSystem(request))],
      [FUSE.OPEN, reads(8, request => this.#open(request))],
      [FUSE.CREATE, reads(16, request => this.#create(request))],
      [FUSE.TMPFILE, writes(16, request => this.#createUnnamed(request))],
      [FUSE.RELEASE, reads(24, request => this.#release(request))],
      [FUSE.OPENDIR, reads(8, request => this.#openDirectory(request))],
      [FUSE.READDIR, reads(40, request => this.#readDirectory(request, false))],
      [FUSE.READDIRPLUS, reads(40, request => this.#readDirectory(request, true))],
      [FUSE.RELEASEDIR, reads(24, request => this.#release(request))],
      [FUSE.MKNOD, writes(16, request => this.#makeNode(request))],
      [FUSE.MKDIR, writes(8, request => this.#makeDirectory(request))],
      [FUSE.SYMLINK, writes(2, request => this.#makeLink(request))],
      [FUSE.LINK, writes(8, request => this.#link(request))],
      [FUSE.UNLINK, writes(1, request => this.#remove(request, false))],
      [FUSE.RMDIR, writes(1, request => this.#remove(request, true))],
      [FUSE.RENAME, writes(8, request => this.#rename(request, ARGS + 8, 0))],
      [FUSE.RENAME2, writes(16, request => this.#rename(request, ARGS + 16, request.u32(ARGS + 8)))],
      [FUSE.GETXATTR, reads(8, request => this.#getAttribute(request))],
      [FUSE.LISTXATTR, reads(8, request => this.#listAttributes(request))],
      [FUSE.SETXATTR, writes(8, request => this.#setAttribute(request))],
      [FUSE.REMOVEXATTR, writes(1, request => this.#removeAttribute(request))],
      [FUSE.FALLOCATE, writes(32, request => this.#allocate(request))],
      [FUSE.LSEEK, reads(24, request => this.#seek(request))],
      [FUSE.COPY_FILE_RANGE, writes(56, request => this.#copy(request))],
    ])
  }

  #init(request: FuseRequest): number {
    const major = request.u32(ARGS)
    if (major < fuse.FUSE_KERNEL_VERSION) return -EIO
    if (major === fuse.FUSE_KERNEL_VERSION && request.u32(ARGS + 4) < fuse.FUSE_LEAST_MINOR_VERSION)
      return -EIO
    this.reset()
    const { view } = this.#reply
    const flags = request.u32(ARGS + 12) & this.#wantedFlags()
    this.#submounts = (flags & fuse.INIT_FLAGS.SUBMOUNTS) !== 0
    this.#writeback = (flags & fuse.INIT_FLAGS.WRITEBACK_CACHE) !== 0
    this.#reply.begin(fuse.INIT_OUT_SIZE)
    view.setUint32(0, fuse.FUSE_KERNEL_VERSION, true)
    view.setUint32(4, fuse.FUSE_KERNEL_MINOR_VERSION, true)
    view.setUint32(8, request.u32(ARGS + 8), true) // read-ahead: as much as the guest wants
    view.setUint32(12, flags, true)
    view.setUint16(16, MAX_BACKGROUND, true)
    view.setUint16(18, (MAX_BACKGROUND * 3) / 4, true)
    view.setUint32(20, MAX_TRANSFER, true)
    view.setUint32(24, 1, true) // times count in nanoseconds
    view.setUint16(28, MAX_TRANSFER / PAGE_SIZE, true)
    return fuse.INIT_OUT_SIZE
  }

  #wantedFlags(): number {
    const { WRITEBACK_CACHE, ...always } = fuse.INIT_FLAGS
    const flags = Object.values(always).reduce((all, flag) => all | flag, 0)
    return this.#options.writeback && this.#options.cache !== "none" ? flags | WRITEBACK_CACHE : flags
  }

  #destroy(): number {
    this.reset()
    return 0
  }

  #lookup(request: FuseRequest): number {
    const parent = this.#inodes.get(request.nodeId)
    const name = request.name(ARGS)
    if (!parent) return -ENOENT
    return name ? this.#entry(parent, name) : -EINVAL
  }

  #forget(request: FuseRequest): number {
    this.#inodes.forget(request.nodeId, request.u64(ARGS))
    return NO_REPLY
  }

  #batchForget(request: FuseRequest): number {
    const first = ARGS + 8
    const count = Math.min(request.u32(ARGS), Math.floor((request.length - first) / fuse.FORGET_ONE_SIZE))
    for (let i = 0; i < count; i++) {
      const at = first + i * fuse.FORGET_ONE_SIZE
      this.#inodes.forget(request.u64(at), request.u64(at + 8))
    }
    return NO_REPLY
  }

  #getAttributes(request: FuseRequest): number {
    const inode = this.#inodes.get(request.nodeId)
    return inode ? this.#attributes(inode) : -ENOENT
  }

  #setAttributes(request: FuseRequest): number {
    const inode = this.#inodes.get(request.nodeId)
    if (!inode) return -ENOENT
    const valid = request.u32(ARGS)
    const has = (flag: number) => (valid & flag) !== 0
    const { UID, GID, MODE, SIZE } = fuse.FATTR
    const steps = [
      has(MODE) && (() => this.#folder.changeMode(inode, request.u32(ARGS + 68))),
      (has(UID) || has(GID)) && (() => this.#changeOwner(inode, request, has(UID), has(GID))),
      has(SIZE) && (() => this.#changeSize(inode, request, has(fuse.FATTR.FH))),
      (valid & TIMES) !== 0 && (() => this.#changeTimes(inode, request, valid)),
    ]
    for (const step of steps) {
      const result = step ? step() : 0
      if (result < 0) return result
    }
    return this.#attributes(inode)
  }

  #changeOwner(inode: Inode, request: FuseRequest, hasUid: boolean, hasGid: boolean): number {
    const uid = hasUid ? request.u32(ARGS + 76) : undefined
    const gid = hasGid ? request.u32(ARGS + 80) : undefined
    return this.#folder.changeOwner(inode, uid, gid)
  }

  #changeSize(inode: Inode, request: FuseRequest, hasHandle: boolean): number {
    const size = request.u64(ARGS + 16)
    if (size > Number.MAX_SAFE_INTEGER) return -EINVAL
    const handle = hasHandle ? this.#handles.file(request.u64(ARGS + 8)) : undefined
    if (hasHandle && !handle) return -EBADF
    return this.#folder.changeSize(inode, size, handle?.fd)
  }

  #changeTimes(inode: Inode, request: FuseRequest, valid: number): number {
    const times = new DataView(new ArrayBuffer(32))
    const put = (at: number, set: number, now: number, seconds: number, nanoseconds: number) => {
      times.setBigInt64(at, (valid & set) !== 0 ? request.bigint(ARGS + seconds) : 0n, true)
      const special = (valid & now) !== 0 ? abi.UTIME_NOW : abi.UTIME_OMIT
      const exact = (valid & (set | now)) === set
      times.setBigInt64(at + 8, BigInt(exact ? request.u32(ARGS + nanoseconds) : special), true)
    }
    put(0, fuse.FATTR.ATIME, fuse.FATTR.ATIME_NOW, 32, 56)
    put(16, fuse.FATTR.MTIME, fuse.FATTR.MTIME_NOW, 40, 60)
    return this.#folder.changeTimes(inode, new Uint8Array(times.buffer))
  }

  #readLink(request: FuseRequest): number {
    const inode = this.#inodes.get(request.nodeId)
    if (!inode) return -ENOENT
    return this.#folder.readLink(inode, this.#reply.bytes.subarray(0, PAGE_SIZE))
  }

  #statFileSystem(request: FuseRequest): number {
    const inode = this.#inodes.get(request.nodeId)
    if (!inode) return -ENOENT
    const statfs = new DataView(new ArrayBuffer(abi.STATFS_SIZE))
    const result = this.#folder.statFileSystem(inode, new Uint8Array(statfs.buffer))
    if (result < 0) return result
    this.#reply.begin(fuse.STATFS_OUT_SIZE)
    const { view } = this.#reply
    const { STATFS } = abi
    const counts = [STATFS.blocks, STATFS.blocksFree, STATFS.blocksAvailable, STATFS.files, STATFS.filesFree]
    for (const [index, at] of counts.entries())
      view.setBigUint64(index * 8, statfs.getBigUint64(at, true), true)
    const sizes = [STATFS.blockSize, STATFS.nameLength, STATFS.fragmentSize]
    for (const [index, at] of sizes.entries())
      view.setUint32(40 + index * 4, statfs.getUint32(at, true), true)
    return fuse.STATFS_OUT_SIZE
  }

  #open(request: FuseRequest): number {
    const inode = this.#inodes.get(request.nodeId)
    if (!inode) return -ENOENT
    if (this.#handles.isFull) return -ENFILE
    const fd = this.#folder.openFile(inode, this.#openFlags(request.u32(ARGS)))
    return fd < 0 ? fd : this.#opened(0, { fd, isDirectory: false })
  }

  /** With write-back the guest reads what it will write to, and knows itself where a file ends. */
  #openFlags(flags: number): number {
    if (!this.#writeback) return flags
    const readable = (flags & abi.O_ACCMODE) === abi.O_WRONLY ? (flags & ~abi.O_ACCMODE) | abi.O_RDWR : flags
    return readable & ~abi.O_APPEND
  }

  #create(request: FuseRequest): number {
    const parent = this.#inodes.get(request.nodeId)
    const name = request.name(ARGS + 16)
    if (!parent) return -ENOENT
    if (!name) return -EINVAL
    if (this.#handles.isFull || this.#inodes.isFull) return -ENFILE
    const flags = request.u32(ARGS)
    const open = this.#openFlags(flags)
    const fd = this.#folder.readOnly
      ? -EROFS
      : this.#folder.create(parent, name, open, request.u32(ARGS + 4), creatorOf(request))
    if (fd >= 0) return this.#openedEntry(parent, this.#folder.identifyOpen(fd), fd)
    const isThere = fd === -EEXIST || fd === -EROFS
    return isThere && (flags & abi.O_EXCL) === 0 ? this.#openExisting(parent, name, open, fd) : fd
  }

  #openExisting(parent: Inode, name: Uint8Array, flags: number, otherwise: number): number {
    const found = this.#folder.lookup(parent, name)
    if (typeof found === "number") return found === -ENOENT ? otherwise : found
    const inode = this.#inodes.remember(found)
    const fd = this.#folder.openFile(inode, flags)
    if (fd < 0) {
      this.#inodes.forget(inode.id, 1)
      return fd
    }
    return this.#writeOpenedEntry(parent, inode, fd)
  }

  #createUnnamed(request: FuseRequest): number {
    const directory = this.#inodes.get(request.nodeId)
    if (!directory) return -ENOENT
    if (this.#handles.isFull || this.#inodes.isFull) return -ENFILE
    const flags = this.#openFlags(request.u32(ARGS))
    const fd = this.#folder.createUnnamed(directory, flags, request.u32(ARGS + 4), creatorOf(request))
    return fd < 0 ? fd : this.#openedEntry(directory, this.#folder.identifyOpen(fd), fd)
  }

  #openedEntry(parent: Inode, found: NewInode | number, fd: number): number {
    if (typeof found !== "number") return this.#writeOpenedEntry(parent, this.#inodes.remember(found), fd)
    closeFd(fd)
    return found
  }

  /** struct fuse_entry_out, then struct fuse_open_out. */
  #writeOpenedEntry(parent: Inode, inode: Inode, fd: number): number {
    const entry = this.#writeEntry(parent, inode, 0)
    if (entry < 0) {
      closeFd(fd)
      this.#inodes.forget(inode.id, 1)
      return entry
    }
    return fuse.ENTRY_OUT_SIZE + this.#opened(fuse.ENTRY_OUT_SIZE, { fd, isDirectory: false })
  }

  #openDirectory(request: FuseRequest): number {
    const inode = this.#inodes.get(request.nodeId)
    if (!inode) return -ENOENT
    if (this.#handles.isFull) return -ENFILE
    const fd = this.#folder.openDirectory(inode)
    return fd < 0 ? fd : this.#opened(0, { fd, isDirectory: true, position: 0n })
  }

  /** struct fuse_open_out at `offset`. */
  #opened(offset: number, handle: { fd: number; isDirectory: boolean; position?: bigint }): number {
    const { bytes, view } = this.#reply
    bytes.fill(0, offset, offset + fuse.OPEN_OUT_SIZE)
    this.#reply.u64(offset, this.#handles.add(handle))
    view.setUint32(offset + 8, this.#cacheFlags(handle.isDirectory), true)
    return fuse.OPEN_OUT_SIZE
  }

  #cacheFlags(isDirectory: boolean): number {
    const { cache } = this.#options
    if (cache === "none") return isDirectory ? 0 : fuse.FOPEN_DIRECT_IO
    if (cache === "auto") return 0
    return isDirectory ? fuse.FOPEN_KEEP_CACHE | fuse.FOPEN_CACHE_DIR : fuse.FOPEN_KEEP_CACHE
  }

  #release(request: FuseRequest): number {
    this.#handles.close(request.u64(ARGS))
    return 0
  }

  #readDirectory(request: FuseRequest, plus: boolean): number {
    const parent = this.#inodes.get(request.nodeId)
    const handle = this.#handles.directory(request.u64(ARGS))
    if (!parent || !handle) return -EBADF
    const isShown = (name: Uint8Array) => this.#folder.isShared(parent, name)
    const lookUp = plus ? (entry: DirectoryEntry, at: number) => this.#tryEntry(parent, entry, at) : undefined
    const [position, size] = [request.bigint(ARGS + 8), request.u32(ARGS + 16)]
    return this.#directories.read(handle, position, size, this.#reply, isShown, lookUp)
  }

  /** A name that is gone meanwhile, or one too many, stays without an entry: the guest looks it up when it needs to. */
  #tryEntry(parent: Inode, { name, isDot }: DirectoryEntry, offset: number): void {
    if (isDot || this.#inodes.isFull) return
    const found = this.#folder.lookup(parent, name)
    if (typeof found === "number") return
    const inode = this.#inodes.remember(found)
    if (this.#writeEntry(parent, inode, offset) >= 0) return
    this.#reply.bytes.fill(0, offset, offset + fuse.ENTRY_OUT_SIZE)
    this.#inodes.forget(inode.id, 1)
  }

  #makeNode(request: FuseRequest): number {
    return this.#make(request, ARGS + 16, (parent, name) =>
      this.#folder.makeNode(parent, name, request.u32(ARGS), creatorOf(request)),
    )
  }

  #makeDirectory(request: FuseRequest): number {
    return this.#make(request, ARGS + 8, (parent, name) =>
      this.#folder.makeDirectory(parent, name, request.u32(ARGS), creatorOf(request)),
    )
  }

  #makeLink(request: FuseRequest): number {
    const name = request.text(ARGS)
    const target = name && request.text(ARGS + name.length + 1)
    if (!target) return -EINVAL
    return this.#make(request, ARGS, (parent, own) =>
      this.#folder.makeLink(parent, own, target, creatorOf(request)),
    )
  }

  #link(request: FuseRequest): number {
    const inode = this.#inodes.get(request.u64(ARGS))
    if (!inode) return -ENOENT
    return this.#make(request, ARGS + 8, (parent, name) => this.#folder.link(inode, parent, name))
  }

  /** Makes something under a name and answers with its entry. */
  #make(request: FuseRequest, nameAt: number, make: (parent: Inode, name: Uint8Array) => number): number {
    const parent = this.#inodes.get(request.nodeId)
    const name = request.name(nameAt)
    if (!parent) return -ENOENT
    if (!name) return -EINVAL
    if (this.#inodes.isFull) return -ENFILE
    const result = make(parent, name)
    return result < 0 ? result : this.#entry(parent, name)
  }

  #remove(request: FuseRequest, isDirectory: boolean): number {
    const parent = this.#inodes.get(request.nodeId)
    const name = request.name(ARGS)
    if (!parent) return -ENOENT
    if (!name) return -EINVAL
    return isDirectory ? this.#folder.removeDirectory(parent, name) : this.#folder.unlink(parent, name)
  }

  #rename(request: FuseRequest, nameAt: number, flags: number): number {
    const from = this.#inodes.get(request.nodeId)
    const to = this.#inodes.get(request.u64(ARGS))
    const name = request.name(nameAt)
    const newName = name && request.name(nameAt + name.length + 1)
    if (!from || !to) return -ENOENT
    return newName ? this.#folder.rename(from, name, to, newName, flags) : -EINVAL
  }

  #getAttribute(request: FuseRequest): number {
    const inode = this.#inodes.get(request.nodeId)
    const name = request.text(ARGS + 8)
    if (!inode) return -ENOENT
    const own = name && hostAttribute(Buffer.from(name).toString("latin1"))
    if (!own) return -EOPNOTSUPP
    const into = this.#reply.bytes.subarray(0, MAX_XATTR_SIZE)
    const length = files.getxattr(this.#folder.pathOf(inode), Buffer.from(own, "latin1"), into)
    // No such kind of attribute on a link or a FIFO: there is none.
    return length < 0 ? (length === -EPERM ? -ENODATA : length) : this.#sized(request, length)
  }

  #listAttributes(request: FuseRequest): number {
    const inode = this.#inodes.get(request.nodeId)
    if (!inode) return -ENOENT
    const list = Buffer.alloc(MAX_XATTR_SIZE)
    const length = files.listxattr(this.#folder.pathOf(inode), list)
    if (length < 0) return length
    const shown = guestAttributes(list.subarray(0, length))
    this.#reply.bytes.set(shown)
    return this.#sized(request, shown.length)
  }

  /** The value, or for size 0 how long it is. */
  #sized(request: FuseRequest, length: number): number {
    const size = request.u32(ARGS)
    if (size > 0) return length <= size ? length : -ERANGE
    this.#reply.begin(8)
    this.#reply.view.setUint32(0, length, true)
    return 8
  }

  #setAttribute(request: FuseRequest): number {
    const inode = this.#inodes.get(request.nodeId)
    const name = request.text(ARGS + 8)
    if (!inode) return -ENOENT
    const own = name && hostAttribute(Buffer.from(name).toString("latin1"))
    if (!own) return -EOPNOTSUPP
    const value = request.bytesFrom(ARGS + 8 + name.length + 1)
    if (value.length !== request.u32(ARGS)) return -EINVAL
    const flags = request.u32(ARGS + 4)
    return files.setxattr(this.#folder.pathOf(inode), Buffer.from(own, "latin1"), value, flags)
  }

  #removeAttribute(request: FuseRequest): number {
    const inode = this.#inodes.get(request.nodeId)
    const name = request.text(ARGS)
    if (!inode) return -ENOENT
    const own = name && hostAttribute(Buffer.from(name).toString("latin1"))
    return own ? files.removexattr(this.#folder.pathOf(inode), Buffer.from(own, "latin1")) : -EOPNOTSUPP
  }

  #allocate(request: FuseRequest): number {
    const handle = this.#handles.file(request.u64(ARGS))
    if (!handle) return -EBADF
    const [offset, length] = [request.u64(ARGS + 8), request.u64(ARGS + 16)]
    if (offset + length > Number.MAX_SAFE_INTEGER) return -EINVAL
    return this.#folder.allocate(handle.fd, request.u32(ARGS + 24), offset, length)
  }

  #seek(request: FuseRequest): number {
    const handle = this.#handles.file(request.u64(ARGS))
    const whence = request.u32(ARGS + 16)
    if (!handle) return -EBADF
    if (whence > abi.SEEK_HOLE) return -EINVAL
    const result = files.lseek(handle.fd, request.bigint(ARGS + 8), whence)
    if (result < 0) return result
    this.#reply.u64(0, result)
    return 8
  }

  #copy(request: FuseRequest): number {
    const from = this.#handles.file(request.u64(ARGS))
    const to = this.#handles.file(request.u64(ARGS + 24))
    if (!from || !to) return -EBADF
    const offset = (at: number) => new Uint8Array(BigInt64Array.of(request.bigint(at)).buffer)
    const length = Math.min(request.u64(ARGS + 40), MAX_COPY)
    const copied = files.copyFileRange(from.fd, offset(ARGS + 8), to.fd, offset(ARGS + 32), length, 0)
    // Between file systems the guest copies by itself.
    if (copied < 0) return copied === -EXDEV ? -EOPNOTSUPP : copied
    this.#reply.begin(8)
    this.#reply.view.setUint32(0, copied, true)
    return 8
  }

  /** Looks a name up and answers with its entry. */
  #entry(parent: Inode, name: Uint8Array): number {
    const found = this.#folder.lookup(parent, name)
    if (typeof found === "number") return found
    if (this.#inodes.isFull) {
      closeFd(found.fd)
      return -ENFILE
    }
    const inode = this.#inodes.remember(found)
    const result = this.#writeEntry(parent, inode, 0)
    if (result < 0) this.#inodes.forget(inode.id, 1)
    return result
  }

  /** struct fuse_entry_out at `offset`. */
  #writeEntry(parent: Inode, inode: Inode, offset: number): number {
    const result = this.#folder.stat(inode)
    if (result < 0) return result
    const valid = VALID_SECONDS[this.#options.cache]
    const flags = this.#submounts && inode.device !== parent.device ? fuse.FUSE_ATTR_SUBMOUNT : 0
    this.#reply.bytes.fill(0, offset, offset + 40)
    this.#reply.u64(offset, inode.id)
    this.#reply.u64(offset + 16, valid)
    this.#reply.u64(offset + 24, valid)
    this.#reply.attributes(offset + 40, this.#folder.statx, this.#folder.owners, flags)
    return fuse.ENTRY_OUT_SIZE
  }

  /** struct fuse_attr_out. */
  #attributes(inode: Inode): number {
    const result = this.#folder.stat(inode)
    if (result < 0) return result
    this.#reply.begin(16)
    this.#reply.u64(0, VALID_SECONDS[this.#options.cache])
    this.#reply.attributes(16, this.#folder.statx, this.#folder.owners, 0)
    return fuse.ATTR_OUT_SIZE
  }
}

/** Any of the bits that change times. */
const TIMES = fuse.FATTR.ATIME | fuse.FATTR.MTIME | fuse.FATTR.ATIME_NOW | fuse.FATTR.MTIME_NOW

const creatorOf = (request: FuseRequest): Creator => ({ uid: request.uid, gid: request.gid })
