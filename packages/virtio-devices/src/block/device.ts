import { constants } from "node:os"
import { IO_FDATASYNC, IO_PUNCH_HOLE, IO_READ, IO_WRITE, IO_ZERO_RANGE } from "@ts-vmm/native"
import type { DeviceContext, DeviceThreads, VirtioDevice } from "../device.js"
import { hasFeature } from "../features.js"
import { VIRTIO_ID } from "../ids.js"
import { IoGauge } from "../io-gauge.js"
import { PacedQueues } from "../paced-queues.js"
import type { DescriptorChain } from "../queue/chain.js"
import { RateLimiter } from "../rate-limiter.js"
import type { BlockBackend, EraseKind } from "./backend.js"
import { BlockIo, type IoTask } from "./block-io.js"
import { type BlockCounters, newBlockCounters } from "./counters.js"
import * as defs from "./defs.js"
import { BlockError } from "./errors.js"
import { type BlockDeviceOptions, checkOptions } from "./options.js"
import {
  type DiskLimits,
  MAX_DISCARD_SECTORS,
  MAX_DISCARD_SEGMENTS,
  RequestParser,
  type SectorRange,
} from "./request.js"
import { BlockThreads } from "./threads.js"

const STATUS = [0, 1, 2].map(status => Uint8Array.of(status))
const { EIO, EOPNOTSUPP } = constants.errno
/** Requests of a limited disk per turn of the event loop. */
const PACED_PER_TURN = 256

/** What a read or a write moves; bytes, checked to be on the disk. */
interface DataRange {
  readonly opcode: number
  readonly offset: number
  readonly length: number
}

/** A request on its way. */
interface BlockTask extends IoTask {
  readonly queue: number
  readonly changes: boolean
  readonly chain: DescriptorChain
  /** A write on a device whose driver does not flush is durable before it completes. */
  durable: boolean
}

/**
 * A virtio block device over a {@link BlockBackend}: read, write, flush, get-id, discard, write-zeroes, several
 * queues, capacity change.
 *
 * @see virtio 1.3, section 5.2
 *
 * @example
 * ```ts
 * const device = new BlockDevice(openFileBackend("disk.img"), { serial: "root" })
 * const server = serveVhostUser(device, { socketPath: "disk.sock" })
 * ```
 */
export class BlockDevice implements VirtioDevice {
  readonly type = VIRTIO_ID.block
  readonly queueSizes: readonly number[]
  readonly features: bigint
  readonly threads?: DeviceThreads
  /** What all threads have done, for a device with some. */
  readonly counters: BlockCounters = newBlockCounters()
  readonly #backend: BlockBackend
  readonly #serial = new Uint8Array(defs.VIRTIO_BLK_ID_BYTES)
  readonly #config = new DataView(new ArrayBuffer(defs.CONFIG_SIZE))
  readonly #parser = new RequestParser()
  readonly #gauge = new IoGauge()
  /** Lives as long as the device: a reset is no way to a fresh burst. */
  readonly #limiter: RateLimiter | undefined
  readonly #onWriteError: ((errno: number) => void) | undefined
  readonly #disk: { -readonly [K in keyof DiskLimits]: DiskLimits[K] }
  readonly #threads: BlockThreads | undefined
  #session: Session | undefined

  /**
   * @throws RangeError for an option out of its range, and for `threads` together with `rateLimit`; BlockError `unsupported`
   *   for `threads` on a disk that is not one raw file
   */
  constructor(backend: BlockBackend, options: BlockDeviceOptions = {}) {
    const { serial = "", queues = 1, threads = 0, queueSize = 256, blockSize = 512, rateLimit } = options
    checkOptions(options)
    if (threads > 0) {
      const part = { serial, queues, queueSize, blockSize }
      this.threads = this.#threads = new BlockThreads(threads, backend, part, this.counters, options)
    }
    this.#onWriteError = options.onWriteError
    this.#limiter = rateLimit && RateLimiter.of(rateLimit)
    this.#backend = backend
    this.queueSizes = new Array<number>(queues).fill(queueSize)
    this.features = featuresOf(backend, queues)
    this.#disk = { sectors: 0, readOnly: backend.readOnly, discard: false }
    new TextEncoder().encodeInto(serial, this.#serial)
    this.#writeFixedConfig(queues, queueSize, blockSize)
    this.#setCapacity()
  }

  /** Capacity in bytes, as the driver sees it. */
  get capacity(): number {
    return this.#disk.sectors * defs.SECTOR_SIZE
  }

  readConfig(offset: number, into: Uint8Array): void {
    const config = new Uint8Array(this.#config.buffer).subarray(offset)
    into.fill(0)
    into.set(config.subarray(0, into.length))
  }

  /** Takes over a new size of the image: requests are held against it at once, and the driver is told. */
  updateCapacity(): void {
    this.#backend.refresh?.()
    const before = this.#disk.sectors
    this.#setCapacity()
    if (this.#disk.sectors === before) return
    this.#session?.ctx.configChanged()
    this.#threads?.changed()
  }

  activate(ctx: DeviceContext): void {
    if (this.#threads)
      throw new BlockError(
        "unsupported",
        "a disk with threads needs a transport that starts them: vhost-user",
      )
    this.#disk.discard =
      hasFeature(ctx.features, defs.VIRTIO_BLK_F_DISCARD) ||
      hasFeature(ctx.features, defs.VIRTIO_BLK_F_WRITE_ZEROES)
    const session: Session = {
      ctx,
      flushes: hasFeature(ctx.features, defs.VIRTIO_BLK_F_FLUSH),
      io: new BlockIo<BlockTask>(this.#backend, ctx, this.#gauge, task => {
        this.#finish(session, task)
      }),
    }
    if (this.#limiter) session.paced = this.#pace(session, this.#limiter)
    this.#session = session
  }

  reset(): void {
    this.#session?.paced?.end()
    this.#session = undefined
  }

  /** The thread pool cannot be called back: what it began works on guest memory until it ends. */
  idle(): Promise<void> | undefined {
    return this.#gauge.idle()
  }

  notify(index: number): void {
    const session = this.#session
    if (!session) return
    if (session.paced) {
      session.paced.notify(index)
      return
    }
    session.ctx.drain(index, chain => this.#serve(session, index, chain))
    session.io.submit()
  }

  #pace(session: Session, limiter: RateLimiter): PacedQueues {
    return new PacedQueues(session.ctx, limiter, {
      cost: dataBytes,
      serve: (index, chain) => this.#serve(session, index, chain),
      served: () => session.io.submit(),
      perTurn: PACED_PER_TURN,
    })
  }

  /** @returns bytes written when the request has ended already, undefined when I/O is under way */
  #serve(session: Session, queue: number, chain: DescriptorChain): number | undefined {
    // Without room for a status byte nothing can be said, and so nothing is done.
    if (chain.writableLength === 0) return this.#end(chain, defs.VIRTIO_BLK_S_IOERR)
    const parser = this.#parser
    switch (parser.parse(chain, this.#disk)) {
      case "read":
        return this.#start(session, queue, chain, IO_READ)
      case "write":
        return this.#start(session, queue, chain, IO_WRITE)
      case "flush":
        return this.#flush(session, { queue, chain, changes: true, pending: 1, error: 0, durable: true })
      case "get-id":
        chain.write(0, this.#serial.subarray(0, Math.min(parser.length, defs.VIRTIO_BLK_ID_BYTES)))
        return this.#end(chain, defs.VIRTIO_BLK_S_OK)
      case "discard":
      case "write-zeroes":
        return this.#discard(session, queue, chain)
      default:
        return this.#end(chain, parser.status)
    }
  }

  #start(session: Session, queue: number, chain: DescriptorChain, opcode: number): undefined {
    const { sector, length } = this.#parser
    const read = opcode === IO_READ
    const durable = read || session.flushes
    const task: BlockTask = { queue, chain, changes: !read, pending: 1, error: 0, durable }
    if (read) {
      this.counters.reads++
      this.counters.bytesRead += length
    } else {
      this.counters.writes++
      this.counters.bytesWritten += length
    }
    const data: DataRange = { opcode, offset: sector * defs.SECTOR_SIZE, length }
    const preparing = this.#backend.prepare?.(data.offset, length, read ? "read" : "write")
    if (preparing) this.#startLater(session, task, preparing, data)
    else this.#startNow(session, task, data)
  }

  #startNow(session: Session, task: BlockTask, { opcode, offset, length }: DataRange): void {
    const skip = opcode === IO_READ ? 0 : defs.REQUEST_HEADER_SIZE
    session.io.addData(task, opcode, task.chain, skip, offset, length)
    session.io.settle(task)
  }

  /** Nothing touches guest memory until the range can be had; a reset meanwhile takes the request along. */
  #startLater(session: Session, task: BlockTask, preparing: Promise<void>, data: DataRange): void {
    preparing.then(
      () => {
        if (this.#session !== session) return
        this.#startNow(session, task, data)
        session.io.submit()
      },
      error => this.#fail(session, task, error),
    )
  }

  /** What was to come before the request's own I/O went wrong. */
  #fail(session: Session, task: BlockTask, error: NodeJS.ErrnoException): void {
    if (this.#session !== session) return
    task.error = error.errno !== undefined && error.errno < 0 ? error.errno : -EIO
    session.io.settle(task)
    session.io.submit()
  }

  #flush(session: Session, task: BlockTask): undefined {
    this.counters.flushes++
    this.#addFlush(session, task)
  }

  #addFlush(session: Session, task: BlockTask): undefined {
    const flushing = this.#backend.flush?.()
    if (flushing) {
      flushing.then(
        () => this.#session === session && session.io.settle(task),
        error => this.#fail(session, task, error),
      )
      return
    }
    for (const fd of this.#backend.flushFds) session.io.addRange(task, IO_FDATASYNC, fd, 0, 0)
    session.io.settle(task)
  }

  #discard(session: Session, queue: number, chain: DescriptorChain): number | undefined {
    const ranges = this.#parser.ranges(chain, this.#disk)
    if (!ranges) return this.#end(chain, this.#parser.status)
    this.counters.discards++
    const durable = session.flushes
    const task: BlockTask = { queue, chain, changes: true, pending: 1, error: 0, durable }
    const kind = this.#parser.kind === "discard" ? "discard" : "write-zeroes"
    for (const range of ranges) {
      if (this.#backend.erase) this.#erase(session, task, range, kind)
      else this.#addRange(session, task, range)
    }
    session.io.settle(task)
    return undefined
  }

  #addRange(session: Session, task: BlockTask, { sector, sectors, unmap }: SectorRange): void {
    // A punched range reads as zeroes too; tmpfs has nothing else.
    const opcode = unmap || this.#backend.inMemory ? IO_PUNCH_HOLE : IO_ZERO_RANGE
    session.io.addDiskRange(task, opcode, sector * defs.SECTOR_SIZE, sectors * defs.SECTOR_SIZE)
  }

  /** Counts as one operation of the task. */
  #erase(session: Session, task: BlockTask, { sector, sectors }: SectorRange, kind: EraseKind): void {
    task.pending++
    const erasing = this.#backend.erase!(sector * defs.SECTOR_SIZE, sectors * defs.SECTOR_SIZE, kind)
    erasing.then(
      () => this.#session === session && session.io.settle(task),
      error => this.#fail(session, task, error),
    )
  }

  /** All operations of `task` have ended. */
  #finish(session: Session, task: BlockTask): void {
    if (task.error === 0 && !task.durable) {
      task.durable = true
      task.pending = 1
      this.#addFlush(session, task)
      return
    }
    if (task.error !== 0 && task.changes && task.error !== -EOPNOTSUPP) this.#onWriteError?.(-task.error)
    const written = this.#end(task.chain, statusOf(task.error))
    session.ctx.complete(task.queue, task.chain, written)
  }

  /** Writes the status byte, the last writable one. @returns bytes of the chain that count as written */
  #end(chain: DescriptorChain, status: number): number {
    if (status !== defs.VIRTIO_BLK_S_OK) this.counters.failed++
    chain.write(chain.writableLength - 1, STATUS[status]!)
    return chain.writableLength
  }

  #setCapacity(): void {
    this.#disk.sectors = Math.floor(this.#backend.size / defs.SECTOR_SIZE)
    this.#config.setBigUint64(defs.CONFIG.capacity, BigInt(this.#disk.sectors), true)
  }

  #writeFixedConfig(queues: number, queueSize: number, blockSize: number): void {
    const config = this.#config
    // Header and status take two descriptors of a chain.
    config.setUint32(defs.CONFIG.segMax, Math.max(1, queueSize - 2), true)
    config.setUint32(defs.CONFIG.blkSize, blockSize, true)
    // The host's page is the unit that costs no read-modify-write.
    config.setUint8(defs.CONFIG.physicalBlockExp, Math.log2(4096 / blockSize))
    config.setUint16(defs.CONFIG.minIoSize, 4096 / blockSize, true)
    config.setUint16(defs.CONFIG.numQueues, queues, true)
    if (!this.#backend.discard) return
    config.setUint32(defs.CONFIG.maxDiscardSectors, MAX_DISCARD_SECTORS, true)
    config.setUint32(defs.CONFIG.maxDiscardSeg, MAX_DISCARD_SEGMENTS, true)
    const alignment = this.#backend.discardAlignment ?? 4096
    config.setUint32(defs.CONFIG.discardSectorAlignment, alignment / defs.SECTOR_SIZE, true)
    config.setUint32(defs.CONFIG.maxWriteZeroesSectors, MAX_DISCARD_SECTORS, true)
    config.setUint32(defs.CONFIG.maxWriteZeroesSeg, MAX_DISCARD_SEGMENTS, true)
    config.setUint8(defs.CONFIG.writeZeroesMayUnmap, 1)
  }
}

/** What lives from `activate` to `reset`; late completions keep theirs, whose context is dead by then. */
interface Session {
  readonly ctx: DeviceContext
  readonly io: BlockIo<BlockTask>
  /** The driver flushes; otherwise every write is made durable (5.2.6.2). */
  readonly flushes: boolean
  /** Of a disk with a limit. */
  paced?: PacedQueues
}

/** What a chain holds beside header and status. */
function dataBytes(chain: DescriptorChain): number {
  return Math.max(0, chain.readableLength + chain.writableLength - defs.REQUEST_HEADER_SIZE - 1)
}

function statusOf(error: number): number {
  if (error === 0) return defs.VIRTIO_BLK_S_OK
  return error === -EOPNOTSUPP ? defs.VIRTIO_BLK_S_UNSUPP : defs.VIRTIO_BLK_S_IOERR
}

function featuresOf(backend: BlockBackend, queues: number): bigint {
  let features = defs.VIRTIO_BLK_F_SEG_MAX | defs.VIRTIO_BLK_F_BLK_SIZE | defs.VIRTIO_BLK_F_TOPOLOGY
  features |= backend.readOnly ? defs.VIRTIO_BLK_F_RO : defs.VIRTIO_BLK_F_FLUSH
  if (queues > 1) features |= defs.VIRTIO_BLK_F_MQ
  if (backend.discard) features |= defs.VIRTIO_BLK_F_DISCARD | defs.VIRTIO_BLK_F_WRITE_ZEROES
  return features
}
