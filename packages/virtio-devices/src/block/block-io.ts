import { constants } from "node:os"
import { IO_READ, IO_WRITE, IoBatch } from "@ts-vmm/native"
import type { DeviceContext } from "../device.js"
import type { IoGauge } from "../io-gauge.js"
import type { DescriptorChain } from "../queue/chain.js"
import { type BlockBackend, type DirectAccess, ExtentList, ZERO_EXTENT } from "./backend.js"
import { MAX_PARTS } from "./concat-backend.js"

/** Operations per native call; one request spans at most this many parts and gaps of a disk. */
const MAX_OPS = 2 * MAX_PARTS
/** Segments per native call. A chain has at most 1024; each part boundary inside one adds another. */
const MAX_SEGMENTS = 1024 + MAX_OPS
/** A longer operation goes to the thread pool: copying it here would keep every other device waiting. */
const SYNC_OP_BYTES = 1024 * 1024
/** Bytes moved in this thread per notification, at some 10 GB/s well under a millisecond. */
const SYNC_BUDGET_BYTES = 8 * 1024 * 1024
/**
 * Writes per native call in this thread. They go to the page cache, which is some ten times faster than handing
 * them to the pool, but the kernel makes a writer wait that is ahead of its disk: up to 200 ms per write.
 */
const SYNC_WRITES = 4
/** Writes that took longer than this together have been made to wait. */
const THROTTLED_MS = 5
/** How long writes go to the pool after that. */
const THROTTLE_PAUSE_MS = 1000

const { EAGAIN, EINVAL, EIO, EOPNOTSUPP } = constants.errno

/** What becomes of a request when its operations have ended. */
export interface IoTask {
  /** Operations not ended yet, and one for whoever is still adding some. */
  pending: number
  /** The first failure: 0, or a negative errno; `-EIO` for a short transfer. */
  error: number
}

/**
 * Moves data between a disk and guest memory. Reads that the page cache has, and writes while it takes them, are
 * done at once in this thread, one native call for as many as there are; all that waits for a disk goes to an io_uring,
 * or to the thread pool where there is none.
 */
export class BlockIo<Task extends IoTask> {
  readonly #backend: BlockBackend
  readonly #ctx: DeviceContext
  readonly #done: (task: Task) => void
  readonly #gauge: IoGauge
  readonly #buffers: ArrayBuffer[]
  /** Where each region starts in its buffer. */
  readonly #bases: number[]
  readonly #extents = new ExtentList()
  readonly #fast: Batch<Task>
  readonly #slow: Batch<Task>
  readonly #missed: number[] = []
  /** Tasks that ended inside a batch: told about once its rows are free again, as they may add more. */
  readonly #ended: Task[] = []
  #telling = false
  #budget = SYNC_BUDGET_BYTES
  /** Writes in `#fast`. */
  #fastWrites = 0
  /** Until then writes go to the pool. */
  #throttledUntil = 0

  /**
   * @param gauge told of what goes on elsewhere
   * @param done called once per task, when its `pending` has come down to 0
   */
  constructor(backend: BlockBackend, ctx: DeviceContext, gauge: IoGauge, done: (task: Task) => void) {
    const { memory } = ctx
    this.#backend = backend
    this.#ctx = ctx
    this.#gauge = gauge
    this.#done = done
    this.#buffers = memory.regions.map(region => region.bytes.buffer as ArrayBuffer)
    this.#bases = memory.regions.map(region => region.bytes.byteOffset)
    this.#fast = new Batch(MAX_OPS, MAX_SEGMENTS)
    this.#slow = new Batch(MAX_OPS, MAX_SEGMENTS)
  }

  /**
   * Adds the operations of a read (into the writable part of `chain`) or a write (from its readable part).
   *
   * A request in more pieces than one native call takes fails with `-EINVAL`.
   *
   * @param skip bytes of that part before the data
   * @param offset position on the disk, bytes; checked
   * @param length bytes; checked to fit the chain and the disk
   */
  addData(
    task: Task,
    opcode: number,
    chain: DescriptorChain,
    skip: number,
    offset: number,
    length: number,
  ): void {
    this.#showEarly()
    const extents = this.#extents
    extents.clear()
    this.#backend.locate(offset, length, extents)
    const direct = this.#backend.direct
    const batch = direct ? this.#slow : this.#choose(opcode, length)
    if (!this.#makeRoom(batch, extents.count, chain.segmentCount + extents.count)) {
      task.error = -EINVAL
      return
    }
    let segment = opcode === IO_READ ? chain.readableCount : 0
    let within = skip
    for (let row = 0; row < extents.count; row++) {
      let fd = extents.fds[row]!
      const size = extents.lengths[row]!
      if (fd === ZERO_EXTENT && opcode === IO_WRITE) {
        task.error = -EIO
        return
      }
      if (fd === direct?.fd && !this.#isAligned(chain, segment, within, extents.offsets[row]!, size, direct))
        fd = direct.cachedFd
      if (fd !== ZERO_EXTENT) batch.beginOp(task, opcode, fd, extents.offsets[row]!, size)
      for (let left = size; left > 0; ) {
        const room = chain.segmentLengths[segment]! - within
        if (room <= 0) {
          within -= chain.segmentLengths[segment++]!
          continue
        }
        const part = Math.min(room, left)
        const at = chain.segmentOffsets[segment]! + within
        const region = chain.segmentRegions[segment]!
        if (fd !== ZERO_EXTENT) batch.addSegment(region, this.#bases[region]! + at, part)
        else chain.regions[region]!.bytes.fill(0, at, at + part)
        left -= part
        within += part
      }
    }
    if (this.#fastWrites >= SYNC_WRITES) this.#run(this.#fast)
  }

  /** Adds a flush, or a punch or zero of `length` bytes at `offset`. */
  addRange(task: Task, opcode: number, fd: number, offset: number, length: number): void {
    const batch = this.#backend.inMemory ? this.#fast : this.#slow
    this.#makeRoom(batch, 1, 1)
    batch.beginOp(task, opcode, fd, offset, length)
    if (length > 0) batch.addSegment(0, 0, length)
  }

  /** As {@link addRange}, for every place that `[offset, offset + length)` of the disk lies in. */
  addDiskRange(task: Task, opcode: number, offset: number, length: number): void {
    const extents = new ExtentList()
    this.#backend.locate(offset, length, extents)
    for (let row = 0; row < extents.count; row++) {
      if (extents.fds[row] === ZERO_EXTENT) continue
      this.addRange(task, opcode, extents.fds[row]!, extents.offsets[row]!, extents.lengths[row]!)
    }
  }

  /** Starts what was added. Reads that are cached have ended when this returns. */
  submit(): void {
    while (this.#fast.count > 0) this.#run(this.#fast)
    if (this.#slow.count > 0) this.#run(this.#slow)
    this.#budget = SYNC_BUDGET_BYTES
  }

  /** One operation of `task`, or its adding, has ended. */
  settle(task: Task): void {
    if (--task.pending === 0) this.#done(task)
  }

  /** A driver that runs beside this thread wakes up and works on the first answers while the next are fetched. */
  #showEarly(): void {
    if (!this.#ctx.isWorthShowing(this.#fast.count, this.#fast.bytes)) return
    this.#run(this.#fast)
    this.#ctx.show()
  }

  /** Memory, position and length are as an fd with `O_DIRECT` wants them. */
  #isAligned(
    chain: DescriptorChain,
    first: number,
    skip: number,
    position: number,
    size: number,
    { alignment }: DirectAccess,
  ): boolean {
    if (position % alignment !== 0 || size % alignment !== 0) return false
    let within = skip
    for (let left = size, i = first; left > 0; i++) {
      const part = Math.min(chain.segmentLengths[i]! - within, left)
      const at = this.#bases[chain.segmentRegions[i]!]! + chain.segmentOffsets[i]! + within
      if (part > 0 && (at % alignment !== 0 || part % alignment !== 0)) return false
      within = part > 0 ? 0 : within - chain.segmentLengths[i]!
      left -= Math.max(0, part)
    }
    return true
  }

  #choose(opcode: number, length: number): Batch<Task> {
    if (length > SYNC_OP_BYTES || length > this.#budget) return this.#slow
    if (opcode === IO_WRITE && !this.#backend.inMemory) {
      if (performance.now() < this.#throttledUntil) return this.#slow
      this.#fastWrites++
    }
    this.#budget -= length
    return this.#fast
  }

  #makeRoom(batch: Batch<Task>, ops: number, segments: number): boolean {
    while (!batch.fits(ops, segments)) {
      if (batch.count === 0) return false
      this.#run(batch)
    }
    return true
  }

  #run(batch: Batch<Task>): void {
    if (batch === this.#slow) {
      for (let i = 0; i < batch.count; i++) this.#missed.push(i)
    } else {
      this.#runNow(batch)
    }
    if (this.#missed.length > 0) this.#runAsync(batch)
    batch.clear()
    this.#tell()
  }

  /** What `done` adds may run a batch again; what ends there is told about by the outer loop, in order. */
  #tell(): void {
    if (this.#telling) return
    this.#telling = true
    for (let i = 0; i < this.#ended.length; i++) this.#done(this.#ended[i]!)
    this.#ended.length = 0
    this.#telling = false
  }

  #runNow(batch: Batch<Task>): void {
    const { io, tasks, expected, count } = batch
    const begun = this.#fastWrites > 0 ? performance.now() : 0
    io.runSync(this.#buffers, count, this.#backend.inMemory ? WAIT : NOWAIT_READS)
    if (this.#fastWrites > 0) this.#watchThrottle(begun)
    const results = io.results
    for (let i = 0; i < count; i++) {
      const result = results[i]!
      const task = tasks[i]!
      if (result !== expected[i]) {
        // Not cached, or a file system that cannot tell.
        if (!this.#backend.inMemory && (result === -EAGAIN || result === -EOPNOTSUPP)) {
          this.#missed.push(i)
          continue
        }
        noteError(task, result)
      }
      if (--task.pending === 0) this.#ended.push(task)
    }
  }

  #watchThrottle(begun: number): void {
    this.#fastWrites = 0
    const now = performance.now()
    if (now - begun > THROTTLED_MS) this.#throttledUntil = now + THROTTLE_PAUSE_MS
  }

  #runAsync(batch: Batch<Task>): void {
    const tasks = batch.tasks.slice(0, batch.count)
    const expected = batch.expected.slice(0, batch.count)
    this.#gauge.begin(this.#missed.length)
    const ended = (row: number, result: number): void => {
      if (result !== expected[row]) noteError(tasks[row]!, result)
      this.settle(tasks[row]!)
      this.submit()
      this.#gauge.end()
    }
    // What is only long is copied in the pool.
    const waits = batch === this.#fast || this.#backend.direct !== undefined
    batch.io.runAsync(this.#buffers, this.#missed, ended, { waits })
    this.#missed.length = 0
  }
}

/** A result that is neither whole nor an error is the end of a truncated image. */
function noteError(task: IoTask, result: number): void {
  if (task.error === 0) task.error = result < 0 ? result : -EIO
}

const NOWAIT_READS = { nowait: "reads" } as const
const WAIT = { nowait: false } as const

/** Rows of one native call and whose they are. */
class Batch<Task extends IoTask> {
  readonly io: IoBatch
  readonly tasks: Task[] = []
  /** Result of each row when all went well. */
  readonly expected: number[] = []
  count = 0
  /** Of all operations. */
  bytes = 0
  #segments = 0

  constructor(ops: number, segments: number) {
    this.io = new IoBatch(ops, segments)
  }

  fits(ops: number, segments: number): boolean {
    return this.count + ops <= this.io.capacity && this.#segments + segments <= this.io.segmentCapacity
  }

  beginOp(task: Task, opcode: number, fd: number, offset: number, expected: number): void {
    this.io.setOp(this.count, opcode, fd, offset, this.#segments, 0)
    this.tasks[this.count] = task
    this.expected[this.count] = expected
    this.bytes += expected
    this.count++
    task.pending++
  }

  addSegment(region: number, offset: number, length: number): void {
    this.io.setSegment(this.#segments++, region, offset, length)
    const at = 4 * (this.count - 1) + 3
    this.io.ops[at] = this.io.ops[at]! + 1
  }

  clear(): void {
    this.count = 0
    this.bytes = 0
    this.#segments = 0
  }
}
