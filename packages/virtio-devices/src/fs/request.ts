import { constants } from "node:os"
import type { DescriptorChain } from "../queue/chain.js"
import { FUSE, IN_HEADER, IN_HEADER_SIZE, READ_IN_SIZE } from "./protocol.js"

/** Most bytes of a request beside the data of a write: a header, two names or an attribute of 64 KiB. */
const MAX_REQUEST_SIZE = 80 * 1024
/** What is copied first: all there is of a read, and of a write all but its data. */
const HEAD_SIZE = IN_HEADER_SIZE + READ_IN_SIZE
const MAX_NAME_SIZE = 255
const SLASH = 0x2f
const DOT = 0x2e
const TWO_32 = 2 ** 32
const { EINVAL, ENAMETOOLONG } = constants.errno

/**
 * The request being served: a copy of its header and arguments, made once. One object serves a device, so a request's
 * bytes last until the next one is read.
 */
export class FuseRequest {
  opcode = 0
  /** Bytes that were copied. */
  length = 0
  /** Bytes of data that follow the arguments of FUSE_WRITE, and stay in the chain. */
  dataLength = 0
  readonly #bytes = new Uint8Array(MAX_REQUEST_SIZE)
  readonly #view = new DataView(this.#bytes.buffer)
  readonly #head = this.#bytes.subarray(0, HEAD_SIZE)

  /** @returns whether there is a request at all; its answer needs its number */
  read(chain: DescriptorChain): boolean {
    this.length = chain.read(0, this.#head)
    if (this.length < IN_HEADER_SIZE) return false
    this.opcode = this.#view.getUint32(IN_HEADER.opcode, true)
    const whole = chain.readableLength
    if (whole > HEAD_SIZE && this.opcode !== FUSE.WRITE) {
      const rest = this.#bytes.subarray(HEAD_SIZE, Math.min(whole, MAX_REQUEST_SIZE))
      this.length += chain.read(HEAD_SIZE, rest)
    }
    this.dataLength = whole - this.length
    return true
  }

  /** The header's own length agrees with the chain, and nothing but a write has more than is looked at. */
  get isWellFormed(): boolean {
    const whole = this.length + this.dataLength
    return this.u32(IN_HEADER.len) === whole && (this.dataLength === 0 || this.opcode === FUSE.WRITE)
  }

  /** Answers carry it: the low half of `unique`. */
  get uniqueLow(): number {
    return this.u32(IN_HEADER.unique)
  }

  /** And the high half. */
  get uniqueHigh(): number {
    return this.u32(IN_HEADER.unique + 4)
  }

  /** All of `unique`. */
  get id(): bigint {
    return this.bigint(IN_HEADER.unique)
  }

  get nodeId(): number {
    return this.u64(IN_HEADER.nodeId)
  }

  get uid(): number {
    return this.u32(IN_HEADER.uid)
  }

  get gid(): number {
    return this.u32(IN_HEADER.gid)
  }

  /** @param offset - from the start of the header; below the size that the opcode was checked for */
  u32(offset: number): number {
    return this.#view.getUint32(offset, true)
  }

  /** Above 2^53 not exact, and then nothing that exists here: no id, no handle, no position in a file. */
  u64(offset: number): number {
    return this.#view.getUint32(offset + 4, true) * TWO_32 + this.#view.getUint32(offset, true)
  }

  /** All 64 bits, signed as the kernel takes positions. */
  bigint(offset: number): bigint {
    return this.#view.getBigInt64(offset, true)
  }

  /** Bytes up to a NUL, or undefined when there is none. */
  text(offset: number): Uint8Array | undefined {
    if (offset >= this.length) return undefined
    const end = this.#bytes.indexOf(0, offset)
    return end < 0 || end >= this.length ? undefined : this.#bytes.subarray(offset, end)
  }

  /** A {@link text} that names a file in its directory: no slash, neither `.` nor `..`, at most 255 bytes. */
  name(offset: number): Uint8Array | undefined {
    const name = this.text(offset)
    return name && isName(name) ? name : undefined
  }

  /** Why there is no {@link name}: a negative errno. */
  nameError(offset: number): number {
    return (this.text(offset)?.length ?? 0) > MAX_NAME_SIZE ? -ENAMETOOLONG : -EINVAL
  }

  /** What follows `offset`. */
  bytesFrom(offset: number): Uint8Array {
    return this.#bytes.subarray(offset, this.length)
  }
}

function isName(name: Uint8Array): boolean {
  if (name.length === 0 || name.length > MAX_NAME_SIZE || name.includes(SLASH)) return false
  return name[0] !== DOT || (name.length !== 1 && (name.length !== 2 || name[1] !== DOT))
}
