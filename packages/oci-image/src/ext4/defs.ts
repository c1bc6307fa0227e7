/**
 * ext4 on-disk format, as far as a new file system needs it. Numbers are little-endian, the journal's big-endian.
 *
 * @see Documentation/filesystems/ext4/ in Linux (7.2): super.rst, group_descr.rst, inodes.rst, ifork.rst, directory.rst,
 * attributes.rst, journal.rst, checksums.rst
 */

export const BLOCK_SIZE = 4096
/** A group has as many blocks as its bitmap, one block, has bits. */
export const BLOCKS_PER_GROUP = 8 * BLOCK_SIZE
/** Numbers of blocks have 32 bits: 16 TiB. */
export const MAX_BLOCKS = 2 ** 32 - 1

export const EXT4_SUPER_MAGIC = 0xef53
export const SUPERBLOCK_OFFSET = 1024
export const SUPERBLOCK_SIZE = 1024

/** `s_feature_compat`. */
export const COMPAT = { has_journal: 0x4, ext_attr: 0x8, dir_index: 0x20 } as const
/** `s_feature_incompat`. */
export const INCOMPAT = { filetype: 0x2, extents: 0x40, flex_bg: 0x200 } as const
/** `s_feature_ro_compat`. */
export const RO_COMPAT = {
  sparse_super: 0x1,
  large_file: 0x2,
  huge_file: 0x8,
  dir_nlink: 0x20,
  extra_isize: 0x40,
  metadata_csum: 0x400,
} as const

/** Offsets in `struct ext4_super_block`. */
export const SUPER = {
  inodesCount: 0x0,
  blocksCount: 0x4,
  freeBlocksCount: 0xc,
  freeInodesCount: 0x10,
  logBlockSize: 0x18,
  logClusterSize: 0x1c,
  blocksPerGroup: 0x20,
  clustersPerGroup: 0x24,
  inodesPerGroup: 0x28,
  maxMountCount: 0x36,
  magic: 0x38,
  state: 0x3a,
  errors: 0x3c,
  revLevel: 0x4c,
  firstInode: 0x54,
  inodeSize: 0x58,
  blockGroup: 0x5a,
  featureCompat: 0x5c,
  featureIncompat: 0x60,
  featureRoCompat: 0x64,
  uuid: 0x68,
  journalInode: 0xe0,
  hashSeed: 0xec,
  hashVersion: 0xfc,
  journalBackupType: 0xfd,
  defaultMountOptions: 0x100,
  journalBlocks: 0x10c,
  minExtraIsize: 0x15c,
  wantExtraIsize: 0x15e,
  flags: 0x160,
  logGroupsPerFlex: 0x174,
  checksumType: 0x175,
  checksum: 0x3fc,
} as const

export const DESCRIPTOR_SIZE = 32
/** Offsets in `struct ext4_group_desc`. */
export const GROUP = {
  blockBitmap: 0x0,
  inodeBitmap: 0x4,
  inodeTable: 0x8,
  freeBlocks: 0xc,
  freeInodes: 0xe,
  usedDirectories: 0x10,
  flags: 0x12,
  blockBitmapChecksum: 0x18,
  inodeBitmapChecksum: 0x1a,
  unusedInodes: 0x1c,
  checksum: 0x1e,
} as const
export const EXT4_BG_INODE_UNINIT = 0x1
export const EXT4_BG_BLOCK_UNINIT = 0x2
export const EXT4_BG_INODE_ZEROED = 0x4

export const INODE_SIZE = 256
export const INODES_PER_BLOCK = BLOCK_SIZE / INODE_SIZE
/** What of an inode stands behind the 128 bytes that every version knows. */
export const EXTRA_ISIZE = 32
export const ROOT_INODE = 2
export const JOURNAL_INODE = 8
/** Those below have a meaning of their own, or none. */
export const FIRST_INODE = 11
/** Directories with more count as having one. */
export const LINK_MAX = 65_000

/** Offsets in `struct ext4_inode`. */
export const INODE = {
  mode: 0x0,
  uid: 0x2,
  size: 0x4,
  atime: 0x8,
  ctime: 0xc,
  mtime: 0x10,
  gid: 0x18,
  links: 0x1a,
  blocks: 0x1c,
  flags: 0x20,
  block: 0x28,
  fileAcl: 0x68,
  sizeHigh: 0x6c,
  blocksHigh: 0x74,
  uidHigh: 0x78,
  gidHigh: 0x7a,
  checksum: 0x7c,
  extraIsize: 0x80,
  checksumHigh: 0x82,
  ctimeExtra: 0x84,
  mtimeExtra: 0x88,
  atimeExtra: 0x8c,
  crtime: 0x90,
  crtimeExtra: 0x94,
  xattrs: 0xa0,
} as const
/** Bytes of `i_block`: an extent tree's root, the text of a symlink, or a device's number. */
export const I_BLOCK_SIZE = 60
export const EXT4_EXTENTS_FL = 0x80000

export const EXT4_EXT_MAGIC = 0xf30a
export const EXTENT_SIZE = 12
/** Most blocks of an extent that was written to. */
export const EXT_INIT_MAX_LEN = 32_768

/** The last entry of a directory's block holds its checksum. */
export const DIRENT_TAIL_SIZE = 12
export const DIRENT_TAIL_TYPE = 0xde
export const DIRENT_HEADER_SIZE = 8

export const EXT4_XATTR_MAGIC = 0xea020000
export const XATTR_BLOCK_HEADER_SIZE = 32
export const XATTR_ENTRY_SIZE = 16
/** Attribute name prefixes and their numbers. An exact name leaves an empty rest. */
export const XATTR_INDEX: readonly (readonly [prefix: string, index: number])[] = [
  ["user.", 1],
  ["system.posix_acl_access", 2],
  ["system.posix_acl_default", 3],
  ["trusted.", 4],
  ["security.", 6],
]

export const JBD2_MAGIC_NUMBER = 0xc03b3998
export const JBD2_SUPERBLOCK_V2 = 4
