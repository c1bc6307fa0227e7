// Extended attributes.
import { constants } from "node:os"
import { ARGS, type FuseSession, type Operation, reads, writes } from "../fuse-session.js"
import type { Inode } from "../inode-table.js"
import { FUSE } from "../protocol.js"
import type { FuseRequest } from "../request.js"
import { guestAttributes, hostAttribute } from "../xattr-names.js"

const { EINVAL, ENOENT, EOPNOTSUPP, ERANGE } = constants.errno
/** XATTR_SIZE_MAX and XATTR_LIST_MAX. */
const MAX_SIZE = 64 * 1024

export const xattrOperations: readonly (readonly [number, Operation])[] = [
  [FUSE.GETXATTR, reads(8, getAttribute)],
  [FUSE.LISTXATTR, reads(8, listAttributes)],
  [FUSE.SETXATTR, writes(8, setAttribute)],
  [FUSE.REMOVEXATTR, writes(1, removeAttribute)],
]

/** Calls `act` with the request's file and the host's name of the attribute at `nameAt`. */
function withAttribute(
  session: FuseSession,
  request: FuseRequest,
  nameAt: number,
  act: (inode: Inode, name: Uint8Array, nameSize: number) => number,
): number {
  const inode = session.inodes.get(request.nodeId)
  if (!inode) return -ENOENT
  const name = request.text(nameAt)
  if (!name || name.length === 0) return -EINVAL
  const own = hostAttribute(Buffer.from(name).toString("latin1"))
  if (own === undefined) return -EOPNOTSUPP
  return act(inode, Buffer.from(own, "latin1"), name.length)
}

function getAttribute(session: FuseSession, request: FuseRequest): number {
  return withAttribute(session, request, ARGS + 8, (inode, name) => {
    const length = session.folder.getAttribute(inode, name, session.reply.bytes.subarray(0, MAX_SIZE))
    return length < 0 ? length : sized(session, request, length)
  })
}

function listAttributes(session: FuseSession, request: FuseRequest): number {
  const inode = session.inodes.get(request.nodeId)
  if (!inode) return -ENOENT
  const list = Buffer.alloc(MAX_SIZE)
  const length = session.folder.listAttributes(inode, list)
  if (length < 0) return length
  const shown = guestAttributes(list.subarray(0, length))
  session.reply.bytes.set(shown)
  return sized(session, request, shown.length)
}

/** The value that is in the reply, or for size 0 how long it is. */
function sized(session: FuseSession, request: FuseRequest, length: number): number {
  const size = request.u32(ARGS)
  if (size > 0) return length <= size ? length : -ERANGE
  session.reply.begin(8)
  session.reply.view.setUint32(0, length, true)
  return 8
}

function setAttribute(session: FuseSession, request: FuseRequest): number {
  return withAttribute(session, request, ARGS + 8, (inode, name, nameSize) => {
    const value = request.bytesFrom(ARGS + 8 + nameSize + 1)
    if (value.length !== request.u32(ARGS)) return -EINVAL
    return session.folder.setAttribute(inode, name, value, request.u32(ARGS + 4))
  })
}

function removeAttribute(session: FuseSession, request: FuseRequest): number {
  return withAttribute(session, request, ARGS, (inode, name) => session.folder.removeAttribute(inode, name))
}
