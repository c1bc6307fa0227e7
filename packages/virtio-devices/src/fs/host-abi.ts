// Linux's numbers for the calls on files, the same on x86-64 and arm64 unless said otherwise. Sources:
// include/uapi/asm-generic/fcntl.h, linux/openat2.h, linux/stat.h, linux/fs.h.

export const O_ACCMODE = 0o3
export const O_RDONLY = 0
export const O_WRONLY = 0o1
export const O_RDWR = 0o2
export const O_CREAT = 0o100
export const O_EXCL = 0o200
export const O_TRUNC = 0o1000
export const O_APPEND = 0o2000
export const O_NONBLOCK = 0o4000
export const O_DSYNC = 0o10000
export const O_SYNC = 0o4010000
export const O_NOATIME = 0o1000000
export const O_CLOEXEC = 0o2000000
export const O_PATH = 0o10000000
/** These two are swapped with others on arm64. */
export const O_DIRECTORY = process.arch === "arm64" ? 0o40000 : 0o200000
export const O_NOFOLLOW = process.arch === "arm64" ? 0o100000 : 0o400000
export const O_TMPFILE = 0o20000000 | O_DIRECTORY

export const AT_SYMLINK_FOLLOW = 0x400
export const AT_REMOVEDIR = 0x200
export const AT_EMPTY_PATH = 0x1000
export const AT_SYMLINK_NOFOLLOW = 0x100

export const RESOLVE_NO_MAGICLINKS = 0x02n
export const RESOLVE_BENEATH = 0x08n
/** struct open_how: flags, mode, resolve. */
export const OPEN_HOW_SIZE = 24

export const S_IFMT = 0o170000
export const S_IFSOCK = 0o140000
export const S_IFREG = 0o100000
export const S_IFDIR = 0o040000
export const S_IFIFO = 0o010000
export const S_IFLNK = 0o120000
export const S_ISUID = 0o4000
export const S_ISGID = 0o2000

export const RENAME_NOREPLACE = 1
export const RENAME_EXCHANGE = 2

export const SEEK_SET = 0
export const SEEK_HOLE = 4

export const UTIME_NOW = 0x3fffffff
export const UTIME_OMIT = 0x3ffffffe

export const FALLOC_FL_KEEP_SIZE = 0x01
export const FALLOC_FL_PUNCH_HOLE = 0x02
export const FALLOC_FL_ZERO_RANGE = 0x10

/** fcntl(2). */
export const F_RDLCK = 0
export const F_WRLCK = 1
export const F_UNLCK = 2
export const F_OFD_GETLK = 36
export const F_OFD_SETLK = 37
/** struct flock of 64-bit Linux. */
export const FLOCK_SIZE = 32
export const FLOCK = { type: 0, whence: 2, start: 8, length: 16, pid: 24 } as const
/** flock(2). */
export const LOCK_SH = 1
export const LOCK_EX = 2
export const LOCK_NB = 4
export const LOCK_UN = 8

/** STATX_BASIC_STATS. */
export const STATX_BASIC_STATS = 0x7ff
/** Where the file system has it; the field is 0 elsewhere. */
export const STATX_BTIME = 0x800
/** Since Linux 5.8; the field is 0 before. */
export const STATX_MNT_ID = 0x1000
export const STATX_SIZE = 256
/** Offsets in struct statx. */
export const STATX = {
  blockSize: 4,
  links: 16,
  uid: 20,
  gid: 24,
  mode: 28,
  inode: 32,
  size: 40,
  blocks: 48,
  accessed: 64,
  born: 80,
  changed: 96,
  modified: 112,
  rdevMajor: 128,
  rdevMinor: 132,
  devMajor: 136,
  devMinor: 140,
  mount: 144,
} as const
/** From the seconds of a struct statx_timestamp to its nanoseconds. */
export const STATX_NSEC = 8

/** struct statfs of 64-bit Linux: 15 words, of which the last four are spare. */
export const STATFS_SIZE = 120
export const STATFS = {
  blockSize: 8,
  blocks: 16,
  blocksFree: 24,
  blocksAvailable: 32,
  files: 40,
  filesFree: 48,
  nameLength: 64,
  fragmentSize: 72,
} as const

/** struct linux_dirent64: inode, offset, record length, type, name with a NUL. */
export const DIRENT64 = { inode: 0, offset: 8, recordLength: 16, type: 18, name: 19 } as const
