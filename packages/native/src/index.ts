/**
 * System calls for ts-vmm: the one native addon. It does what the kernel does and nothing more; there is no
 * policy and no parsing here, and no promise of stability. Use the packages above it.
 *
 * Every function refuses wrong arguments with a `TypeError` or `RangeError` and turns a failed system call into
 * a {@link SysError}. Everything works in Workers.
 *
 * @packageDocumentation
 */
export { errnoName, RequestError, type RequestErrorDetails, SysError } from "./errors.js"
export {
  type ExitRow,
  type ExitSpace,
  ExitTable,
  type ExitTableOptions,
  type ReadAction,
  type WriteAction,
} from "./exit-table.js"
export {
  closeFd,
  drain,
  duplicateFd,
  eventFd,
  type FdKind,
  type FdOrigin,
  type FdStat,
  fdOrigin,
  fdStat,
  ioctl,
  type LockKind,
  lockFile,
  MAX_POLL_US,
  pipe,
  pollReadable,
  setNonBlocking,
  signal,
} from "./fd.js"
export { type FileCalls, files } from "./files.js"
export {
  IO_FDATASYNC,
  IO_OP_STRIDE,
  IO_PUNCH_HOLE,
  IO_READ,
  IO_RECEIVE,
  IO_SEGMENT_STRIDE,
  IO_SEND,
  IO_WRITE,
  IO_ZERO_RANGE,
  IoBatch,
  type RunAsyncOptions,
  type RunSyncOptions,
  useIoRing,
} from "./io.js"
export { launcherPath } from "./launcher.js"
export {
  type CreateMappingOptions,
  type CreatePrivateMappingOptions,
  MAX_MAPPING_SIZE,
  type MapDeviceOptions,
  type MapOptions,
  Mapping,
} from "./mapping.js"
export { POLL_ERROR, POLL_READABLE, POLL_WRITABLE, Poller, type PollInterest } from "./poller.js"
export { Reservation, type ReservationMapOptions } from "./reservation.js"
export {
  MAX_MESSAGE_FDS,
  MAX_UNIX_PATH,
  type PeerCredentials,
  peerCredentials,
  type ReceivedMessage,
  receiveMessage,
  sendMessage,
  setSendBuffer,
  socketPair,
  type UnixListenOptions,
  unixAccept,
  unixConnect,
  unixListen,
} from "./socket.js"
export { VcpuLoop, type VcpuLoopOptions } from "./vcpu-loop.js"
