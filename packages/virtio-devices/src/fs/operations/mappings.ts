// Files in the DAX window: SETUPMAPPING and REMOVEMAPPING.
import { constants } from "node:os"
import { closeFd } from "@ts-vmm/native"
import { type DaxWindow, type FilePart, isRanges, type WindowPart } from "../dax-window.js"
import { ARGS, type FuseSession, type Operation, reads } from "../fuse-session.js"
import * as abi from "../host-abi.js"
import * as fuse from "../protocol.js"
import { FUSE } from "../protocol.js"
import type { FuseRequest } from "../request.js"

const { EBADF, EINVAL, ENOSYS, EROFS } = constants.errno

/** FUSE_REMOVEMAPPING_MAX_ENTRY: as many as fit in a page. */
const MAX_REMOVED = 256
/** `fh` of a request that names its file by the node alone, as all of Linux' do. */
const NO_HANDLE = -1n
const { READ, WRITE } = fuse.SETUPMAPPING_FLAGS

/** Where a window was agreed on; elsewhere each is `ENOSYS`. */
export const mappingOperations: readonly (readonly [number, Operation])[] = [
  [FUSE.SETUPMAPPING, reads(fuse.SETUPMAPPING_IN_SIZE, setUp)],
  [FUSE.REMOVEMAPPING, reads(4, remove)],
]

/** struct fuse_setupmapping_in: fh, foffset, len, flags, moffset. */
function setUp(session: FuseSession, request: FuseRequest): number {
  const { window } = session
  if (!window) return -ENOSYS
  const flags = request.bigint(ARGS + 24)
  const part = { offset: request.u64(ARGS + 32), size: request.u64(ARGS + 16) }
  const fileOffset = request.u64(ARGS + 8)
  const isKnown = flags === READ || flags === WRITE || flags === (READ | WRITE)
  if (!isKnown || !window.has(part) || !isRanges(fileOffset + part.size) || !isRanges(fileOffset))
    return -EINVAL
  const writable = flags !== READ
  if (writable && session.folder.readOnly) return -EROFS
  const file = { node: request.nodeId, fileOffset, writable }
  return request.bigint(ARGS) === NO_HANDLE
    ? mapNode(session, window, part, file)
    : mapOpen(session, window, part, file, request.u64(ARGS))
}

/** It is opened for what is asked, as for OPEN: where the host says no, nothing is mapped. */
function mapNode(
  { inodes, folder }: FuseSession,
  window: DaxWindow,
  part: WindowPart,
  file: Omit<FilePart, "fd">,
): number {
  const inode = inodes.get(file.node)
  if (typeof inode === "number") return inode
  const fd = folder.openFile(inode, (file.writable ? abi.O_RDWR : abi.O_RDONLY) | abi.O_NONBLOCK)
  if (fd < 0) return fd
  const result = window.map(part, { ...file, fd })
  closeFd(fd)
  return result
}

/** mmap(2) looks at what the handle is open for. A file that the guest forgot is not mapped: nothing would end that. */
function mapOpen(
  { inodes, handles }: FuseSession,
  window: DaxWindow,
  part: WindowPart,
  file: Omit<FilePart, "fd">,
  number: number,
): number {
  const handle = handles.file(number, file.node)
  if (!handle) return -EBADF
  const inode = inodes.get(file.node)
  return typeof inode === "number" ? inode : window.map(part, { ...file, fd: handle.fd })
}

/** struct fuse_removemapping_in: count; then moffset and len of each. All of them are checked before the first goes. */
function remove({ window }: FuseSession, request: FuseRequest): number {
  if (!window) return -ENOSYS
  const count = request.u32(ARGS)
  const size = fuse.REMOVEMAPPING_ONE_SIZE
  if (count < 1 || count > MAX_REMOVED || request.length < ARGS + 4 + count * size) return -EINVAL
  const parts = Array.from({ length: count }, (_, index) => {
    const at = ARGS + 4 + index * size
    return { offset: request.u64(at), size: request.u64(at + 8) }
  })
  if (!parts.every(part => window.has(part))) return -EINVAL
  for (const part of parts) {
    const result = window.remove(part)
    if (result < 0) return result
  }
  return 0
}
