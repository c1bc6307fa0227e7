// What is opened, and what is done to open files: OPEN, CREATE, TMPFILE, RELEASE, directories, FALLOCATE, LSEEK,
// COPY_FILE_RANGE. READ, WRITE and FSYNC, which may have to wait, are the device's.
import { constants } from "node:os"
import { closeFd } from "@ts-vmm/native"
import type { DirectoryEntry } from "../directory-reader.js"
import { ARGS, type FuseSession, type Operation, reads, writes } from "../fuse-session.js"
import type { Handle } from "../handle-table.js"
import * as abi from "../host-abi.js"
import type { Inode, KnownFile } from "../inode-table.js"
import * as fuse from "../protocol.js"
import { FUSE } from "../protocol.js"
import type { FuseRequest } from "../request.js"

const { EBADF, EEXIST, EINVAL, EMFILE, ENOENT, EOPNOTSUPP, EROFS, EXDEV } = constants.errno

/** Longest copy inside the host in one request: the guest asks again for the rest. */
const MAX_COPY = 16 * 1024 * 1024

export const openFileOperations: readonly (readonly [number, Operation])[] = [
  [FUSE.OPEN, reads(8, open)],
  [FUSE.CREATE, reads(16, create)],
  [FUSE.TMPFILE, writes(16, createUnnamed)],
  [FUSE.RELEASE, reads(24, release)],
  [FUSE.OPENDIR, reads(8, openDirectory)],
  [FUSE.READDIR, reads(40, (session, request) => readDirectory(session, request, false))],
  [FUSE.READDIRPLUS, reads(40, (session, request) => readDirectory(session, request, true))],
  [FUSE.RELEASEDIR, reads(24, release)],
  [FUSE.FALLOCATE, writes(32, allocate)],
  [FUSE.LSEEK, reads(24, seek)],
  [FUSE.COPY_FILE_RANGE, writes(56, copy)],
]

function open(session: FuseSession, request: FuseRequest): number {
  const inode = session.inodes.get(request.nodeId)
  if (typeof inode === "number") return inode
  if (session.handles.isFull) return -EMFILE
  const flags = openFlags(session, request)
  const fd = session.folder.openFile(inode, flags)
  return fd < 0 ? fd : writeOpened(session, 0, fileHandle(fd, inode, flags))
}

/** With write-back the guest reads what it will write to, and knows itself where a file ends. */
function openFlags(session: FuseSession, request: FuseRequest): number {
  const flags = request.u32(ARGS)
  if (session.agreed?.writeback !== true) return flags
  const readable = (flags & abi.O_ACCMODE) === abi.O_WRONLY ? (flags & ~abi.O_ACCMODE) | abi.O_RDWR : flags
  return readable & ~abi.O_APPEND
}

function create(session: FuseSession, request: FuseRequest): number {
  const parent = session.inodes.get(request.nodeId)
  if (typeof parent === "number") return parent
  const name = request.name(ARGS + 16)
  if (!name) return request.nameError(ARGS + 16)
  if (session.handles.isFull || session.inodes.isFull) return -EMFILE
  const flags = openFlags(session, request)
  const { folder } = session
  const creator = session.creator(request, ARGS + 8)
  const fd = folder.readOnly ? -EROFS : folder.create(parent, name, flags, request.u32(ARGS + 4), creator)
  if (fd >= 0) {
    const file = session.note(folder.identifyOpen(fd), parent, name)
    return openedEntry(session, parent, fd, flags, file)
  }
  const mayExist = (fd === -EEXIST || fd === -EROFS) && (request.u32(ARGS) & abi.O_EXCL) === 0
  return mayExist ? openExisting(session, parent, name, flags, fd) : fd
}

/** @param otherwise - the answer when there is no such file */
function openExisting(
  session: FuseSession,
  parent: Inode,
  name: Uint8Array,
  flags: number,
  otherwise: number,
): number {
  const inode = session.remember(session.folder.lookup(parent, name), [parent, name])
  if (typeof inode === "number") return inode === -ENOENT ? otherwise : inode
  const fd = session.folder.openFile(inode, flags)
  // Opening may have emptied it.
  const result = fd < 0 ? fd : session.folder.stat(inode)
  if (result >= 0) return writeOpenedEntry(session, parent, inode, fd, flags)
  if (fd >= 0) closeFd(fd)
  session.inodes.forget(inode.id, 1)
  return result
}

function createUnnamed(session: FuseSession, request: FuseRequest): number {
  const directory = session.inodes.get(request.nodeId)
  if (typeof directory === "number") return directory
  if (session.handles.isFull || session.inodes.isFull) return -EMFILE
  const { folder } = session
  const flags = openFlags(session, request)
  const creator = session.creator(request, ARGS + 8)
  const fd = folder.createUnnamed(directory, flags, request.u32(ARGS + 4), creator)
  // Only an fd leads to it.
  return fd < 0 ? fd : openedEntry(session, directory, fd, flags, session.remember(folder.holdOpen(fd)))
}

/** The answer for a file that was just made, open already. */
function openedEntry(
  session: FuseSession,
  parent: Inode,
  fd: number,
  flags: number,
  file: KnownFile | number,
): number {
  if (typeof file !== "number") return writeOpenedEntry(session, parent, file, fd, flags)
  closeFd(fd)
  return file
}

/** struct fuse_entry_out, then struct fuse_open_out. */
function writeOpenedEntry(
  session: FuseSession,
  parent: Inode,
  file: KnownFile,
  fd: number,
  flags: number,
): number {
  const size = session.writeEntry(parent, file, 0)
  return size + writeOpened(session, size, fileHandle(fd, file, flags))
}

function openDirectory(session: FuseSession, request: FuseRequest): number {
  const inode = session.inodes.get(request.nodeId)
  if (typeof inode === "number") return inode
  if (session.handles.isFull) return -EMFILE
  const fd = session.folder.openDirectory(inode)
  return fd < 0 ? fd : writeOpened(session, 0, { fd, node: inode.id, isDirectory: true, position: 0n })
}

function fileHandle(fd: number, { id }: KnownFile, flags: number): Handle {
  return { fd, node: id, isDirectory: false, isSynchronous: (flags & abi.O_SYNC) !== 0 }
}

/** struct fuse_open_out at `offset`. */
function writeOpened(session: FuseSession, offset: number, handle: Handle): number {
  const { reply } = session
  reply.bytes.fill(0, offset, offset + fuse.OPEN_OUT_SIZE)
  reply.u64(offset, session.handles.add(handle))
  reply.view.setUint32(offset + 8, cacheFlags(session, handle.isDirectory), true)
  return fuse.OPEN_OUT_SIZE
}

function cacheFlags(session: FuseSession, isDirectory: boolean): number {
  const { cache } = session.options
  if (cache === "none") return isDirectory ? 0 : fuse.FOPEN_DIRECT_IO
  if (cache === "auto") return 0
  return isDirectory ? fuse.FOPEN_KEEP_CACHE | fuse.FOPEN_CACHE_DIR : fuse.FOPEN_KEEP_CACHE
}

function release(session: FuseSession, request: FuseRequest): number {
  const [node, handle] = [request.nodeId, request.u64(ARGS)]
  if (!session.handles.close(handle)) return -EBADF
  // A lock of flock(2) went with its fd.
  session.locks.releaseHandle(node, handle)
  session.lockWaiters.retry(node)
  return 0
}

function readDirectory(session: FuseSession, request: FuseRequest, plus: boolean): number {
  const parent = session.inodes.get(request.nodeId)
  const handle = session.handles.directory(request.u64(ARGS), request.nodeId)
  if (!handle) return -EBADF
  if (typeof parent === "number") return parent
  const lookUp = (entry: DirectoryEntry, at: number) => tryEntry(session, parent, entry, at)
  const [position, size] = [request.bigint(ARGS + 8), request.u32(ARGS + 16)]
  return session.directories.read(parent, handle, position, size, plus ? lookUp : undefined)
}

/** A name that is gone meanwhile, or one too many, stays without an entry: the guest looks it up when it needs to. */
function tryEntry(
  session: FuseSession,
  parent: Inode,
  { name, isDot }: DirectoryEntry,
  offset: number,
): void {
  if (isDot) return
  const inode = session.lookUp(parent, name)
  if (typeof inode !== "number") session.writeEntry(parent, inode, offset)
}

function allocate(session: FuseSession, request: FuseRequest): number {
  const handle = session.handles.file(request.u64(ARGS), request.nodeId)
  if (!handle) return -EBADF
  const [offset, length] = [request.u64(ARGS + 8), request.u64(ARGS + 16)]
  if (offset + length > Number.MAX_SAFE_INTEGER) return -EINVAL
  return session.folder.allocate(handle.fd, request.u32(ARGS + 24), offset, length)
}

function seek(session: FuseSession, request: FuseRequest): number {
  const handle = session.handles.file(request.u64(ARGS), request.nodeId)
  if (!handle) return -EBADF
  const whence = request.u32(ARGS + 16)
  if (whence > abi.SEEK_HOLE) return -EINVAL
  const result = session.folder.seek(handle.fd, request.bigint(ARGS + 8), whence)
  if (result < 0) return result
  session.reply.u64(0, result)
  return 8
}

function copy(session: FuseSession, request: FuseRequest): number {
  const from = session.handles.file(request.u64(ARGS), request.nodeId)
  const to = session.handles.file(request.u64(ARGS + 24), request.u64(ARGS + 16))
  if (!from || !to) return -EBADF
  if (request.bigint(ARGS + 48) !== 0n) return -EINVAL
  const [fromOffset, toOffset] = [request.bigint(ARGS + 8), request.bigint(ARGS + 32)]
  const length = Math.min(request.u64(ARGS + 40), MAX_COPY)
  const copied = session.folder.copy(from.fd, fromOffset, to.fd, toOffset, length)
  // Between file systems the guest copies by itself.
  if (copied < 0) return copied === -EXDEV ? -EOPNOTSUPP : copied
  session.reply.begin(8)
  session.reply.view.setUint32(0, copied, true)
  return 8
}
