// The FUSE protocol as far as it is spoken here: numbers and sizes of <linux/fuse.h>.
// What the fields mean: include/uapi/linux/fuse.h; over virtio: virtio 1.3, section 5.11.

/** Version spoken. A newer kernel keeps to it. */
export const FUSE_KERNEL_VERSION = 7
export const FUSE_KERNEL_MINOR_VERSION = 38
/** The oldest minor version whose structures have the sizes below; Linux 4.2. */
export const FUSE_LEAST_MINOR_VERSION = 23

/** Node id of the root directory. */
export const FUSE_ROOT_ID = 1

/** `enum fuse_opcode`. */
export const FUSE = {
  LOOKUP: 1,
  FORGET: 2,
  GETATTR: 3,
  SETATTR: 4,
  READLINK: 5,
  SYMLINK: 6,
  MKNOD: 8,
  MKDIR: 9,
  UNLINK: 10,
  RMDIR: 11,
  RENAME: 12,
  LINK: 13,
  OPEN: 14,
  READ: 15,
  WRITE: 16,
  STATFS: 17,
  RELEASE: 18,
  FSYNC: 20,
  SETXATTR: 21,
  GETXATTR: 22,
  LISTXATTR: 23,
  REMOVEXATTR: 24,
  FLUSH: 25,
  INIT: 26,
  OPENDIR: 27,
  READDIR: 28,
  RELEASEDIR: 29,
  FSYNCDIR: 30,
  GETLK: 31,
  SETLK: 32,
  SETLKW: 33,
  CREATE: 35,
  INTERRUPT: 36,
  DESTROY: 38,
  BATCH_FORGET: 42,
  FALLOCATE: 43,
  READDIRPLUS: 44,
  RENAME2: 45,
  LSEEK: 46,
  COPY_FILE_RANGE: 47,
  SETUPMAPPING: 48,
  REMOVEMAPPING: 49,
  TMPFILE: 51,
} as const

/** struct fuse_in_header: len, opcode, unique, nodeid, uid, gid, pid, total_extlen. */
export const IN_HEADER_SIZE = 40
export const IN_HEADER = { len: 0, opcode: 4, unique: 8, nodeId: 16, uid: 24, gid: 28, pid: 32 } as const
/** struct fuse_out_header: len, error, unique. */
export const OUT_HEADER_SIZE = 16

/** struct fuse_attr. */
export const ATTR_SIZE = 88
/** struct fuse_entry_out, which ends in an attr. */
export const ENTRY_OUT_SIZE = 40 + ATTR_SIZE
/** struct fuse_attr_out, which ends in an attr. */
export const ATTR_OUT_SIZE = 16 + ATTR_SIZE
/** struct fuse_open_out. */
export const OPEN_OUT_SIZE = 16
/** struct fuse_init_out. */
export const INIT_OUT_SIZE = 64
/** struct fuse_statfs_out. */
export const STATFS_OUT_SIZE = 80
/** struct fuse_dirent without its name. */
export const DIRENT_SIZE = 24
/** struct fuse_read_in, and struct fuse_write_in, which has the same first three fields. */
export const READ_IN_SIZE = 40
/** struct fuse_lk_in. */
export const LK_IN_SIZE = 48
/** struct fuse_file_lock, all of fuse_lk_out. */
export const FILE_LOCK_SIZE = 24
/** struct fuse_forget_one. */
export const FORGET_ONE_SIZE = 16
/** struct fuse_setupmapping_in. */
export const SETUPMAPPING_IN_SIZE = 40
/** struct fuse_removemapping_one. */
export const REMOVEMAPPING_ONE_SIZE = 16

/** Flags of FUSE_INIT that this server takes. */
export const INIT_FLAGS = {
  ASYNC_READ: 1 << 0,
  ATOMIC_O_TRUNC: 1 << 3,
  BIG_WRITES: 1 << 5,
  AUTO_INVAL_DATA: 1 << 12,
  DO_READDIRPLUS: 1 << 13,
  READDIRPLUS_AUTO: 1 << 14,
  ASYNC_DIO: 1 << 15,
  WRITEBACK_CACHE: 1 << 16,
  PARALLEL_DIROPS: 1 << 18,
  MAX_PAGES: 1 << 22,
  SUBMOUNTS: 1 << 27,
} as const

/** Flags of FUSE_INIT that are for locks on the host. */
export const LOCK_FLAGS = (1 << 1) | (1 << 10) // FUSE_POSIX_LOCKS, FUSE_FLOCK_LOCKS
/**
 * And for access lists. All or none: without FUSE_DONT_MASK a list that new files inherit would be cut by a mask, without
 * FUSE_SETXATTR_EXT a changed one would leave a set-group-ID bit that has to go.
 */
export const ACL_FLAGS = (1 << 6) | (1 << 20) | (1 << 29) // FUSE_DONT_MASK, FUSE_POSIX_ACL, FUSE_SETXATTR_EXT

/** Flag of FUSE_INIT that is for a DAX window: FUSE_MAP_ALIGNMENT. */
export const DAX_FLAG = 1 << 26

/** `valid` of FUSE_SETATTR. */
export const FATTR = {
  MODE: 1 << 0,
  UID: 1 << 1,
  GID: 1 << 2,
  SIZE: 1 << 3,
  ATIME: 1 << 4,
  MTIME: 1 << 5,
  FH: 1 << 6,
  ATIME_NOW: 1 << 7,
  MTIME_NOW: 1 << 8,
} as const

/** `open_flags` of struct fuse_open_out. */
export const FOPEN_DIRECT_IO = 1 << 0
export const FOPEN_KEEP_CACHE = 1 << 1
export const FOPEN_CACHE_DIR = 1 << 3
/** `lk_flags` of struct fuse_lk_in: flock(2) and not fcntl(2). */
export const FUSE_LK_FLOCK = 1
/** `setxattr_flags` of struct fuse_setxattr_in: the caller may not keep the file's set-group-ID bit. */
export const FUSE_SETXATTR_ACL_KILL_SGID = 1
/** `flags` of struct fuse_setupmapping_in. */
export const SETUPMAPPING_FLAGS = { WRITE: 1n << 0n, READ: 1n << 1n } as const
/** `fsync_flags` of struct fuse_fsync_in. */
export const FUSE_FSYNC_FDATASYNC = 1
/** `flags` of struct fuse_attr: the root of another file system. */
export const FUSE_ATTR_SUBMOUNT = 1
