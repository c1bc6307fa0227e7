// GETATTR, SETATTR, STATFS.
import { constants } from "node:os"
import { ARGS, type FuseSession, type Operation, reads, writes } from "../fuse-session.js"
import * as abi from "../host-abi.js"
import type { Inode } from "../inode-table.js"
import { FATTR, FUSE, STATFS_OUT_SIZE } from "../protocol.js"
import type { FuseRequest } from "../request.js"

const { EBADF, EINVAL } = constants.errno

/** Any of the bits that change times. */
const TIMES = FATTR.ATIME | FATTR.MTIME | FATTR.ATIME_NOW | FATTR.MTIME_NOW

export const attributeOperations: readonly (readonly [number, Operation])[] = [
  [FUSE.GETATTR, reads(16, getAttributes)],
  [FUSE.SETATTR, writes(88, setAttributes)],
  [FUSE.STATFS, reads(0, statFileSystem)],
]

function getAttributes(session: FuseSession, request: FuseRequest): number {
  const inode = session.inodes.get(request.nodeId)
  return typeof inode === "number" ? inode : session.writeAttributes(inode)
}

function setAttributes(session: FuseSession, request: FuseRequest): number {
  const inode = session.inodes.get(request.nodeId)
  if (typeof inode === "number") return inode
  const valid = request.u32(ARGS)
  const steps = [
    // The owner first: its change takes set-user-ID bits away.
    [FATTR.UID | FATTR.GID, changeOwner],
    [FATTR.MODE, changeMode],
    [FATTR.SIZE, changeSize],
    [TIMES, changeTimes],
  ] as const
  for (const [bits, step] of steps) {
    const result = (valid & bits) === 0 ? 0 : step(session, inode, request, valid)
    if (result < 0) return result
  }
  return session.writeAttributes(inode)
}

function changeOwner(session: FuseSession, inode: Inode, request: FuseRequest, valid: number): number {
  const uid = (valid & FATTR.UID) === 0 ? undefined : request.u32(ARGS + 76)
  const gid = (valid & FATTR.GID) === 0 ? undefined : request.u32(ARGS + 80)
  return session.folder.changeOwner(inode, uid, gid)
}

function changeMode(session: FuseSession, inode: Inode, request: FuseRequest): number {
  return session.folder.changeMode(inode, request.u32(ARGS + 68))
}

function changeSize(session: FuseSession, inode: Inode, request: FuseRequest, valid: number): number {
  const size = request.u64(ARGS + 16)
  if (size > Number.MAX_SAFE_INTEGER) return -EINVAL
  if ((valid & FATTR.FH) === 0) return session.folder.changeSize(inode, size)
  const handle = session.handles.file(request.u64(ARGS + 8), inode.id)
  return handle ? session.folder.changeSize(inode, size, handle.fd) : -EBADF
}

function changeTimes(session: FuseSession, inode: Inode, request: FuseRequest, valid: number): number {
  const times = new DataView(new ArrayBuffer(32))
  writeTime(times, 0, valid, FATTR.ATIME, FATTR.ATIME_NOW, request.bigint(ARGS + 32), request.u32(ARGS + 56))
  writeTime(times, 16, valid, FATTR.MTIME, FATTR.MTIME_NOW, request.bigint(ARGS + 40), request.u32(ARGS + 60))
  return session.folder.changeTimes(inode, new Uint8Array(times.buffer))
}

/** One struct timespec, by what of `set` and `now` is valid: the time given, the present, or none. */
function writeTime(
  times: DataView,
  at: number,
  valid: number,
  set: number,
  now: number,
  seconds: bigint,
  nanoseconds: number,
): void {
  const isSet = (valid & (set | now)) !== 0
  const isExact = (valid & now) === 0
  const special = isSet ? abi.UTIME_NOW : abi.UTIME_OMIT
  times.setBigInt64(at, isSet && isExact ? seconds : 0n, true)
  times.setBigInt64(at + 8, BigInt(isSet && isExact ? nanoseconds : special), true)
}

function statFileSystem(session: FuseSession, request: FuseRequest): number {
  const inode = session.inodes.get(request.nodeId)
  if (typeof inode === "number") return inode
  const statfs = new DataView(new ArrayBuffer(abi.STATFS_SIZE))
  const result = session.folder.statFileSystem(inode, new Uint8Array(statfs.buffer))
  if (result < 0) return result
  const { view } = session.reply
  const { STATFS } = abi
  session.reply.begin(STATFS_OUT_SIZE)
  const counts = [STATFS.blocks, STATFS.blocksFree, STATFS.blocksAvailable, STATFS.files, STATFS.filesFree]
  for (const [index, at] of counts.entries())
    view.setBigUint64(index * 8, statfs.getBigUint64(at, true), true)
  const sizes = [STATFS.blockSize, STATFS.nameLength, STATFS.fragmentSize]
  for (const [index, at] of sizes.entries()) view.setUint32(40 + index * 4, statfs.getUint32(at, true), true)
  return STATFS_OUT_SIZE
}
