import { EROFS_XATTR_ENTRY_SIZE, EROFS_XATTR_HEADER_SIZE, EROFS_XATTR_INDEX } from "./defs.js"

const ALIGN = 4

/**
 * Encodes attributes as they follow an inode: a header without shared attributes, then the entries.
 *
 * @returns the bytes, a multiple of 4; empty without attributes
 * @see struct erofs_xattr_ibody_header, struct erofs_xattr_entry
 */
export function encodeXattrs(xattrs: ReadonlyMap<string, Buffer> | undefined): Buffer {
  if (!xattrs || xattrs.size === 0) return Buffer.alloc(0)
  return Buffer.concat([
    Buffer.alloc(EROFS_XATTR_HEADER_SIZE),
    ...[...xattrs].map(([name, value]) => encodeEntry(name, value)),
  ])
}

/** The inode's `i_xattr_icount` for attributes of `size` bytes. */
export function xattrCount(size: number): number {
  return size === 0 ? 0 : 1 + (size - EROFS_XATTR_HEADER_SIZE) / ALIGN
}

function encodeEntry(name: string, value: Buffer): Buffer {
  const [prefix, index] = EROFS_XATTR_INDEX.find(([p]) => name.startsWith(p)) as readonly [string, number]
  const rest = name.slice(prefix.length)
  const size = EROFS_XATTR_ENTRY_SIZE + rest.length + value.length
  const entry = Buffer.alloc(size + (-size & (ALIGN - 1)))
  entry.writeUInt8(rest.length, 0)
  entry.writeUInt8(index, 1)
  entry.writeUInt16LE(value.length, 2)
  entry.write(rest, EROFS_XATTR_ENTRY_SIZE, "latin1")
  value.copy(entry, EROFS_XATTR_ENTRY_SIZE + rest.length)
  return entry
}
