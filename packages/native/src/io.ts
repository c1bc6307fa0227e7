import { addon } from "./addon.js"

/** Reads into the segments. @see preadv2(2) */
export const IO_READ = 0
/** Writes the segments. @see pwritev2(2) */
export const IO_WRITE = 1
/** Makes written data durable; no segment. @see fdatasync(2) */
export const IO_FDATASYNC = 2
/** Frees a range, which reads as zeroes then; its length is that of the one segment. @see fallocate(2) */
export const IO_PUNCH_HOLE = 3
/** Makes a range zero and keeps it allocated; its length is that of the one segment. @see fallocate(2) */
export const IO_ZERO_RANGE = 4
/**
 * Takes one message, a frame of a tap device say, into the segments; what does not fit of it is lost, and the offset is
 * ignored. Waits for one unless the fd is non-blocking. @see readv(2)
 */
export const IO_RECEIVE = 5
/** Sends the segments as one message; the offset is ignored. @see writev(2) */
export const IO_SEND = 6

/** Numbers per row of {@link IoBatch.ops}. */
export const IO_OP_STRIDE = 4
/** Numbers per row of {@link IoBatch.segments}. */
export const IO_SEGMENT_STRIDE = 3

/** See {@link IoBatch.runSync}. */
export interface RunSyncOptions {
  /**
   * Default false: every operation is carried out, however long it takes.
   *
   * True: nothing waits for a device. Reads and writes use `RWF_NOWAIT` and give `-EAGAIN` when the page cache does
   * not have all of it; flush, punch and zero give `-EAGAIN` untried. A file system without this (tmpfs)
   * gives `-EOPNOTSUPP`: run it again without `nowait` (memory never waits long) or asynchronously.
   *
   * `"reads"`: the same for reads only; the others are carried out.
   */
  readonly nowait?: boolean | "reads"
  /** The rows after the first that fails are not carried out: each gives `-ECANCELED`. Default false. */
  readonly stopAtFailure?: boolean
}

/** See {@link IoBatch.runAsync}. */
export interface RunAsyncOptions {
  /**
   * The operations wait for a device: reads that the page cache did not have, or an fd with `O_DIRECT`. Such reads and
   * writes go through an io_uring where there is one ({@link useIoRing}), at a third of what a thread costs. What the
   * page cache does have is copied in this thread then, so leave this away for what is only long. Default false.
   */
  readonly waits?: boolean
}

/**
 * Lets this thread use an io_uring, as it does unless told otherwise, or use libuv's thread pool for everything.
 * What is under way goes on as it began.
 *
 * An io_uring is a large part of a kernel for an attacker who is already in this process: where that weighs more than
 * disks, refuse it, here and better in the process's seccomp filter as well, which this then takes note of.
 *
 * @returns whether there is one: kernel 5.5 or newer, `kernel.io_uring_disabled` 0, and no filter that forbids it
 * @throws TypeError
 *
 * @example
 * ```ts
 * import { useIoRing } from "@ts-vmm/native"
 *
 * console.log(useIoRing(true) ? "io_uring" : "threads")
 * ```
 *
 * @see io_uring_setup(2)
 */
export function useIoRing(wanted: boolean): boolean {
  return addon.useRing(wanted)
}

/**
 * File I/O straight on guest memory, many operations per native call.
 *
 * Fill rows, run, read results. One row per operation:
 *
 * ```
 *   ops[4i .. 4i+3]      opcode, fd, first segment row, number of segment rows
 *   offsets[i]           position in the file, bytes
 *   segments[3j .. 3j+2] index into `regions`, offset in that region, length      (bytes)
 *   results[i]           bytes transferred, or a negative errno
 * ```
 *
 * Every row is checked in native code against the real length of the buffers: `-EINVAL` for a bad opcode, row
 * or offset and for more than 1024 segments, `-EFAULT` for a segment outside its region (or a closed mapping),
 * and nothing was transferred then. After any other error some bytes may have been. `EINTR` and short transfers are continued; a read result shorter than its segments means end of file.
 * For punch and zero the segment's region and offset are ignored.
 *
 * The arrays are reused from batch to batch and never allocated again.
 *
 * @example
 * ```ts
 * const batch = new IoBatch(32, 64)
 * batch.setSegment(0, 0, 4096, 512)        // region 0, offset 4096, 512 bytes
 * batch.setOp(0, IO_READ, fd, 8 * 512, 0, 1)
 * batch.runSync([memory.buffer], 1, { nowait: true })
 * if (batch.results[0] === -constants.errno.EAGAIN) batch.runAsync([memory.buffer], [0], (index, result) => done(index, result), { waits: true })
 * ```
 */
export class IoBatch {
  /** Most operations in one batch. */
  readonly capacity: number
  /** Most segments in one batch. */
  readonly segmentCapacity: number
  readonly ops: Int32Array
  readonly offsets: Float64Array
  readonly segments: Float64Array
  readonly results: Float64Array
  readonly #rows: ArrayBuffer

  /** @param capacity - 1 to 65,536 @param segmentCapacity - 1 to 1,048,576 @throws RangeError */
  constructor(capacity: number, segmentCapacity: number) {
    checkCapacity("capacity", capacity, 65_536)
    checkCapacity("segmentCapacity", segmentCapacity, 1_048_576)
    this.capacity = capacity
    this.segmentCapacity = segmentCapacity
    // One buffer, so that native code looks up one address per call. struct Rows in src/cc/io.cc is its twin.
    const offsetsAt = capacity * IO_OP_STRIDE * 4
    const resultsAt = offsetsAt + capacity * 8
    const segmentsAt = resultsAt + capacity * 8
    this.#rows = new ArrayBuffer(segmentsAt + segmentCapacity * IO_SEGMENT_STRIDE * 8)
    this.ops = new Int32Array(this.#rows, 0, capacity * IO_OP_STRIDE)
    this.offsets = new Float64Array(this.#rows, offsetsAt, capacity)
    this.results = new Float64Array(this.#rows, resultsAt, capacity)
    this.segments = new Float64Array(this.#rows, segmentsAt, segmentCapacity * IO_SEGMENT_STRIDE)
  }

  /** Fills row `index` of {@link ops} and {@link offsets}. */
  setOp(
    index: number,
    opcode: number,
    fd: number,
    offset: number,
    firstSegment: number,
    segmentCount: number,
  ): void {
    const at = index * IO_OP_STRIDE
    this.ops[at] = opcode
    this.ops[at + 1] = fd
    this.ops[at + 2] = firstSegment
    this.ops[at + 3] = segmentCount
    this.offsets[index] = offset
  }

  /** Fills row `index` of {@link segments}. */
  setSegment(index: number, region: number, offset: number, length: number): void {
    const at = index * IO_SEGMENT_STRIDE
    this.segments[at] = region
    this.segments[at + 1] = offset
    this.segments[at + 2] = length
  }

  /**
   * Carries out rows 0 … `count` - 1 in order, in this thread, and fills {@link results}.
   *
   * @param regions - what segments index into; buffers of a {@link Mapping} or plain ones; at most 1024
   * @throws TypeError, RangeError for wrong arguments; a failed operation never throws, see {@link results}
   */
  runSync(regions: readonly ArrayBuffer[], count: number, options: RunSyncOptions = {}): void {
    const { nowait, stopAtFailure = false } = options
    const flags = (nowait === true ? 3 : nowait === "reads" ? 1 : 0) | (stopAtFailure ? 4 : 0)
    addon.runSync(this.#rows, this.capacity, this.segmentCapacity, regions, count, flags)
  }

  /**
   * Carries out the rows in `indexes` on libuv's thread pool or in an io_uring, in any order and side by side, and calls
   * `callback` once for each with its row number and result ({@link results} stays as it is). The rows may be
   * reused as soon as this returns.
   *
   * fds are duplicated and mappings stay mapped until the callback, so both may be closed meanwhile. An operation on a
   * plain `ArrayBuffer` (a test's memory) is carried out before this returns, since its memory could be transferred
   * away; its callback comes later all the same. An operation cannot be cancelled: whoever must not have late
   * writes into guest memory waits for the callback. What the callback throws becomes an `uncaughtException`.
   *
   * @throws TypeError, RangeError for wrong arguments: nothing was started then
   */
  runAsync(
    regions: readonly ArrayBuffer[],
    indexes: readonly number[],
    callback: (index: number, result: number) => void,
    { waits = false }: RunAsyncOptions = {},
  ): void {
    addon.runAsync(this.#rows, this.capacity, this.segmentCapacity, regions, indexes, callback, waits)
  }
}

function checkCapacity(name: string, value: number, most: number): void {
  if (typeof value !== "number") throw new TypeError(`${name} must be a number`)
  if (!Number.isInteger(value) || value < 1 || value > most) {
    throw new RangeError(`${name} must be an integer from 1 to ${most}`)
  }
}
