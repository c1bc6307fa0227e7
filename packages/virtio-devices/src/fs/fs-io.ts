import { constants } from "node:os"
import { fdOrigin, IO_FDATASYNC, IO_READ, IoBatch } from "@ts-vmm/native"
import type { GuestMemory } from "@ts-vmm/vm-memory"
import type { IoGauge } from "../io-gauge.js"
import type { DescriptorChain } from "../queue/chain.js"

/** Segments of one chain: its most, with one more where data starts inside one. */
const MAX_SEGMENTS = 1025
/** A longer transfer goes to the thread pool: copying it here would keep every other device waiting. */
const SYNC_BYTES = 512 * 1024
const { EAGAIN, EINVAL, EOPNOTSUPP } = constants.errno
/** Writes go to the page cache, which takes them far sooner than the pool would. */
const NOWAIT = { nowait: "reads" } as const

/** A file to read or write. */
export interface IoFile {
  readonly fd: number
  /** Memory never waits; undefined until it had to be found out. */
  inMemory?: boolean
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
    if (length > SYNC_BYTES) return this.#later(done)
    if (file.inMemory) return this.#now()
    const result = this.#tryNow()
    if (result === -EOPNOTSUPP) {
      file.inMemory = fdOrigin(file.fd) === "memory"
      if (file.inMemory) return this.#now()
    }
    return result === -EAGAIN || result === -EOPNOTSUPP ? this.#later(done) : result
  }

  /** Makes a file's data durable. */
  sync(fd: number, done: IoDone): undefined {
    this.#batch.setOp(0, IO_FDATASYNC, fd, 0, 0, 0)
    return this.#later(done)
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
