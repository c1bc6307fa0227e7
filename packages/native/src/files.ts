import { addon } from "./addon.js"

/**
 * File system calls relative to a descriptor. Each is exactly one system call and returns what the kernel returned, or
 * a **negative errno**: that a name is not there is no exception. Names are bytes without a NUL, as the kernel has
 * them; structures are views in the kernel's layout, with the kernel's size.
 *
 * Wrong arguments, a name with a NUL among them, are a `TypeError` or `RangeError`. A call waits for the file system, however long that takes.
 *
 * @example
 * ```ts
 * const how = new Uint8Array(24)                             // struct open_how: flags, mode, resolve
 * new DataView(how.buffer).setBigUint64(0, BigInt(O_PATH), true)
 * const fd = files.openat2(directory, Buffer.from("name"), how)
 * if (fd < 0) console.log(errnoName(fd))
 * ```
 */
export interface FileCalls {
  /** @param how - struct open_how @returns fd; pass `O_CLOEXEC` @see openat2(2) */
  openat2(directory: number, name: Uint8Array, how: Uint8Array): number
  /** @param into - struct statx, 256 bytes @see statx(2) */
  statx(directory: number, name: Uint8Array, flags: number, mask: number, into: Uint8Array): number
  /** @see mkdirat(2) */
  mkdirat(directory: number, name: Uint8Array, mode: number): number
  /** @param device - 0 for files, FIFOs and sockets @see mknodat(2) */
  mknodat(directory: number, name: Uint8Array, mode: number, device: number): number
  /** @param flags - `AT_REMOVEDIR` or 0 @see unlinkat(2) */
  unlinkat(directory: number, name: Uint8Array, flags: number): number
  /** @see symlinkat(2) */
  symlinkat(target: Uint8Array, directory: number, name: Uint8Array): number
  /** @see linkat(2) */
  linkat(from: number, name: Uint8Array, to: number, newName: Uint8Array, flags: number): number
  /** @see renameat2(2) */
  renameat2(from: number, name: Uint8Array, to: number, newName: Uint8Array, flags: number): number
  /** @returns bytes of the target @see readlinkat(2) */
  readlinkat(directory: number, name: Uint8Array, into: Uint8Array): number
  /** @param uid - -1 keeps it, and so for `gid` @see fchownat(2) */
  fchownat(directory: number, name: Uint8Array, uid: number, gid: number, flags: number): number
  /** Follows a symbolic link. @see fchmodat(2) */
  fchmodat(directory: number, name: Uint8Array, mode: number): number
  /** @param times - two struct timespec @see utimensat(2) */
  utimensat(directory: number, name: Uint8Array, times: Uint8Array, flags: number): number
  /** @see ftruncate(2) */
  ftruncate(fd: number, length: number): number
  /** @see fallocate(2) */
  fallocate(fd: number, mode: number, offset: number, length: number): number
  /** @see fsync(2) */
  fsync(fd: number): number
  /** @see fdatasync(2) */
  fdatasync(fd: number): number
  /** @see syncfs(2) */
  syncfs(fd: number): number
  /** @param offset - a bigint where it is a position in a directory @returns the new position @see lseek(2) */
  lseek(fd: number, offset: number | bigint, whence: number): number
  /** @returns bytes of struct linux_dirent64 @see getdents64(2) */
  getdents64(fd: number, into: Uint8Array): number
  /** @param into - struct statfs, 120 bytes @see fstatfs(2) */
  fstatfs(fd: number, into: Uint8Array): number
  /** @returns bytes of the value, also when `into` is empty @see getxattr(2) */
  getxattr(path: Uint8Array, name: Uint8Array, into: Uint8Array): number
  /** @see setxattr(2) */
  setxattr(path: Uint8Array, name: Uint8Array, value: Uint8Array, flags: number): number
  /** @returns bytes of the list, also when `into` is empty @see listxattr(2) */
  listxattr(path: Uint8Array, into: Uint8Array): number
  /** @see removexattr(2) */
  removexattr(path: Uint8Array, name: Uint8Array): number
  /** @param fromOffset - a 64-bit offset, and so `toOffset` @returns bytes copied @see copy_file_range(2) */
  copyFileRange(
    from: number,
    fromOffset: Uint8Array,
    to: number,
    toOffset: Uint8Array,
    length: number,
    flags: number,
  ): number
  /** @param operation - `LOCK_SH`, `LOCK_EX` or `LOCK_UN`, with `LOCK_NB` unless it may wait @see flock(2) */
  flock(fd: number, operation: number): number
  /** @param command - `F_OFD_GETLK` or `F_OFD_SETLK` @param lock - struct flock, 32 bytes @see fcntl(2) */
  fcntlLock(fd: number, command: number, lock: Uint8Array): number
}

/** See {@link FileCalls}. */
export const files: FileCalls = addon.files
