import { constants } from "node:os"
import { IO_READ, IO_WRITE } from "@ts-vmm/native"
import type { DeviceContext, VirtioDevice } from "../device.js"
import type { DeviceMemory, SharedMemoryRegion } from "../device-memory.js"
import { VIRTIO_ID } from "../ids.js"
import { IoGauge } from "../io-gauge.js"
import type { DescriptorChain } from "../queue/chain.js"
import { DaxWindow } from "./dax-window.js"
import { FsIo, type Transfer } from "./fs-io.js"
import { type FsCacheMode, FuseServer, MAX_TRANSFER, NO_REPLY } from "./fuse-server.js"
import { keepOwners } from "./owners.js"
import { FUSE, FUSE_FSYNC_FDATASYNC, IN_HEADER_SIZE, OUT_HEADER_SIZE, READ_IN_SIZE } from "./protocol.js"
import { type Answered, FuseReply } from "./reply.js"
import { FuseRequest } from "./request.js"
import { SharedFolder, type SharedFolderOptions } from "./shared-folder.js"

/** Options of {@link FsDevice}. */
export interface FsDeviceOptions extends SharedFolderOptions {
  /** What the guest mounts it by: `mount -t virtiofs TAG DIRECTORY`. 1 to 36 bytes. */
  readonly tag: string
  /**
   * How long the guest may believe what it was told: not at all, a second, or a day, which is for folders that nobody
   * else changes. Default `auto`.
   */
  readonly cache?: FsCacheMode
  /** The guest may keep writes for a while; only where nobody else writes. Default false. */
  readonly writeback?: boolean
  /** Request queues, 1 to 16. Default 1. */
  readonly queues?: number
  /**
   * Most files that the guest may know, and most that it may have open, at a time. What it knows takes memory of this
   * process, what it has open is an fd each; a quarter of the fds that the process may have it keeps to itself whatever
   * this says. Default 262,144.
   */
  readonly maxFiles?: number
  /**
   * Access lists (POSIX ACLs) of the host's files count for the guest, and it may change them, default lists of folders
   * among them. Needs owners that are kept. Costs a request for each file that the guest looks at. Default false.
   */
  readonly acl?: boolean
  /**
   * Locks of fcntl(2) and flock(2) are the host's: its programs, and other guests, see them and are kept out. Without it
   * they are the guest's own, which is faster. Default false.
   */
  readonly locks?: boolean
  /**
   * Longest time that the guest waits for such a lock, in milliseconds; then it gets `EINTR`. A process that waits for a
   * device cannot be killed, so this is also how long a container may take to end. Default 30,000.
   */
  readonly lockWaitMs?: number
  /**
   * A window in the guest's address space in which it has pages of files mapped, those of the host's page cache, instead
   * of copies (`mount -o dax=always`). Whoever runs the guest places it; where nobody does (vhost-user) there is none.
   * For files that nobody shrinks while they are mapped, on file systems that do not get full: a guest that uses what is gone
   * stands still, or ends. Default none.
   */
  readonly dax?: FsDaxOptions
}

/** The DAX window of an {@link FsDevice}. */
export interface FsDaxOptions {
  /**
   * Bytes, a power of two from 2 MiB to 4 GiB. Linux maps 2 MiB of a file at a time, and gives those up that were not
   * used lately when the window is full. It takes 1/64 of this in RAM to keep count.
   */
  readonly size: number
}

const TAG_SIZE = 36
const QUEUE_SIZE = 1024
const MAX_QUEUES = 16
const DEFAULT_MAX_FILES = 262_144
const DEFAULT_LOCK_WAIT_MS = 30_000
/** An hour. */
const MAX_LOCK_WAIT_MS = 3_600_000
/** Where data starts in a write. */
const WRITE_DATA = IN_HEADER_SIZE + READ_IN_SIZE
/** Bytes that are moved in one turn of the event loop: other devices want theirs as well. */
const TURN_BYTES = 8 * 1024 * 1024
const { EINVAL, EIO } = constants.errno

/**
 * A virtio file system device: a folder of the host in the guest, by FUSE. Queue 0 is for urgent requests, the others
 * for all the rest.
 *
 * The guest reaches what is in the folder and nothing else; with `readOnly` it changes nothing. Owners, permissions
 * and kinds of file are as {@link SharedFolder} says.
 *
 * @see virtio 1.3, section 5.11
 *
 * @example
 * ```ts
 * const device = new FsDevice("/srv/data", { tag: "data", readOnly: true })
 * const server = serveVhostUser(device, { socketPath: "data.sock" })
 * // in the guest: mount -t virtiofs data /mnt
 * ```
 */
export class FsDevice implements VirtioDevice {
  readonly type = VIRTIO_ID.fs
  readonly queueSizes: readonly number[]
  readonly features = 0n
  /** With a window: the guest address space for it. */
  readonly deviceMemory?: DeviceMemory
  readonly #config = new DataView(new ArrayBuffer(TAG_SIZE + 4))
  readonly #folder: SharedFolder
  readonly #request = new FuseRequest()
  readonly #reply = new FuseReply()
  readonly #server: FuseServer
  readonly #gauge = new IoGauge()
  readonly #window: DaxWindow | undefined
  #session: Session | undefined

  /**
   * @param path - a folder, or a regular file, which is then the only one in the folder that the guest sees
   * @throws RangeError for an option out of its range; the error of open(2); SysError `ENOMEM` for the window
   */
  constructor(path: string, options: FsDeviceOptions) {
    const { tag, cache = "auto", writeback = false, queues = 1, maxFiles = DEFAULT_MAX_FILES } = options
    const { acl = false, locks = false, lockWaitMs = DEFAULT_LOCK_WAIT_MS } = options
    checkOptions(tag, queues, maxFiles)
    checkLockWait(lockWaitMs)
    this.queueSizes = new Array<number>(queues + 1).fill(QUEUE_SIZE)
    new TextEncoder().encodeInto(tag, new Uint8Array(this.#config.buffer))
    this.#config.setUint32(TAG_SIZE, queues, true)
    this.#folder = new SharedFolder(path, options)
    try {
      if (acl && this.#folder.owners !== keepOwners)
        throw new RangeError("access lists need owners that are kept")
      this.#window = options.dax && new DaxWindow(options.dax.size, this.#folder.readOnly)
    } catch (error) {
      this.#folder.close()
      throw error
    }
    if (this.#window) this.deviceMemory = this.#window.memory
    this.#server = new FuseServer(this.#folder, this.#reply, {
      cache,
      writeback,
      maxFiles,
      acl,
      locks,
      lockWaitMs,
      window: this.#window,
    })
  }

  /** Files that the guest knows, and those that it has open. */
  get counts(): { readonly inodes: number; readonly handles: number } {
    return this.#server.counts
  }

  /** Parts of files, of 2 MiB, that the guest has mapped. */
  get mappedRanges(): number {
    return this.#window?.mapped ?? 0
  }

  /** The window, once it is placed. */
  get sharedMemory(): readonly SharedMemoryRegion[] {
    return this.#window?.regions ?? []
  }

  readConfig(offset: number, into: Uint8Array): void {
    const config = new Uint8Array(this.#config.buffer).subarray(offset)
    into.fill(0)
    into.set(config.subarray(0, into.length))
  }

  activate(ctx: DeviceContext): void {
    const io = new FsIo<FsTask>(ctx, this.#gauge, (task, result) =>
      ctx.complete(task.queue, task.chain, this.#endTransfer(task, result)),
    )
    this.#session = { ctx, io, moved: 0 }
  }

  notify(index: number): void {
    const session = this.#session
    if (!session) return
    session.moved = 0
    session.ctx.drain(index, chain => this.#serve(session, index, chain))
    session.io.submit()
    if (session.moved >= TURN_BYTES) setImmediate(() => session === this.#session && this.notify(index))
  }

  reset(): void {
    this.#session = undefined
    this.#server.reset()
  }

  /** The thread pool cannot be called back: what it began works on guest memory until it ends. */
  idle(): Promise<void> | undefined {
    return this.#gauge.idle()
  }

  /**
   * Closes the folder, and gives the window back: only once no driver can be active any more, and the guest in whose
   * address space the window is has ended.
   */
  close(): void {
    this.#server.reset()
    this.#window?.close()
    this.#folder.close()
  }

  /** @returns bytes written when the request has ended, undefined while it is under way */
  #serve(session: Session, queue: number, chain: DescriptorChain): number | undefined {
    if (session.moved >= TURN_BYTES) {
      session.ctx.unpop(queue, chain)
      return undefined
    }
    const request = this.#request
    if (!request.read(chain)) return 0 // nobody could be answered
    if (!request.isWellFormed) return this.#answer(chain, -EINVAL)
    const { opcode } = request
    if (opcode === FUSE.READ || opcode === FUSE.WRITE) return this.#transfer(session, queue, chain)
    // What was asked for before is done before: this may close its file.
    session.io.submit()
    if (opcode === FUSE.SETLKW) return this.#waitForLock(session, queue, chain)
    if (opcode === FUSE.FSYNC || opcode === FUSE.FSYNCDIR) return this.#sync(session, queue, chain)
    return this.#answer(chain, this.#server.serve(request))
  }

  #transfer(session: Session, queue: number, chain: DescriptorChain): number | undefined {
    const request = this.#request
    const file = this.#server.dataHandle(request)
    if (typeof file === "number") return this.#answer(chain, file)
    const isRead = request.opcode === FUSE.READ
    const offset = request.u64(IN_HEADER_SIZE + 8)
    const size = request.u32(IN_HEADER_SIZE + 16)
    const room = isRead ? chain.writableLength - OUT_HEADER_SIZE : request.dataLength
    if (size > MAX_TRANSFER || size > room || offset + size > Number.MAX_SAFE_INTEGER)
      return this.#answer(chain, -EINVAL)
    const { uniqueLow, uniqueHigh } = request
    const opcode = isRead ? IO_READ : IO_WRITE
    const skip = isRead ? OUT_HEADER_SIZE : WRITE_DATA
    const task: FsTask = { queue, chain, opcode, skip, offset, length: size, uniqueLow, uniqueHigh }
    session.io.add(task, file, task)
    session.moved += size
    return undefined
  }

  #sync(session: Session, queue: number, chain: DescriptorChain): number | undefined {
    const request = this.#request
    const fd = this.#server.syncFd(request)
    if (fd < 0) return this.#answer(chain, fd)
    const { uniqueLow, uniqueHigh } = request
    const asked = { uniqueLow, uniqueHigh }
    const end = (result: number) =>
      session.ctx.complete(queue, chain, this.#answer(chain, Math.min(result, 0), asked))
    const isDataOnly =
      request.opcode === FUSE.FSYNC && (request.u32(IN_HEADER_SIZE + 8) & FUSE_FSYNC_FDATASYNC) !== 0
    const failed = isDataOnly ? session.io.syncData(fd, end) : session.io.sync(fd, end)
    return failed === undefined ? undefined : this.#answer(chain, failed, asked)
  }

  #waitForLock(session: Session, queue: number, chain: DescriptorChain): number | undefined {
    const { uniqueLow, uniqueHigh } = this.#request
    const asked = { uniqueLow, uniqueHigh }
    const result = this.#server.waitForLock(this.#request, late =>
      session.ctx.complete(queue, chain, this.#answer(chain, late, asked)),
    )
    return result === undefined ? undefined : this.#answer(chain, result)
  }

  /** @returns bytes of the chain that were written */
  #endTransfer(task: FsTask, result: number): number {
    const { chain } = task
    if (result < 0) return this.#answer(chain, result, task)
    if (task.opcode === IO_READ) {
      // The data is there already; only the header is missing.
      chain.write(0, this.#reply.head(task, 0, result, 0))
      return OUT_HEADER_SIZE + result
    }
    // struct fuse_write_out
    this.#reply.begin(8)
    this.#reply.view.setUint32(0, result, true)
    return this.#answer(chain, 8, task)
  }

  /** Writes an answer, whose body is in the reply. @returns bytes of the chain that were written */
  #answer(chain: DescriptorChain, result: number, asked: Answered = this.#request): number {
    if (result === NO_REPLY || chain.writableLength < OUT_HEADER_SIZE) return 0
    const fits = chain.writableLength >= OUT_HEADER_SIZE + Math.max(result, 0)
    const error = fits ? Math.min(result, 0) : -EIO
    const length = error < 0 ? 0 : result
    chain.write(0, this.#reply.head(asked, error, length, length))
    return OUT_HEADER_SIZE + length
  }
}

/** What lives from `activate` to `reset`. */
interface Session {
  readonly ctx: DeviceContext
  readonly io: FsIo<FsTask>
  /** The last drain ended before its queue was empty. */
  /** Bytes in this turn of the event loop. */
  moved: number
}

/** A read or write on its way. */
interface FsTask extends Transfer, Answered {
  readonly queue: number
}

function checkOptions(tag: string, queues: number, maxFiles: number): void {
  const size = Buffer.byteLength(tag)
  if (size < 1 || size > TAG_SIZE || tag.includes("\0"))
    throw new RangeError(`tag must be 1 to ${TAG_SIZE} bytes without a NUL`)
  if (!(Number.isInteger(queues) && queues >= 1 && queues <= MAX_QUEUES))
    throw new RangeError(`queues must be an integer from 1 to ${MAX_QUEUES}`)
  if (!(Number.isInteger(maxFiles) && maxFiles >= 16 && maxFiles <= 1_000_000))
    throw new RangeError("maxFiles must be an integer from 16 to 1,000,000")
}

function checkLockWait(lockWaitMs: number): void {
  if (!(Number.isInteger(lockWaitMs) && lockWaitMs >= 1 && lockWaitMs <= MAX_LOCK_WAIT_MS))
    throw new RangeError(`lockWaitMs must be an integer from 1 to ${MAX_LOCK_WAIT_MS}`)
}
