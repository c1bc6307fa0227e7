import type { DriverBuffer } from "../testing/driver-queue.js"
import type { MockDriver } from "../testing/mock-driver.js"
import * as fuse from "./protocol.js"
import { FUSE, FUSE_ROOT_ID, IN_HEADER, IN_HEADER_SIZE, OUT_HEADER_SIZE } from "./protocol.js"

/** The first queue for ordinary requests. */
export const REQUEST_QUEUE = 1
/** Room that requests and answers have unless a test needs more. */
const ROOM = 160 * 1024

/** A number of this many bits, little-endian; text with its NUL; bytes as they are. */
export type Part = { readonly u32: number } | { readonly u64: number | bigint } | string | Uint8Array

export const u32 = (value: number): Part => ({ u32: value })
export const u64 = (value: number | bigint): Part => ({ u64: value })

/** What of a request's header is not as it should be, and how much room its answer has. */
export interface RequestOptions {
  readonly uid?: number
  readonly gid?: number
  /** What the header says of the request's length. */
  readonly claimedLength?: number
  /** Bytes for the answer, with its header. */
  readonly room?: number
}

/** An answer, or that there was none. */
export interface FuseAnswer {
  /** Bytes that the device says it wrote. */
  readonly used: number
  /** 0 or a negative errno; undefined without an answer. */
  readonly error: number | undefined
  readonly body: DataView
}

/** A file that the guest was told of. */
export interface Entry {
  readonly node: number
  readonly attr: Attributes
  /** Handle, of CREATE and TMPFILE. */
  readonly handle: number
}

/** struct fuse_attr, as far as tests look at it. */
export interface Attributes {
  readonly inode: bigint
  readonly size: number
  readonly mode: number
  readonly links: number
  readonly uid: number
  readonly gid: number
  readonly flags: number
}

/** Joins parts, each right behind the other. */
export function bytesOf(...parts: readonly Part[]): Uint8Array {
  return new Uint8Array(Buffer.concat(parts.map(partBytes)))
}

function partBytes(part: Part): Uint8Array {
  if (typeof part === "string") return Buffer.from(`${part}\0`)
  if (part instanceof Uint8Array) return part
  const view = new DataView(new ArrayBuffer("u32" in part ? 4 : 8))
  if ("u32" in part) view.setUint32(0, part.u32, true)
  else view.setBigUint64(0, BigInt.asUintN(64, BigInt(part.u64)), true)
  return new Uint8Array(view.buffer)
}

/** A FUSE client over a {@link MockDriver}: requests as Linux makes them, or with parts of any kind. */
export class FuseDriver {
  readonly driver: MockDriver
  readonly queue: number
  readonly #request: number
  readonly #answer: DriverBuffer
  #unique = 1n

  constructor(driver: MockDriver, queue = REQUEST_QUEUE) {
    this.driver = driver
    this.queue = queue
    // Used again for every request: guest memory is never freed.
    this.#request = driver.alloc(ROOM)
    this.#answer = driver.writable(ROOM)
  }

  /** Sends `parts` behind a header. */
  request(
    opcode: number,
    node: number | bigint,
    parts: readonly Part[] = [],
    options: RequestOptions = {},
  ): Promise<FuseAnswer> {
    return this.raw(this.message(opcode, node, parts, options), options.room)
  }

  /** A request's bytes. */
  message(opcode: number, node: number | bigint, parts: readonly Part[], options: RequestOptions = {}) {
    const body = bytesOf(...parts)
    const header = new DataView(new ArrayBuffer(IN_HEADER_SIZE))
    const length = IN_HEADER_SIZE + body.length
    header.setUint32(IN_HEADER.len, options.claimedLength ?? length, true)
    header.setUint32(IN_HEADER.opcode, opcode, true)
    header.setBigUint64(IN_HEADER.unique, this.#unique++, true)
    header.setBigUint64(IN_HEADER.nodeId, BigInt.asUintN(64, BigInt(node)), true)
    header.setUint32(IN_HEADER.uid, options.uid ?? 0, true)
    header.setUint32(IN_HEADER.gid, options.gid ?? 0, true)
    return bytesOf(new Uint8Array(header.buffer), body)
  }

  /** Sends any bytes. */
  async raw(message: Uint8Array, room = ROOM): Promise<FuseAnswer> {
    const out = { ...this.#answer, length: room }
    const parts = [this.driver.readable(message, this.#request), ...(room > 0 ? [out] : [])]
    this.driver.memory.write(out.address, new Uint8Array(OUT_HEADER_SIZE))
    const { length } = await this.driver.send(this.queue, parts)
    const bytes = new Uint8Array(length)
    this.driver.memory.read(out.address, bytes)
    if (length < OUT_HEADER_SIZE) return { used: length, error: undefined, body: new DataView(bytes.buffer) }
    const view = new DataView(bytes.buffer)
    const unique = new DataView(message.buffer, message.byteOffset).getBigUint64(IN_HEADER.unique, true)
    if (view.getUint32(0, true) !== length || view.getBigUint64(8, true) !== unique)
      throw new Error("an answer that is none to this request")
    return { used: length, error: view.getInt32(4, true), body: new DataView(bytes.buffer, OUT_HEADER_SIZE) }
  }

  /** The first request of a session. */
  init(major = 7, minor = 38, flags = 0xffff_ffff): Promise<FuseAnswer> {
    return this.request(FUSE.INIT, 0, [
      u32(major),
      u32(minor),
      u32(128 * 1024),
      u32(flags),
      new Uint8Array(48),
    ])
  }

  /** A name's entry, or a negative errno. */
  async lookup(name: string | Uint8Array, parent = FUSE_ROOT_ID): Promise<Entry | number> {
    return entryOf(await this.request(FUSE.LOOKUP, parent, [name]))
  }

  /** A name's node id; throws when there is none. */
  async node(name: string, parent = FUSE_ROOT_ID): Promise<number> {
    return mustBe(await this.lookup(name, parent), name).node
  }

  /** Opens a file. @returns its handle, or a negative errno */
  async open(node: number, flags = 0, opcode: number = FUSE.OPEN): Promise<number> {
    const { error, body } = await this.request(opcode, node, [u32(flags), u32(0)])
    return error === 0 ? Number(body.getBigUint64(0, true)) : error!
  }

  /** Makes and opens a file. */
  async create(
    name: string | Uint8Array,
    { parent = FUSE_ROOT_ID, flags = 2, mode = 0o100644, ...options }: CreateOptions = {},
  ): Promise<Entry | number> {
    const parts = [u32(flags), u32(mode), u32(0), u32(0), name]
    return entryOf(await this.request(FUSE.CREATE, parent, parts, options))
  }

  async mkdir(name: string | Uint8Array, parent = FUSE_ROOT_ID, mode = 0o755, options: RequestOptions = {}) {
    return entryOf(await this.request(FUSE.MKDIR, parent, [u32(mode), u32(0), name], options))
  }

  read(node: number, handle: number, offset: number | bigint, size: number, options: RequestOptions = {}) {
    const parts = [u64(handle), u64(offset), u32(size), u32(0), u64(0), u32(0), u32(0)]
    return this.request(FUSE.READ, node, parts, options)
  }

  write(node: number, handle: number, offset: number | bigint, data: Uint8Array, size = data.length) {
    const parts = [u64(handle), u64(offset), u32(size), u32(0), u64(0), u32(0), u32(0), data]
    return this.request(FUSE.WRITE, node, parts)
  }

  release(node: number, handle: number): Promise<FuseAnswer> {
    return this.request(FUSE.RELEASE, node, [u64(handle), u32(0), u32(0), u64(0)])
  }

  forget(node: number | bigint, count: number | bigint): Promise<FuseAnswer> {
    return this.request(FUSE.FORGET, node, [u64(count)], { room: 0 })
  }

  /** SETATTR; `fields` are offsets in struct fuse_setattr_in. */
  setattr(node: number, valid: number, fields: Readonly<Record<number, Part>> = {}): Promise<FuseAnswer> {
    const body = new Uint8Array(88)
    body.set(bytesOf(u32(valid)))
    for (const [offset, part] of Object.entries(fields)) body.set(bytesOf(part), Number(offset))
    return this.request(FUSE.SETATTR, node, [body])
  }

  async getattr(node: number): Promise<Attributes> {
    const { error, body } = await this.request(FUSE.GETATTR, node, [new Uint8Array(16)])
    if (error !== 0) throw new Error(`GETATTR gave ${error}`)
    return attributesOf(body, 16)
  }

  /** Names in a directory, from one READDIR on an open handle. */
  async readdir(node: number, handle: number, { position = 0n, size = 4096, plus = false } = {}) {
    const opcode = plus ? FUSE.READDIRPLUS : FUSE.READDIR
    const parts = [u64(handle), u64(position), u32(size), u32(0), u64(0), u32(0), u32(0)]
    const { error, body } = await this.request(opcode, node, parts)
    return { error, entries: error === 0 ? direntsOf(body, plus) : [] }
  }
}

/** How a file is made. */
export interface CreateOptions extends RequestOptions {
  readonly parent?: number
  readonly flags?: number
  readonly mode?: number
}

/** One struct fuse_dirent, or fuse_direntplus with its node. */
export interface Dirent {
  readonly name: string
  readonly position: bigint
  readonly type: number
  readonly node: number
}

function direntsOf(body: DataView, plus: boolean): Dirent[] {
  const entries: Dirent[] = []
  for (let at = 0; at < body.byteLength; ) {
    const dirent = at + (plus ? fuse.ENTRY_OUT_SIZE : 0)
    const length = body.getUint32(dirent + 16, true)
    const start = body.byteOffset + dirent + fuse.DIRENT_SIZE
    entries.push({
      name: Buffer.from(body.buffer, start, length).toString(),
      position: body.getBigUint64(dirent + 8, true),
      type: body.getUint32(dirent + 20, true),
      node: plus ? Number(body.getBigUint64(at, true)) : 0,
    })
    at = (dirent + fuse.DIRENT_SIZE + length + 7) & ~7
  }
  return entries
}

/** struct fuse_entry_out, with a struct fuse_open_out where one follows; a negative errno stays. */
export function entryOf({ error, body }: FuseAnswer): Entry | number {
  if (error !== 0) return error ?? 1
  const handle =
    body.byteLength > fuse.ENTRY_OUT_SIZE ? Number(body.getBigUint64(fuse.ENTRY_OUT_SIZE, true)) : 0
  return { node: Number(body.getBigUint64(0, true)), attr: attributesOf(body, 40), handle }
}

/** @throws Error when it is an errno */
export function mustBe(entry: Entry | number, what = "request"): Entry {
  if (typeof entry === "number") throw new Error(`${what}: ${entry}`)
  return entry
}

/** struct fuse_attr. */
function attributesOf(body: DataView, at: number): Attributes {
  return {
    inode: body.getBigUint64(at, true),
    size: Number(body.getBigUint64(at + 8, true)),
    mode: body.getUint32(at + 60, true),
    links: body.getUint32(at + 64, true),
    uid: body.getUint32(at + 68, true),
    gid: body.getUint32(at + 72, true),
    flags: body.getUint32(at + 84, true),
  }
}
