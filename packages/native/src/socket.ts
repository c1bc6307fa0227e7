import { addon } from "./addon.js"

/** Longest path of a Unix socket in bytes: `sun_path` is 108 with its NUL. */
export const MAX_UNIX_PATH = 107
/** Most file descriptors in one message: `SCM_MAX_FD` of the kernel. */
export const MAX_MESSAGE_FDS = 253

/** See {@link unixListen}. */
export interface UnixListenOptions {
  /** Permission bits of the socket file, set before it can be seen; the umask still takes bits away. Default 0o600. */
  readonly mode?: number
  /** Connections that may wait for accept. Default 128. */
  readonly backlog?: number
}

/**
 * A listening stream socket at `path`, close-on-exec and non-blocking. An existing file is not replaced, and
 * nothing removes the file later: both are the caller's.
 *
 * @throws {@link SysError} `ENAMETOOLONG` (over {@link MAX_UNIX_PATH} bytes), `EADDRINUSE`, `ENOENT`, `EACCES`
 * @see unix(7)
 */
export function unixListen(path: string, options: UnixListenOptions = {}): number {
  const { mode = 0o600, backlog = 128 } = options
  return addon.unixListen(path, mode, backlog)
}

/** The next waiting connection (close-on-exec, non-blocking), or undefined if there is none. */
export function unixAccept(fd: number): number | undefined {
  return addon.unixAccept(fd)
}

/**
 * A stream socket (close-on-exec, non-blocking) connected to the one that listens at `path`. Never blocks.
 *
 * @throws {@link SysError} `ENOENT`, `ECONNREFUSED`, `EACCES`, `ENAMETOOLONG`; `EAGAIN` when the listener's backlog is
 *   full: try again later
 */
export function unixConnect(path: string): number {
  return addon.unixConnect(path)
}

/** Two connected stream sockets, close-on-exec and non-blocking. @see socketpair(2) */
export function socketPair(): [number, number] {
  return addon.socketPair()
}

/**
 * Asks for room for so much that was sent and not yet received; what does not fit waits, or is refused. A user without
 * CAP_NET_ADMIN gets what `net.core.wmem_max` allows.
 *
 * @param bytes - 1 to 2^30; the kernel takes as much again for its own book-keeping
 * @returns bytes that it is now, book-keeping included
 * @throws {@link SysError} `EBADF`, `ENOTSOCK`
 * @see socket(7) SO_SNDBUF, SO_SNDBUFFORCE
 *
 * @example
 * ```ts
 * const [ours, theirs] = socketPair()
 * setSendBuffer(theirs, 4 * 2 ** 20)
 * ```
 */
export function setSendBuffer(fd: number, bytes: number): number {
  return addon.setSendBuffer(fd, bytes)
}

/** Who is at the other end of a Unix socket. */
export interface PeerCredentials {
  readonly pid: number
  readonly uid: number
  readonly gid: number
}

/** The credentials of the peer at the time it connected (or of the creator of a pair). @see unix(7) SO_PEERCRED */
export function peerCredentials(fd: number): PeerCredentials {
  const [pid, uid, gid] = addon.peerCredentials(fd)
  return { pid, uid, gid }
}

/**
 * Sends bytes, and duplicates of `fds` with the first of them. Returns the number of bytes the kernel took (send the
 * rest without fds), or undefined if it would block. Never blocks and never raises SIGPIPE.
 *
 * @param bytes - at least one byte
 * @param fds - at most {@link MAX_MESSAGE_FDS}; they stay open here
 * @throws {@link SysError} `EPIPE`, `ECONNRESET`, `EBADF`, `ETOOMANYREFS`
 * @see sendmsg(2), unix(7) SCM_RIGHTS
 */
export function sendMessage(fd: number, bytes: ArrayBufferView, fds?: readonly number[]): number | undefined {
  return addon.sendMessage(fd, bytes, fds ?? NO_FDS)
}

/** See {@link receiveMessage}. */
export interface ReceivedMessage {
  /** Bytes stored in `into`; 0 is the end of the stream. */
  readonly length: number
  /** New fds, close-on-exec, now the caller's to close. */
  readonly fds: readonly number[]
  /** The peer sent more fds than asked for (they are closed), or this process ran out of fds. */
  readonly truncated: boolean
}

/**
 * Receives what is there, up to `into.byteLength` bytes and `maxFds` file descriptors; undefined if that is nothing
 * yet. On a stream a read never goes past a message that carries fds.
 *
 * @param into - at least one byte
 * @param maxFds - 0 to {@link MAX_MESSAGE_FDS}; fds beyond it are closed at once
 * @throws {@link SysError} `ECONNRESET`, `EBADF`, `ENOTSOCK`
 * @see recvmsg(2) MSG_CMSG_CLOEXEC
 */
export function receiveMessage(fd: number, into: ArrayBufferView, maxFds = 0): ReceivedMessage | undefined {
  const fds: number[] = []
  const result = addon.receiveMessage(fd, into, maxFds, fds)
  // Lengths are at least 0; -1 says "would block", and a truncated message is marked by an extra 2^32.
  if (result < 0) return undefined
  return { length: result % 2 ** 32, fds, truncated: result >= 2 ** 32 }
}

const NO_FDS: readonly number[] = []
