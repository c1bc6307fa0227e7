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
import type { GuestMemory } from "@ts-vmm/vm-memory"
import type { IoGauge } from "../io-gauge.js"
import type { DescriptorChain } from "../queue/chain.js"
import { STATFS_SIZE } from "./host-abi.js"

/** Segments of one transfer: what preadv2(2) takes. */
const MAX_SEGMENTS = 1024
/** A longer transfer goes to the thread pool: copying it here would keep every other device waiting. */
const SYNC_BYTES = 512 * 1024
/** TMPFS_MAGIC and RAMFS_MAGIC: `f_type`, the first field of struct statfs. */
const MEMORY_MAGIC: ReadonlySet<number> = new Set([0x0102_1994, 0x8584_58f6])
const { EAGAIN, EINVAL, EOPNOTSUPP } = constants.errno
/** Writes go to the page cache, which takes them far sooner than the pool would. */
const NOWAIT = { nowait: "reads" } as const

/** A file to read or write. */
export interface IoFile {
  readonly fd: number
  /** Memory never waits; undefined until it had to be found out. */
  inMemory?: boolean
  /** Writing waits until the data is durable. */
  readonly isSynchronous?: boolean
}

/** Called once with bytes moved, or a negative errno. */
export type IoDone = (result: number) => void

/**
 * Moves data between files and guest memory. What the page cache has, or takes, is moved at once in this thread; what
 * has to wait goes to the thread pool.
 */
export class FsIo {
  readonly #batch = new IoBatch(1, MAX_SEGMENTS)
  readonly #buffers: ArrayBuffer[]
  /** Where each region starts in its buffer. */
  readonly #bases: number[]
  readonly #gauge: IoGauge
  readonly #triples: number[] = []

  /** @param gauge - told of what the thread pool does */
  constructor(memory: GuestMemory, gauge: IoGauge) {
    this.#gauge = gauge
    this.#buffers = memory.regions.map(region => region.bytes.buffer as ArrayBuffer)
    this.#bases = memory.regions.map(region => region.bytes.byteOffset)
  }

  /**
   * Reads into the writable part of `chain`, or writes from its readable part.
   *
   * @param skip - bytes of that part before the data
   * @returns the result when it is there at once; otherwise `done` is called with it later
   */
  transfer(
    opcode: number,
    file: IoFile,
    chain: DescriptorChain,
    skip: number,
    offset: number,
    length: number,
    done: IoDone,
  ): number | undefined {
    if (!this.#fillRow(opcode, file.fd, chain, skip, offset, length)) return -EINVAL
    const waits = file.isSynchronous && opcode === IO_WRITE
    if (length > SYNC_BYTES || waits) return this.#later(done)
    if (file.inMemory) return this.#now()
    const result = this.#tryNow()
    if (result === -EOPNOTSUPP) {
      file.inMemory = isInMemory(file.fd)
      if (file.inMemory) return this.#now()
    }
    return result === -EAGAIN || result === -EOPNOTSUPP ? this.#later(done) : result
  }

  /** Makes a file's data durable. */
  syncData(fd: number, done: IoDone): undefined {
    this.#batch.setOp(0, IO_FDATASYNC, fd, 0, 0, 0)
    return this.#later(done)
  }

  /**
   * Makes all of a file durable, or the names in a directory: for those, syncing data would do nothing.
   *
   * @returns a negative errno when it cannot begin
   */
  sync(fd: number, done: IoDone): number | undefined {
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

  #fillRow(
    opcode: number,
    fd: number,
    chain: DescriptorChain,
    skip: number,
    offset: number,
    length: number,
  ): boolean {
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
      this.#batch.setSegment(i, region, at, triples[3 * i + 2] as number)
    }
    this.#batch.setOp(0, opcode, fd, offset, 0, count)
    return true
  }

  #now(): number {
    this.#batch.runSync(this.#buffers, 1)
    return this.#batch.results[0] as number
  }

  #tryNow(): number {
    this.#batch.runSync(this.#buffers, 1, NOWAIT)
    return this.#batch.results[0] as number
  }

  #later(done: IoDone): undefined {
    this.#gauge.begin(1)
    this.#batch.runAsync(this.#buffers, [0], (_, result) => {
      done(result)
      this.#gauge.end()
    })
  }
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
