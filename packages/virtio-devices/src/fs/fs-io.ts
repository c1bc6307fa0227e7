import { fsync } from "node:fs"
import { constants } from "node:os"
import {
  closeFd,
  duplicateFd,
  files,
  IO_FDATASYNC,
  IO_READ,
  IO_WRITE,
  IoBatch,
  type SysError,
} from "@ts-vmm/native"
import type { DeviceContext } from "../device.js"
import type { IoGauge } from "../io-gauge.js"
import type { DescriptorChain } from "../queue/chain.js"
import { STATFS_SIZE } from "./host-abi.js"

/** Segments of one transfer: what preadv2(2) takes. */
const MAX_SEGMENTS = 1024
/** Transfers of one native call. */
const MAX_ROWS = 64
const BATCH_SEGMENTS = MAX_SEGMENTS + MAX_ROWS
/** A longer transfer goes to the thread pool: copying it here would keep every other device waiting. */
const SYNC_BYTES = 512 * 1024
/** TMPFS_MAGIC and RAMFS_MAGIC: `f_type`, the first field of struct statfs. */
const MEMORY_MAGIC: ReadonlySet<number> = new Set([0x0102_1994, 0x8584_58f6])
const { EAGAIN, EINVAL, EOPNOTSUPP } = constants.errno
/** Writes go to the page cache, which takes them far sooner than the pool would. */
const NOWAIT = { nowait: "reads" } as const
const WAIT = { nowait: false } as const

/** A file to read or write. */
export interface IoFile {
  readonly fd: number
  /** Memory never waits; undefined until it had to be found out. */
  inMemory?: boolean
  /** Writing waits until the data is durable. */
  readonly isSynchronous?: boolean
}

/** What a read or write moves. */
export interface Transfer {
  /** IO_READ: into the writable part of the chain; IO_WRITE: from its readable part. */
  readonly opcode: number
  readonly chain: DescriptorChain
  /** Bytes of that part before the data. */
  readonly skip: number
  /** Where in the file, bytes. */
  readonly offset: number
  /** Bytes. */
  readonly length: number
}

/** Called once with bytes moved, or a negative errno. */
export type IoDone = (result: number) => void

/**
 * Moves data between files and guest memory. What the page cache has, or takes, is moved in this thread, one native
 * call for all transfers that were added since the last; what has to wait goes to the thread pool.
 */
export class FsIo<Task> {
  readonly #batch = new IoBatch(MAX_ROWS, BATCH_SEGMENTS)
  readonly #buffers: ArrayBuffer[]
  /** Where each region starts in its buffer. */
  readonly #bases: number[]
  readonly #ctx: DeviceContext
  readonly #gauge: IoGauge
  readonly #done: (task: Task, result: number) => void
  readonly #triples: number[] = []
  /** Whose the rows of the batch are. */
  readonly #tasks: Task[] = []
  readonly #files: IoFile[] = []
  readonly #missed: number[] = []
  #segments = 0
  #bytes = 0
  /** The rows are of files in memory, which never wait and need not know RWF_NOWAIT. */
  #inMemory = false

  /**
   * @param gauge - told of what the thread pool does
   * @param done - called once per task, at the latest in {@link submit} unless the transfer has to wait
   */
  constructor(ctx: DeviceContext, gauge: IoGauge, done: (task: Task, result: number) => void) {
    const { memory } = ctx
    this.#ctx = ctx
    this.#gauge = gauge
    this.#done = done
    this.#buffers = memory.regions.map(region => region.bytes.buffer as ArrayBuffer)
    this.#bases = memory.regions.map(region => region.bytes.byteOffset)
  }

  /** Adds a transfer. The fd must stay what it is until {@link submit}. */
  add(task: Task, file: IoFile, transfer: Transfer): void {
    this.#showEarly()
    const alone = transfer.length > SYNC_BYTES || (file.isSynchronous && transfer.opcode === IO_WRITE)
    const inMemory = file.inMemory === true
    const segments = transfer.chain.segmentCount
    if (alone || inMemory !== this.#inMemory || !this.#fits(segments)) this.submit()
    this.#inMemory = inMemory
    if (!this.#fillRow(file.fd, transfer)) {
      this.#done(task, -EINVAL)
      return
    }
    this.#tasks.push(task)
    this.#files.push(file)
    this.#bytes += transfer.length
    if (!alone) return
    this.#missed.push(0)
    this.#endBatch(transfer.length <= SYNC_BYTES)
  }

  /** Does what was added. What has to wait goes on in an io_uring or the thread pool. */
  submit(): void {
    const count = this.#tasks.length
    if (count === 0) return
    this.#batch.runSync(this.#buffers, count, this.#inMemory ? WAIT : NOWAIT)
    for (let row = 0; row < count; row++) {
      const result = this.#batch.results[row] as number
      const waits = !this.#inMemory && (result === -EAGAIN || result === -EOPNOTSUPP)
      if (waits) this.#missed.push(row)
      else this.#done(this.#tasks[row] as Task, result)
    }
    this.#endBatch()
  }

  /** Makes a file's data durable. */
  syncData(fd: number, done: IoDone): undefined {
    this.submit()
    this.#batch.setOp(0, IO_FDATASYNC, fd, 0, 0, 0)
    this.#gauge.begin(1)
    this.#batch.runAsync(this.#buffers, [0], (_, result) => {
      done(result)
      this.#gauge.end()
    })
  }

  /**
   * Makes all of a file durable, or the names in a directory: for those, syncing data would do nothing.
   *
   * @returns a negative errno when it cannot begin
   */
  sync(fd: number, done: IoDone): number | undefined {
    this.submit()
    const own = duplicateOrErrno(fd)
    if (own < 0) return own
    this.#gauge.begin(1)
    fsync(own, error => {
      closeFd(own)
      done(error?.errno ?? 0)
      this.#gauge.end()
    })
    return undefined
  }

  /** A driver that runs beside this thread wakes up and works on the first answers while the next are fetched. */
  #showEarly(): void {
    if (!this.#ctx.isWorthShowing(this.#tasks.length, this.#bytes)) return
    this.submit()
    this.#ctx.show()
  }

  #fits(segments: number): boolean {
    return this.#tasks.length < MAX_ROWS && this.#segments + segments <= BATCH_SEGMENTS
  }

  #fillRow(fd: number, { opcode, chain, skip, offset, length }: Transfer): boolean {
    const triples = this.#triples
    triples.length = 0
    const count =
      opcode === IO_READ
        ? chain.writableTriples(skip, length, triples)
        : chain.readableTriples(skip, length, triples)
    if (count > MAX_SEGMENTS) return false
    for (let i = 0; i < count; i++) {
      const region = triples[3 * i] as number
      const at = (this.#bases[region] as number) + (triples[3 * i + 1] as number)
      this.#batch.setSegment(this.#segments + i, region, at, triples[3 * i + 2] as number)
    }
    this.#batch.setOp(this.#tasks.length, opcode, fd, offset, this.#segments, count)
    this.#segments += count
    return true
  }

  /**
   * Sends on what was not done here, and frees the rows: the other side has copies.
   *
   * @param waits for a device; else it is only long
   */
  #endBatch(waits = true): void {
    if (this.#missed.length > 0) this.#later(waits)
    this.#tasks.length = 0
    this.#files.length = 0
    this.#missed.length = 0
    this.#segments = 0
    this.#bytes = 0
  }

  #later(waits: boolean): void {
    const tasks = this.#tasks.slice()
    for (const row of this.#missed) noteMemory(this.#files[row] as IoFile)
    this.#gauge.begin(this.#missed.length)
    const ended = (row: number, result: number): void => {
      this.#done(tasks[row] as Task, result)
      this.#gauge.end()
    }
    this.#batch.runAsync(this.#buffers, this.#missed, ended, { waits })
  }
}

/** A file system that knows no RWF_NOWAIT may be memory: from the next transfer on it is not asked again. */
function noteMemory(file: IoFile): void {
  file.inMemory ??= isInMemory(file.fd)
}

/** Told by its file system and not by its path, which may be longer than the kernel tells. */
function isInMemory(fd: number): boolean {
  const statfs = new Uint32Array(STATFS_SIZE / 4)
  return files.fstatfs(fd, new Uint8Array(statfs.buffer)) === 0 && MEMORY_MAGIC.has(statfs[0] as number)
}

/** The guest may close its own while the thread pool is at work, and the number be another file's. */
function duplicateOrErrno(fd: number): number {
  try {
    return duplicateFd(fd)
  } catch (error) {
    return -(error as SysError).errno
  }
}
