// Locks that the host sees: GETLK, SETLK, FLUSH, where a session agreed on them. SETLKW, which may have to wait, is the
// device's.
import { constants } from "node:os"
import { ARGS, type FuseSession, type Operation, reads } from "../fuse-session.js"
import * as abi from "../host-abi.js"
import { isRangeLock, type RangeLock } from "../lock-table.js"
import { FILE_LOCK_SIZE, FUSE, FUSE_LK_FLOCK, LK_IN_SIZE } from "../protocol.js"
import type { FuseRequest } from "../request.js"

const { EBADF, EINVAL } = constants.errno
/** By lock type. */
const FLOCK_OPERATIONS = [abi.LOCK_SH, abi.LOCK_EX, abi.LOCK_UN] as const

export const lockOperations: ReadonlyMap<number, Operation> = new Map([
  [FUSE.GETLK, reads(LK_IN_SIZE, getLock)],
  [FUSE.SETLK, reads(LK_IN_SIZE, (session, request) => lockRequest(session, request)())],
  [FUSE.FLUSH, reads(24, flush)],
])

/**
 * What a SETLK or SETLKW asks for, as a function that tries it: 0, `-EAGAIN` when somebody else has the lock, or another
 * negative errno. The request may be gone by then; that its file is still open is looked at each time.
 */
export function lockRequest(session: FuseSession, request: FuseRequest): () => number {
  const [node, handle, owner] = [request.nodeId, request.u64(ARGS), request.bigint(ARGS + 8)]
  const lock = rangeOf(request)
  if (!isRangeLock(lock)) return () => -EINVAL
  const isFlock = (request.u32(ARGS + 40) & FUSE_LK_FLOCK) !== 0
  const givesBack = isUnlock(request)
  return () => {
    const file = session.handles.file(handle, node)
    const inode = session.inodes.get(node)
    if (!file) return -EBADF
    if (typeof inode === "number") return inode
    const result = isFlock
      ? session.folder.lockWhole(file.fd, FLOCK_OPERATIONS[lock.type] ?? abi.LOCK_UN)
      : session.locks.set(inode, handle, owner, lock)
    if (givesBack) session.lockWaiters.retry(node)
    return result
  }
}

/** Whether a SETLK or SETLKW gives a lock back. */
export function isUnlock(request: FuseRequest): boolean {
  return rangeOf(request).type === abi.F_UNLCK
}

/** struct fuse_file_lock in a request. */
function rangeOf(request: FuseRequest): RangeLock {
  return {
    start: request.bigint(ARGS + 16),
    end: request.bigint(ARGS + 24),
    type: request.u32(ARGS + 32),
  }
}

function getLock(session: FuseSession, request: FuseRequest): number {
  const inode = session.inodes.get(request.nodeId)
  if (typeof inode === "number") return inode
  const lock = rangeOf(request)
  if (!isRangeLock(lock) || lock.type === abi.F_UNLCK) return -EINVAL
  const found = session.locks.test(inode, request.bigint(ARGS + 8), lock)
  if (typeof found === "number") return found
  // Whose it is nobody says: its process is none of the guest's, or the guest knows better.
  session.reply.begin(FILE_LOCK_SIZE)
  session.reply.view.setBigInt64(0, found.start, true)
  session.reply.view.setBigInt64(8, found.end, true)
  session.reply.view.setUint32(16, found.type, true)
  return FILE_LOCK_SIZE
}

/** A process closed one of its fds of a file: POSIX takes all its locks of that file away. */
function flush(session: FuseSession, request: FuseRequest): number {
  const node = request.nodeId
  if (!session.handles.file(request.u64(ARGS), node)) return -EBADF
  session.locks.release(node, request.bigint(ARGS + 16))
  session.lockWaiters.retry(node)
  return 0
}
