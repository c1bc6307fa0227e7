import { ImageError, printable } from "../errors.js"

/** One tar block. @see POSIX.1-2017 pax, "ustar Interchange Format" */
export const TAR_BLOCK = 512

/** Type flags that mean something here. @see POSIX.1-2017 pax; GNU tar manual, "Basic Tar Format" */
export const TYPEFLAG = {
  oldFile: 0x00,
  file: 0x30,
  link: 0x31,
  symlink: 0x32,
  char: 0x33,
  block: 0x34,
  directory: 0x35,
  fifo: 0x36,
  contiguous: 0x37,
  gnuLongLink: 0x4b,
  gnuLongName: 0x4c,
  gnuSparse: 0x53,
  paxGlobal: 0x67,
  pax: 0x78,
} as const

const NAME_SIZE = 100
const PREFIX_OFFSET = 345
const PREFIX_SIZE = 155
const CHECKSUM_OFFSET = 148
const CHECKSUM_SIZE = 8
const MAGIC_OFFSET = 257
const USTAR_MAGIC = "ustar\x0000"
const GNU_MAGIC = "ustar  \0"
const MAGIC_SIZE = 8

/** The fields of one header block as they stand there; names are bytes (latin1 text). */
export interface RawHeader {
  readonly typeflag: number
  readonly name: string
  readonly linkname: string
  readonly mode: number
  readonly uid: number
  readonly gid: number
  readonly size: number
  readonly mtime: number
  readonly devmajor: number
  readonly devminor: number
}

/** Whether a header is in GNU's format, which has fields of its own where the ustar format has a prefix. */
export function isGnuHeader(block: Buffer): boolean {
  return magic(block) === GNU_MAGIC
}

function magic(block: Buffer): string {
  return block.toString("latin1", MAGIC_OFFSET, MAGIC_OFFSET + MAGIC_SIZE)
}

/** Whether a block is all zero: half of the end mark. */
export function isZeroBlock(block: Buffer): boolean {
  for (let i = 0; i < TAR_BLOCK; i++) if (block[i] !== 0) return false
  return true
}

/**
 * Decodes one header block.
 *
 * @param block - 512 bytes, not all zero
 * @param at - the block's offset in the stream, for messages
 * @throws ImageError `tar-header`, `tar-checksum`, `tar-number`
 */
export function decodeHeader(block: Buffer, at: number): RawHeader {
  checkChecksum(block, at)
  const typeflag = block[156] as number
  const device = typeflag === TYPEFLAG.char || typeflag === TYPEFLAG.block
  const ustar = magic(block) === USTAR_MAGIC
  const prefix = ustar ? text(block, PREFIX_OFFSET, PREFIX_SIZE) : ""
  const name = text(block, 0, NAME_SIZE)
  return {
    typeflag,
    name: prefix ? `${prefix}/${name}` : name,
    linkname: text(block, 157, NAME_SIZE),
    mode: tarNumber(block, 100, 8, at),
    uid: tarNumber(block, 108, 8, at),
    gid: tarNumber(block, 116, 8, at),
    size: tarNumber(block, 124, 12, at),
    mtime: tarNumber(block, 136, 12, at),
    devmajor: device ? tarNumber(block, 329, 8, at) : 0,
    devminor: device ? tarNumber(block, 337, 8, at) : 0,
  }
}

function checkChecksum(block: Buffer, at: number): void {
  let sum = CHECKSUM_SIZE * 0x20
  for (let i = 0; i < CHECKSUM_OFFSET; i++) sum += block[i] as number
  for (let i = CHECKSUM_OFFSET + CHECKSUM_SIZE; i < TAR_BLOCK; i++) sum += block[i] as number
  const field = block.toString("latin1", CHECKSUM_OFFSET, CHECKSUM_OFFSET + CHECKSUM_SIZE)
  if (!/^ *[0-7]+[ \0]*$/.test(field))
    throw new ImageError("tar-header", `no tar header at offset ${at}`, { at })
  const stored = tarNumber(block, CHECKSUM_OFFSET, CHECKSUM_SIZE, at)
  if (stored === sum) return
  throw new ImageError(
    "tar-checksum",
    `wrong tar header checksum at offset ${at}: expected ${sum}, got ${stored}`,
    {
      at,
      expected: sum,
      actual: stored,
    },
  )
}

function text(block: Buffer, offset: number, size: number): string {
  let end = offset
  while (end < offset + size && block[end] !== 0) end++
  return block.toString("latin1", offset, end)
}

/**
 * A number field: octal digits between optional spaces and a NUL or space; or GNU's base-256 when the top bit
 * is set (two's complement in the remaining bits). Anything else in the field is an error.
 *
 * @throws ImageError `tar-number`
 */
export function tarNumber(block: Buffer, offset: number, size: number, at: number): number {
  if ((block[offset] as number) & 0x80) return base256(block, offset, size, at)
  const end = offset + size
  let i = offset
  while (i < end && block[i] === 0x20) i++
  let value = 0
  for (; i < end; i++) {
    const digit = (block[i] as number) - 0x30
    if (digit < 0 || digit > 7) break
    value = value * 8 + digit
  }
  for (; i < end; i++) {
    if (block[i] !== 0 && block[i] !== 0x20) throw badNumber(block.toString("latin1", offset, end), at)
  }
  return value
}

function base256(block: Buffer, offset: number, size: number, at: number): number {
  const negative = ((block[offset] as number) & 0x40) !== 0
  let value = (block[offset] as number) & 0x3f
  if (negative) value -= 0x40
  for (let i = offset + 1; i < offset + size; i++) {
    value = value * 256 + (block[i] as number)
    if (!Number.isSafeInteger(value)) throw badNumber(block.toString("hex", offset, offset + size), at)
  }
  return value
}

function badNumber(field: string, at: number): ImageError {
  return new ImageError("tar-number", `not a tar number at offset ${at}: ${printable(field)}`, { at, field })
}
