// What is done to names: LOOKUP, FORGET, and all that makes, links, renames and removes.
import { constants } from "node:os"
import { ARGS, type FuseSession, NO_REPLY, type Operation, reads, writes } from "../fuse-session.js"
import { RENAME_EXCHANGE } from "../host-abi.js"
import type { Inode, NameIn } from "../inode-table.js"
import { FORGET_ONE_SIZE, FUSE } from "../protocol.js"
import type { FuseRequest } from "../request.js"

const { EINVAL, EMFILE } = constants.errno
/** Longest target of a symbolic link, PATH_MAX. */
const MAX_TARGET_SIZE = 4096

export const nameOperations: readonly (readonly [number, Operation])[] = [
  [FUSE.LOOKUP, reads(1, lookUp)],
  [FUSE.FORGET, reads(8, forget)],
  [FUSE.BATCH_FORGET, reads(8, batchForget)],
  [FUSE.READLINK, reads(0, readLink)],
  [FUSE.MKNOD, writes(16, makeNode)],
  [FUSE.MKDIR, writes(8, makeDirectory)],
  [FUSE.SYMLINK, writes(2, makeLink)],
  [FUSE.LINK, writes(8, link)],
  [FUSE.UNLINK, writes(1, unlink)],
  [FUSE.RMDIR, writes(1, removeDirectory)],
  [FUSE.RENAME, writes(8, (session, request) => rename(session, request, ARGS + 8, 0))],
  [
    FUSE.RENAME2,
    writes(16, (session, request) => rename(session, request, ARGS + 16, request.u32(ARGS + 8))),
  ],
]

/** Calls `act` with the request's directory and the name at `nameAt`. */
function withName(
  session: FuseSession,
  request: FuseRequest,
  nameAt: number,
  act: (parent: Inode, name: Uint8Array) => number,
): number {
  const parent = session.inodes.get(request.nodeId)
  if (typeof parent === "number") return parent
  const name = request.name(nameAt)
  return name ? act(parent, name) : request.nameError(nameAt)
}

function lookUp(session: FuseSession, request: FuseRequest): number {
  return withName(session, request, ARGS, (parent, name) => session.entry(parent, name))
}

function forget(session: FuseSession, request: FuseRequest): number {
  session.inodes.forget(request.nodeId, request.u64(ARGS))
  return NO_REPLY
}

function batchForget(session: FuseSession, request: FuseRequest): number {
  const first = ARGS + 8
  const count = Math.min(request.u32(ARGS), Math.floor((request.length - first) / FORGET_ONE_SIZE))
  for (let i = 0; i < count; i++) {
    const at = first + i * FORGET_ONE_SIZE
    session.inodes.forget(request.u64(at), request.u64(at + 8))
  }
  return NO_REPLY
}

function readLink(session: FuseSession, request: FuseRequest): number {
  const inode = session.inodes.get(request.nodeId)
  if (typeof inode === "number") return inode
  return session.folder.readLink(inode, session.reply.bytes.subarray(0, MAX_TARGET_SIZE))
}

function makeNode(session: FuseSession, request: FuseRequest): number {
  return make(session, request, ARGS + 16, (parent, name) =>
    session.folder.makeNode(parent, name, request.u32(ARGS), session.creator(request, ARGS + 8)),
  )
}

function makeDirectory(session: FuseSession, request: FuseRequest): number {
  return make(session, request, ARGS + 8, (parent, name) =>
    session.folder.makeDirectory(parent, name, request.u32(ARGS), session.creator(request, ARGS + 4)),
  )
}

/** The target is the guest's to follow: any bytes will do. */
function makeLink(session: FuseSession, request: FuseRequest): number {
  const name = request.text(ARGS)
  const target = name && request.text(ARGS + name.length + 1)
  if (!target || target.length === 0) return -EINVAL
  return make(session, request, ARGS, (parent, own) => session.folder.makeLink(parent, own, target, request))
}

function link(session: FuseSession, request: FuseRequest): number {
  const inode = session.inodes.get(request.u64(ARGS))
  if (typeof inode === "number") return inode
  return make(session, request, ARGS + 8, (parent, name) => session.folder.link(inode, parent, name))
}

/** Makes something under a name and answers with its entry. */
function make(
  session: FuseSession,
  request: FuseRequest,
  nameAt: number,
  act: (parent: Inode, name: Uint8Array) => number,
): number {
  return withName(session, request, nameAt, (parent, name) => {
    if (session.inodes.isFull) return -EMFILE
    const result = act(parent, name)
    return result < 0 ? result : session.entry(parent, name)
  })
}

function unlink(session: FuseSession, request: FuseRequest): number {
  return remove(session, request, (parent, name) => session.folder.unlink(parent, name))
}

function removeDirectory(session: FuseSession, request: FuseRequest): number {
  return remove(session, request, (parent, name) => session.folder.removeDirectory(parent, name))
}

/** The guest may still work on what it has no name for any more. */
function remove(
  session: FuseSession,
  request: FuseRequest,
  act: (parent: Inode, name: Uint8Array) => number,
): number {
  return withName(session, request, ARGS, (parent, name) => {
    const file = holdNamed(session, parent, name)
    if (typeof file === "number") return file
    const result = act(parent, name)
    if (result >= 0 && file) session.inodes.nameless(file, parent, name)
    return result
  })
}

/**
 * What the guest knows by a name that is about to go, held: it may go on using it. A file that it removes is seldom
 * held, so it is opened first and asked afterwards who it is.
 *
 * @returns undefined when it knows nothing by it
 */
function holdNamed(session: FuseSession, parent: Inode, name: Uint8Array): Inode | number | undefined {
  const found = session.folder.lookup(parent, name)
  if (typeof found !== "number") return session.inodes.adopt(found, [parent, name])
  return found === -EMFILE ? found : undefined
}

function rename(session: FuseSession, request: FuseRequest, nameAt: number, flags: number): number {
  const to = session.inodes.get(request.u64(ARGS))
  if (typeof to === "number") return to
  return withName(session, request, nameAt, (from, name) => {
    const newNameAt = nameAt + name.length + 1
    const newName = request.name(newNameAt)
    return newName ? move(session, [from, name], [to, newName], flags) : request.nameError(newNameAt)
  })
}

function move(session: FuseSession, from: NameIn, to: NameIn, flags: number): number {
  const { folder, inodes } = session
  const [file, other] = [holdNamed(session, ...from), holdNamed(session, ...to)]
  if (typeof file === "number") return file
  if (typeof other === "number") return other
  const result = folder.rename(...from, ...to, flags)
  // Two names of one file both stay.
  if (result < 0 || file === other) return result
  if (file) inodes.place(file, ...to)
  if (other && (flags & RENAME_EXCHANGE) !== 0) inodes.place(other, ...from)
  else if (other) inodes.nameless(other, ...to)
  return result
}
