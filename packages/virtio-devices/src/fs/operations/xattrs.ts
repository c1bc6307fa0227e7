// Extended attributes.
import { constants } from "node:os"
import { ARGS, type FuseSession, type Operation, reads, writes } from "../fuse-session.js"
import type { Inode } from "../inode-table.js"
import { FUSE, FUSE_SETXATTR_ACL_KILL_SGID } from "../protocol.js"
import type { FuseRequest } from "../request.js"
import { guestAttributes, hostAttribute, isAccessList } from "../xattr-names.js"

const { EINVAL, ENODATA, EOPNOTSUPP, ERANGE } = constants.errno
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
  if (typeof inode === "number") return inode
  const name = request.text(nameAt)
  if (!name || name.length === 0) return -EINVAL
  const own = hostAttribute(Buffer.from(name).toString("latin1"), session.agreed?.acl)
  if (own === undefined) return -EOPNOTSUPP
  return act(inode, Buffer.from(own, "latin1"), name.length)
}

function getAttribute(session: FuseSession, request: FuseRequest): number {
  return withAttribute(session, request, ARGS + 8, (inode, name) => {
    const length = session.folder.getAttribute(inode, name, session.reply.bytes.subarray(0, MAX_SIZE))
    // Linux would refuse every access to a file whose list it cannot read: where there can be none, there is none.
    if (length === -EOPNOTSUPP && isAccessList(Buffer.from(name).toString("latin1"))) return -ENODATA
    return length < 0 ? length : sized(session, request, length)
  })
}

function listAttributes(session: FuseSession, request: FuseRequest): number {
  const inode = session.inodes.get(request.nodeId)
  if (typeof inode === "number") return inode
  const list = Buffer.alloc(MAX_SIZE)
  const length = session.folder.listAttributes(inode, list)
  if (length < 0) return length
  const shown = guestAttributes(list.subarray(0, length), session.agreed?.acl)
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
  // FUSE_SETXATTR_EXT, which comes with access lists, makes struct fuse_setxattr_in longer.
  const isLong = session.agreed?.acl === true
  const nameAt = ARGS + (isLong ? 16 : 8)
  return withAttribute(session, request, nameAt, (inode, name, nameSize) => {
    const value = request.bytesFrom(nameAt + nameSize + 1)
    if (value.length !== request.u32(ARGS)) return -EINVAL
    const result = session.folder.setAttribute(inode, name, value, request.u32(ARGS + 4))
    const dropsGroup = isLong && (request.u32(ARGS + 8) & FUSE_SETXATTR_ACL_KILL_SGID) !== 0
    return result >= 0 && dropsGroup ? session.folder.dropSetGroup(inode) : result
  })
}

function removeAttribute(session: FuseSession, request: FuseRequest): number {
  return withAttribute(session, request, ARGS, (inode, name) => session.folder.removeAttribute(inode, name))
}
