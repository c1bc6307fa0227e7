import { fstatSync, readFileSync, readlinkSync } from "node:fs"
import { addon } from "./addon.js"

/**
 * A new eventfd (close-on-exec, non-blocking) whose counter starts at `initial` (0 to 2^32 - 1).
 *
 * @throws {@link SysError} `EMFILE`, `ENFILE`
 * @see eventfd(2)
 */
export function eventFd(initial = 0): number {
  return addon.eventFd(initial)
}

/** A new pipe, both ends close-on-exec and non-blocking. @see pipe2(2) */
export function pipe(): [readEnd: number, writeEnd: number] {
  return addon.pipe()
}

/**
 * Raises a signal: writes the u64 1 to an eventfd, a pipe or a socket. Returns false if there was no room,
 * which is no loss where any unread signal wakes the reader.
 *
 * Never blocks, also on a blocking fd that a peer handed over, and never changes the peer's flags where
 * that can be avoided: a pipe or socket gets `pwritev2(RWF_NOWAIT)`. The kernel has no such write for an
 * eventfd, so there `O_NONBLOCK` is set (a peer shares that flag, and could clear it again and fill the counter
 * in the moment before the write: that peer then stops the thread until it reads).
 *
 * @param origin - what {@link fdOrigin} said, if known: `"eventfd"` saves one of the three system calls
 * @throws {@link SysError} `EPIPE` when the reader is gone, `EBADF`
 */
export function signal(fd: number, origin?: FdOrigin): boolean {
  return addon.signal(fd, origin === "eventfd")
}

/**
 * Empties an eventfd, pipe or socket and throws the bytes away, without ever blocking (see {@link signal}).
 * Returns the number of bytes (8 for an eventfd), 0 if there was nothing, and -1 at the end of file: the other
 * side is gone, so stop polling, or the poller fires for ever. Reads at most 64 KiB in one call.
 *
 * @throws {@link SysError} `EBADF`, `EINVAL` (not readable)
 */
export function drain(fd: number): number {
  return addon.drain(fd)
}

/** Closes `fd`. @throws {@link SysError} `EBADF` @see close(2) */
export function closeFd(fd: number): void {
  addon.closeFd(fd)
}

/** Duplicates `fd`, close-on-exec. @throws {@link SysError} `EBADF`, `EMFILE` @see fcntl(2) F_DUPFD_CLOEXEC */
export function duplicateFd(fd: number): number {
  return addon.duplicateFd(fd)
}

/** Sets or clears `O_NONBLOCK` of the open file description, which every duplicate of `fd` shares. */
export function setNonBlocking(fd: number, on = true): void {
  addon.setNonBlocking(fd, on)
}

/** See {@link fdOrigin}. */
export type FdOrigin = "eventfd" | "pipe" | "socket" | "memory" | "other"

/**
 * What an fd from a peer that is not trusted is, told without asking any file system. {@link fdStat}, reads and
 * writes on a file that the peer itself serves (FUSE) can wait for ever; on the first four kinds they cannot.
 *
 * - `"memory"`: a memfd, or a file on tmpfs
 * - `"pipe"`: an anonymous pipe; a named one is `"other"`
 *
 * @throws {@link SysError} `EBADF`
 * @see proc(5) /proc/pid/fd
 */
export function fdOrigin(fd: number): FdOrigin {
  if (addon.getSeals(fd) >= 0) return "memory"
  // The kernel makes up these names itself: the name of a real file starts with a slash.
  const link = linkOf(fd)
  if (link.startsWith("anon_inode:[eventfd")) return "eventfd"
  if (link.startsWith("pipe:[")) return "pipe"
  return link.startsWith("socket:[") ? "socket" : "other"
}

/** What kind of object an fd is open on. */
export type FdKind = "file" | "directory" | "block" | "character" | "fifo" | "socket" | "eventfd" | "other"

/** See {@link fdStat}. */
export interface FdStat {
  readonly kind: FdKind
  /** Bytes, for `"file"`; 0 otherwise. */
  readonly size: number
  /** Permission bits, 0 to 0o7777. */
  readonly mode: number
  /** Device and inode number: together they tell whether two fds are one file. */
  readonly dev: bigint
  readonly ino: bigint
  readonly readable: boolean
  readonly writable: boolean
  readonly nonBlocking: boolean
  /** Seals of a memfd or tmpfs file (`F_SEAL_*` bits), undefined for anything else. */
  readonly seals: number | undefined
}

const S_IFMT = 0o170000
const KIND_OF_MODE: ReadonlyMap<number, FdKind> = new Map([
  [0o100000, "file"],
  [0o040000, "directory"],
  [0o060000, "block"],
  [0o020000, "character"],
  [0o010000, "fifo"],
  [0o140000, "socket"],
])
const O_ACCMODE = 3
const O_WRONLY = 1
const O_RDWR = 2
const O_NONBLOCK = 0o4000
const O_PATH = 0o10000000

/**
 * What is known about an open fd.
 *
 * @throws {@link SysError} `EBADF`
 * @see fstat(2), proc(5) fdinfo, fcntl(2) F_GET_SEALS
 */
export function fdStat(fd: number): FdStat {
  // First, as it refuses what is not an open fd.
  const seals = addon.getSeals(fd)
  const facts = fstatSync(fd, { bigint: true })
  const mode = Number(facts.mode)
  const flags = statusFlags(fd)
  const kind = kindOf(fd, mode)
  const access = flags & O_ACCMODE
  const usable = (flags & O_PATH) === 0
  return {
    kind,
    size: kind === "file" ? Number(facts.size) : 0,
    mode: mode & 0o7777,
    dev: facts.dev,
    ino: facts.ino,
    readable: usable && access !== O_WRONLY,
    writable: usable && (access === O_WRONLY || access === O_RDWR),
    nonBlocking: (flags & O_NONBLOCK) !== 0,
    seals: seals < 0 ? undefined : seals,
  }
}

/** What fcntl(2) F_GETFL gives, as proc(5) writes it: an octal number. */
function statusFlags(fd: number): number {
  const [, flags = "0"] = /^flags:\s*([0-7]+)/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, "latin1")) ?? []
  return Number.parseInt(flags, 8)
}

/** What the kernel calls an fd's object; nothing for a file whose path is longer than the kernel tells. */
function linkOf(fd: number): string {
  try {
    return readlinkSync(`/proc/self/fd/${fd}`)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENAMETOOLONG") return ""
    throw error
  }
}

function kindOf(fd: number, mode: number): FdKind {
  const link = linkOf(fd)
  if (link.startsWith("anon_inode:")) return link.startsWith("anon_inode:[eventfd") ? "eventfd" : "other"
  return KIND_OF_MODE.get(mode & S_IFMT) ?? "other"
}

/**
 * One ioctl. Three kinds of `arg`:
 * - a view: the kernel reads and writes its bytes. It must have at least the size encoded in `request`
 *   (`_IOC_SIZE`); for old requests that encode none, at most 4096 bytes, and the kernel works on a copy.
 *   What follows a flexible array's header is the caller's to size.
 * - an integer: passed by value. Refused from 65,536 on when `request` says that it takes a structure, as the
 *   kernel would take the number for an address.
 * - left out: 0.
 *
 * Returns what the ioctl returned (a new fd, a size, 0).
 *
 * @throws {@link SysError} with `syscall` `"ioctl"`; `EINTR` is reported, not retried
 * @throws RangeError if the view is too small
 * @see ioctl(2), asm-generic/ioctl.h
 */
export function ioctl(fd: number, request: number, arg: ArrayBufferView | bigint | number = 0): number {
  if (typeof arg === "number") return addon.ioctl(fd, request, BigInt(arg))
  const declared = (request >>> IOC_SIZE_SHIFT) & IOC_SIZE_MASK
  return typeof arg === "bigint" || declared > 0
    ? addon.ioctl(fd, request, arg)
    : ioctlWithRoom(fd, request, arg)
}

/** How much a request from before `_IOC` moves is not known: the kernel gets a copy with room to spare. */
function ioctlWithRoom(fd: number, request: number, view: ArrayBufferView): number {
  if (!ArrayBuffer.isView(view)) throw new TypeError("arg must be a view or an integer")
  if (view.byteLength > 4096) throw new RangeError("a request without a size takes at most 4096 bytes")
  const bytes = new Uint8Array(view.buffer, view.byteOffset, view.byteLength)
  const copy = new Uint8Array(UNSIZED_IOCTL_ROOM)
  copy.set(bytes)
  try {
    return addon.ioctl(fd, request, copy)
  } finally {
    bytes.set(copy.subarray(0, bytes.length))
  }
}

/** Where asm-generic/ioctl.h puts the size of what a request moves. */
const IOC_SIZE_SHIFT = 16
const IOC_SIZE_MASK = 0x3fff
/** What native code wants of a view when the request does not say its size. */
const UNSIZED_IOCTL_ROOM = 8192

/** Longest wait of {@link pollReadable} in microseconds. */
export const MAX_POLL_US = 50

/**
 * Waits up to `timeoutUs` microseconds (0 to {@link MAX_POLL_US}) until `fd` is readable. For adaptive polling
 * only: it holds up the thread.
 *
 * @throws {@link SysError} `EBADF`
 * @see ppoll(2)
 */
export function pollReadable(fd: number, timeoutUs: number): boolean {
  return addon.pollReadable(fd, timeoutUs)
}

/** See {@link lockFile}. */
export type LockKind = "shared" | "exclusive" | "unlock"

/**
 * Takes (or gives back) a lock on a whole file that belongs to the open file description: it is gone when the
 * last duplicate of `fd` is closed, however the process ends. Returns false if somebody else holds it.
 *
 * @throws {@link SysError} `EBADF` (an exclusive lock needs a writable fd, a shared one a readable fd)
 * @see fcntl(2) F_OFD_SETLK
 */
export function lockFile(fd: number, kind: LockKind): boolean {
  const type = LOCK_TYPES[kind]
  if (type === undefined) throw new TypeError("kind must be shared, exclusive or unlock")
  return addon.lockFile(fd, type)
}

/** `F_RDLCK`, `F_WRLCK`, `F_UNLCK` of fcntl.h. */
const LOCK_TYPES: Readonly<Record<LockKind, number>> = { shared: 0, exclusive: 1, unlock: 2 }
