import { constants } from "node:os"
import { MAP_ALIGNMENT } from "./dax-window.js"
import { ARGS, type FuseOptions, FuseSession, NO_REPLY, type Operation, reads } from "./fuse-session.js"
import type { Handle } from "./handle-table.js"
import { attributeOperations } from "./operations/attributes.js"
import { isUnlock, lockOperations, lockRequest } from "./operations/locks.js"
import { mappingOperations } from "./operations/mappings.js"
import { nameOperations } from "./operations/names.js"
import { openFileOperations } from "./operations/open-files.js"
import { xattrOperations } from "./operations/xattrs.js"
import * as fuse from "./protocol.js"
import { FUSE } from "./protocol.js"
import type { FuseReply } from "./reply.js"
import type { FuseRequest } from "./request.js"
import type { SharedFolder } from "./shared-folder.js"

export type { FsCacheMode } from "./fuse-session.js"
export { NO_REPLY }

const { EBADF, EINVAL, EIO, ENOSYS, EROFS } = constants.errno

/** Bytes of data in one read or write. */
export const MAX_TRANSFER = 1024 * 1024
const PAGE_SIZE = 4096
const MAX_BACKGROUND = 64
const FSYNC_IN_SIZE = 16

/**
 * What is answered. Not, unless locks are the host's: FLUSH, as the file systems of a host tell of write errors when they
 * are written or synced; GETLK, SETLK, SETLKW, since locks are the guest's own. Not, unless there is a DAX window:
 * SETUPMAPPING and REMOVEMAPPING. Never: ACCESS, as the guest's kernel
 * checks permissions; SYNCFS, which would let a guest stop the host's other writers; IOCTL, POLL, BMAP, which are for devices and block maps; STATX, as
 * GETATTR tells all but the time of birth. They get ENOSYS, after which Linux does without them.
 */
const OPERATIONS: ReadonlyMap<number, Operation> = new Map<number, Operation>([
  [FUSE.INIT, reads(16, initialize)],
  [FUSE.DESTROY, reads(0, destroy)],
  [FUSE.INTERRUPT, reads(8, interrupt)],
  ...nameOperations,
  ...attributeOperations,
  ...openFileOperations,
  ...xattrOperations,
  ...mappingOperations,
])

/**
 * A FUSE server over a {@link SharedFolder}: takes a request, does it, and puts the answer together.
 *
 * Every request's arguments are checked here or by the host's kernel; a request that makes no sense gets `EINVAL`, one
 * that names a file or handle that there is not gets `ENOENT` or `EBADF`, one that names a file which the host has moved
 * or removed `ESTALE`, one before INIT `EIO`.
 */
export class FuseServer {
  readonly #session: FuseSession

  constructor(folder: SharedFolder, reply: FuseReply, options: FuseOptions) {
    this.#session = new FuseSession(folder, reply, options)
  }

  /** Files that the guest knows, and those that it has open. */
  get counts(): { readonly inodes: number; readonly handles: number } {
    return { inodes: this.#session.inodes.size, handles: this.#session.handles.size }
  }

  /** @returns bytes of the answer's body, a negative errno, or `NO_REPLY` */
  serve(request: FuseRequest): number {
    const { agreed } = this.#session
    const ofLocks = lockOperations.get(request.opcode)
    const operation = ofLocks ?? OPERATIONS.get(request.opcode)
    if (!operation) return -ENOSYS
    if (!agreed && request.opcode !== FUSE.INIT) return -EIO
    if (ofLocks && !agreed?.locks) return -ENOSYS
    if (request.length < ARGS + operation.least) return -EINVAL
    if (operation.writes && this.#session.folder.readOnly) return -EROFS
    this.#session.trim()
    return operation.run(this.#session, request)
  }

  /**
   * SETLKW: waits until a lock is free.
   *
   * @param done - called with 0 or a negative errno, unless that is there at once
   * @returns 0 or a negative errno, undefined while it waits
   */
  waitForLock(request: FuseRequest, done: (result: number) => void): number | undefined {
    const session = this.#session
    if (!session.agreed) return -EIO
    if (!session.agreed.locks) return -ENOSYS
    if (request.length < ARGS + fuse.LK_IN_SIZE) return -EINVAL
    const ask = lockRequest(session, request)
    // Giving back waits for nobody, and those who wait are asked while it is done.
    if (isUnlock(request)) return ask()
    return session.lockWaiters.ask(request.id, request.nodeId, ask, done)
  }

  /** What a read or write works on, or a negative errno. */
  dataHandle(request: FuseRequest): Handle | number {
    if (request.length < ARGS + fuse.READ_IN_SIZE) return -EINVAL
    const { agreed, folder, handles } = this.#session
    if (!agreed) return -EIO
    if (request.opcode === FUSE.WRITE && folder.readOnly) return -EROFS
    return handles.file(request.u64(ARGS), request.nodeId) ?? -EBADF
  }

  /** The fd that a fsync works on, or a negative errno. */
  syncFd(request: FuseRequest): number {
    if (request.length < ARGS + FSYNC_IN_SIZE) return -EINVAL
    const { agreed, handles } = this.#session
    if (!agreed) return -EIO
    const [number, node] = [request.u64(ARGS), request.nodeId]
    const handle =
      request.opcode === FUSE.FSYNC ? handles.file(number, node) : handles.directory(number, node)
    return handle?.fd ?? -EBADF
  }

  /** The guest is gone: nothing of what it knew or had open is kept. */
  reset(): void {
    this.#session.reset()
  }
}

function initialize(session: FuseSession, request: FuseRequest): number {
  const [major, minor] = [request.u32(ARGS), request.u32(ARGS + 4)]
  if (major < fuse.FUSE_KERNEL_VERSION) return -EIO
  if (major === fuse.FUSE_KERNEL_VERSION && minor < fuse.FUSE_LEAST_MINOR_VERSION) return -EIO
  session.reset()
  session.reply.begin(fuse.INIT_OUT_SIZE)
  const { view } = session.reply
  view.setUint32(0, fuse.FUSE_KERNEL_VERSION, true)
  view.setUint32(4, fuse.FUSE_KERNEL_MINOR_VERSION, true)
  // Whoever speaks a later version is told of this one, and begins again.
  if (major > fuse.FUSE_KERNEL_VERSION) return fuse.INIT_OUT_SIZE
  const flags = agreedFlags(request.u32(ARGS + 12), session)
  session.agreed = {
    acl: (flags & fuse.ACL_FLAGS) !== 0,
    dax: (flags & fuse.DAX_FLAG) !== 0,
    locks: (flags & fuse.LOCK_FLAGS) !== 0,
    submounts: (flags & fuse.INIT_FLAGS.SUBMOUNTS) !== 0,
    writeback: (flags & fuse.INIT_FLAGS.WRITEBACK_CACHE) !== 0,
  }
  view.setUint32(8, request.u32(ARGS + 8), true) // read-ahead: as much as the guest wants
  view.setUint32(12, flags, true)
  view.setUint16(16, MAX_BACKGROUND, true)
  view.setUint16(18, (MAX_BACKGROUND * 3) / 4, true)
  view.setUint32(20, MAX_TRANSFER, true)
  view.setUint32(24, 1, true) // times count in nanoseconds
  view.setUint16(28, MAX_TRANSFER / PAGE_SIZE, true)
  if (session.agreed.dax) view.setUint16(30, MAP_ALIGNMENT, true)
  return fuse.INIT_OUT_SIZE
}

/** What both want. */
function agreedFlags(offered: number, { options }: FuseSession): number {
  const { WRITEBACK_CACHE, ...always } = fuse.INIT_FLAGS
  let flags = Object.values(always).reduce((all, flag) => all | flag, 0)
  if (options.writeback && options.cache !== "none") flags |= WRITEBACK_CACHE
  if (options.window?.regions.length) flags |= fuse.DAX_FLAG
  for (const [isWanted, all] of [
    [options.locks, fuse.LOCK_FLAGS],
    [options.acl, fuse.ACL_FLAGS],
  ] as const)
    if (isWanted && (offered & all) === all) flags |= all
  return offered & flags
}

/** Only waits for locks take so long that they can be interrupted. */
function interrupt(session: FuseSession, request: FuseRequest): number {
  session.lockWaiters.interrupt(request.bigint(ARGS))
  return NO_REPLY
}

function destroy(session: FuseSession): number {
  session.reset()
  return 0
}
