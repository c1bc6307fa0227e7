/**
 * EROFS on-disk format, the uncompressed part of it, as any kernel from 5.15 on mounts it.
 *
 * @see linux/fs/erofs/erofs_fs.h (7.2); Documentation/filesystems/erofs.rst
 */

/** Block size that every kernel with 4 KiB pages mounts. */
export const BLOCK_SIZE = 4096
export const BLOCK_BITS = 12

export const EROFS_SUPER_MAGIC_V1 = 0xe0f5e1e2
export const EROFS_SUPER_OFFSET = 1024
export const EROFS_SUPER_SIZE = 128

export const EROFS_FEATURE_COMPAT_SB_CHKSUM = 0x1
export const EROFS_FEATURE_COMPAT_MTIME = 0x2

export const EROFS_FEATURE_INCOMPAT_CHUNKED_FILE = 0x4

/** Offsets in `struct erofs_super_block`. */
export const SUPER = {
  magic: 0,
  checksum: 4,
  featureCompat: 8,
  blkszbits: 12,
  rootNid: 14,
  inos: 16,
  blocks: 36,
  metaBlkaddr: 40,
  xattrBlkaddr: 44,
  uuid: 48,
  featureIncompat: 80,
} as const

/** A nid counts units of this size from the start of the metadata area. */
export const NID_UNIT = 32
export const EROFS_INODE_EXTENDED_SIZE = 64
export const EROFS_INODE_LAYOUT_EXTENDED = 1
export const EROFS_INODE_FLAT_PLAIN = 0
export const EROFS_INODE_FLAT_INLINE = 2
export const EROFS_INODE_CHUNK_BASED = 4
export const EROFS_I_DATALAYOUT_BIT = 1

/** Offsets in `struct erofs_inode_extended`. */
export const INODE = {
  format: 0,
  xattrIcount: 2,
  mode: 4,
  size: 8,
  /** Start block of flat files, chunk format of files in chunks, device number of device nodes. */
  u: 16,
  ino: 20,
  uid: 24,
  gid: 28,
  mtime: 32,
  mtimeNsec: 40,
  nlink: 44,
} as const

/** Size of an entry in a chunk map without device numbers; it stands behind the inode and its attributes. */
export const EROFS_BLOCK_MAP_ENTRY_SIZE = 4
/** The block address of a chunk that is a hole. */
export const EROFS_NULL_ADDR = 0xffffffff

export const EROFS_DIRENT_SIZE = 12
export const EROFS_XATTR_HEADER_SIZE = 12
export const EROFS_XATTR_ENTRY_SIZE = 4

/** Attribute name prefixes and their numbers. An exact name leaves an empty rest. */
export const EROFS_XATTR_INDEX: readonly (readonly [prefix: string, index: number])[] = [
  ["user.", 1],
  ["system.posix_acl_access", 2],
  ["system.posix_acl_default", 3],
  ["trusted.", 4],
  ["security.", 6],
]

/** File type bits of a mode. @see linux/stat.h */
export const S_IF = {
  fifo: 0o010000,
  char: 0o020000,
  directory: 0o040000,
  block: 0o060000,
  file: 0o100000,
  symlink: 0o120000,
} as const

/** File types in directory entries. @see linux/fs_types.h */
export const FT = {
  file: 1,
  directory: 2,
  char: 3,
  block: 4,
  fifo: 5,
  symlink: 7,
} as const
