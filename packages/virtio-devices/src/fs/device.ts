import { constants } from "node:os"
import { IO_READ, IO_WRITE } from "@ts-vmm/native"
import type { DeviceContext, VirtioDevice } from "../device.js"
import { VIRTIO_ID } from "../ids.js"
import { IoGauge } from "../io-gauge.js"
import type { DescriptorChain } from "../queue/chain.js"
import { FsIo } from "./fs-io.js"
import { type FsCacheMode, FuseServer, MAX_TRANSFER, NO_REPLY } from "./fuse-server.js"
import { FUSE, FUSE_FSYNC_FDATASYNC, IN_HEADER_SIZE, OUT_HEADER_SIZE, READ_IN_SIZE } from "./protocol.js"
import { FuseReply } from "./reply.js"
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
   * Most files that the guest may know, and most that it may have open, at a time: each is an fd of this process, which
   * keeps a quarter of the fds that it may have to itself whatever this says. Default 65,536.
   */
  readonly maxFiles?: number
}

const TAG_SIZE = 36
const QUEUE_SIZE = 1024
const MAX_QUEUES = 16
const DEFAULT_MAX_FILES = 65_536
/** Where data starts in a write. */
const WRITE_DATA = IN_HEADER_SIZE + READ_IN_SIZE
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
  readonly #config = new DataView(new ArrayBuffer(TAG_SIZE + 4))
  readonly #folder: SharedFolder
  readonly #request = new FuseRequest()
  readonly #reply = new FuseReply()
  readonly #server: FuseServer
  readonly #gauge = new IoGauge()
  readonly #header = new DataView(new ArrayBuffer(OUT_HEADER_SIZE))
  #session: Session | undefined

  /**
   * @param path - a folder, or a regular file, which is then the only one in the folder that the guest sees
   * @throws RangeError for an option out of its range; the error of open(2)
   */
  constructor(path: string, options: FsDeviceOptions) {
    const { tag, cache = "auto", writeback = false, queues = 1, maxFiles = DEFAULT_MAX_FILES } = options
    checkOptions(tag, queues, maxFiles)
    this.queueSizes = new Array<number>(queues + 1).fill(QUEUE_SIZE)
    new TextEncoder().encodeInto(tag, new Uint8Array(this.#config.buffer))
    this.#config.setUint32(TAG_SIZE, queues, true)
    this.#folder = new SharedFolder(path, options)
    this.#server = new FuseServer(this.#folder, this.#reply, { cache, writeback, maxFiles })
  }

  /** Files that the guest knows, and those that it has open. */
  get counts(): { readonly inodes: number; readonly handles: number } {
    return this.#server.counts
  }

  readConfig(offset: number, into: Uint8Array): void {
    const config = new Uint8Array(this.#config.buffer).subarray(offset)
    into.fill(0)
    into.set(config.subarray(0, into.length))
  }

  activate(ctx: DeviceContext): void {
    this.#session = { ctx, io: new FsIo(ctx.memory, this.#gauge) }
  }

  notify(index: number): void {
    const session = this.#session
    session?.ctx.drain(index, chain => this.#serve(session, index, chain))
  }

  reset(): void {
    this.#session = undefined
    this.#server.reset()
  }

  /** The thread pool cannot be called back: what it began works on guest memory until it ends. */
  idle(): Promise<void> | undefined {
    return this.#gauge.idle()
  }

  /** Closes the folder. Only once no driver can be active any more. */
  close(): void {
    this.#server.reset()
    this.#folder.close()
  }

  /** @returns bytes written when the request has ended, undefined while it is under way */
  #serve(session: Session, queue: number, chain: DescriptorChain): number | undefined {
    const request = this.#request
    if (!request.read(chain)) return 0 // nobody could be answered
    if (!request.isWellFormed) return this.#answer(chain, -EINVAL)
    switch (request.opcode) {
      case FUSE.READ:
      case FUSE.WRITE:
        return this.#transfer(session, queue, chain)
      case FUSE.FSYNC:
      case FUSE.FSYNCDIR:
        return this.#sync(session, queue, chain)
      default:
        return this.#answer(chain, this.#server.serve(request))
    }
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
    const unique = request.unique.slice()
    const end = (result: number) =>
      isRead ? this.#endRead(chain, unique, result) : this.#endWrite(chain, unique, result)
    const skip = isRead ? OUT_HEADER_SIZE : WRITE_DATA
    const result = session.io.transfer(isRead ? IO_READ : IO_WRITE, file, chain, skip, offset, size, late =>
      session.ctx.complete(queue, chain, end(late)),
    )
    return result === undefined ? undefined : end(result)
  }

  #sync(session: Session, queue: number, chain: DescriptorChain): number | undefined {
    const request = this.#request
    const fd = this.#server.syncFd(request)
    if (fd < 0) return this.#answer(chain, fd)
    const unique = request.unique.slice()
    const end = (result: number) =>
      session.ctx.complete(queue, chain, this.#answer(chain, Math.min(result, 0), unique))
    const isDataOnly =
      request.opcode === FUSE.FSYNC && (request.u32(IN_HEADER_SIZE + 8) & FUSE_FSYNC_FDATASYNC) !== 0
    const failed = isDataOnly ? session.io.syncData(fd, end) : session.io.sync(fd, end)
    return failed === undefined ? undefined : this.#answer(chain, failed, unique)
  }

  /** The data is there already; only the header is missing. */
  #endRead(chain: DescriptorChain, unique: Uint8Array, result: number): number {
    this.#writeHeader(chain, Math.min(result, 0), Math.max(result, 0), unique)
    return OUT_HEADER_SIZE + Math.max(result, 0)
  }

  /** struct fuse_write_out. */
  #endWrite(chain: DescriptorChain, unique: Uint8Array, result: number): number {
    if (result < 0) return this.#answer(chain, result, unique)
    this.#reply.begin(8)
    this.#reply.view.setUint32(0, result, true)
    return this.#answer(chain, 8, unique)
  }

  /** Writes an answer, whose body is in the reply. @returns bytes of the chain that were written */
  #answer(chain: DescriptorChain, result: number, unique: Uint8Array = this.#request.unique): number {
    if (result === NO_REPLY || chain.writableLength < OUT_HEADER_SIZE) return 0
    const fits = chain.writableLength >= OUT_HEADER_SIZE + Math.max(result, 0)
    const error = fits ? Math.min(result, 0) : -EIO
    const length = error < 0 ? 0 : result
    this.#writeHeader(chain, error, length, unique)
    if (length > 0) chain.write(OUT_HEADER_SIZE, this.#reply.bytes.subarray(0, length))
    return OUT_HEADER_SIZE + length
  }

  /** struct fuse_out_header. */
  #writeHeader(chain: DescriptorChain, error: number, length: number, unique: Uint8Array): void {
    const header = this.#header
    header.setUint32(0, OUT_HEADER_SIZE + length, true)
    header.setInt32(4, error, true)
    const bytes = new Uint8Array(header.buffer)
    bytes.set(unique, 8)
    chain.write(0, bytes)
  }
}

/** What lives from `activate` to `reset`. */
interface Session {
  readonly ctx: DeviceContext
  readonly io: FsIo
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
