import { ImageError } from "../errors.js"
import { BitReader, type ReadBytes } from "./bit-reader.js"
import { type HuffmanTable, huffmanTable } from "./huffman.js"

/** A place in a gzip file from which it can be read on. */
export interface DeflateBlock {
  /** Where the block begins in the file, in bits. */
  readonly bit: number
  /** How much comes before it when unpacked, in bytes, over all members. */
  readonly output: number
  /** Whether it is the first of its member, and so refers to nothing before it. */
  readonly isFirst: boolean
}

const END_OF_BLOCK = 256
const FIRST_LENGTH = 257
/** @see RFC 1951, 3.2.5 */
const LENGTH_BASE = [
  3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195,
  227, 258,
]
const LENGTH_BITS = [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0]
const DISTANCE_BITS = [
  0, 0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13,
]
/** @see RFC 1951, 3.2.7 */
const CODE_ORDER = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15]

/** @see RFC 1951, 3.2.6 */
const FIXED = {
  literals: huffmanTable(
    Uint8Array.from({ length: 288 }, (_, i) => (i < 144 ? 8 : i < 256 ? 9 : i < 280 ? 7 : 8)),
  ),
  distances: huffmanTable(new Uint8Array(30).fill(5)),
}

/** The codes of one block. */
type Codes = typeof FIXED

/**
 * Finds where the blocks of a gzip file begin. Nothing is unpacked: symbols are only counted, which takes less than
 * unpacking. Node's zlib does not tell where its blocks are.
 *
 * @param read - the file, from its start
 * @param onBlock - called for each block, in order
 * @returns bytes of all members unpacked
 * @throws ImageError `compression-invalid`
 * @see RFC 1951, RFC 1952
 */
export function findDeflateBlocks(read: ReadBytes, onBlock: (block: DeflateBlock) => void): number {
  const bits = new BitReader(read)
  let output = 0
  for (bits.fill(); !bits.isAtEnd; bits.fill()) {
    skipMemberHeader(bits)
    for (let isFirst = true, isLast = false; !isLast; isFirst = false) {
      bits.fill()
      onBlock({ bit: bits.position, output, isFirst })
      isLast = bits.take(1) === 1
      output += skipBlock(bits)
    }
    bits.align()
    bits.skipBytes(MEMBER_TRAILER)
  }
  return output
}

const MEMBER_HEADER = 10
/** CRC and size: whoever unpacks checks them. */
const MEMBER_TRAILER = 8
const FLAG_HEADER_CRC = 2
const FLAG_EXTRA = 4
const FLAG_NAME = 8
const FLAG_COMMENT = 16
/** A name or comment that is longer is none. */
const TEXT_MAX = 65_536

function skipMemberHeader(bits: BitReader): void {
  if (bits.take(16) !== 0x8b1f || bits.take(8) !== 8) throw invalid("no gzip header")
  const flags = bits.take(8)
  bits.skipBytes(MEMBER_HEADER - 4)
  if (flags & FLAG_EXTRA) bits.skipBytes(bits.take(16))
  for (const flag of [FLAG_NAME, FLAG_COMMENT]) if (flags & flag) skipText(bits)
  if (flags & FLAG_HEADER_CRC) bits.skipBytes(2)
}

function skipText(bits: BitReader): void {
  for (let length = 0; length < TEXT_MAX; length++) {
    bits.fill()
    if (bits.take(8) === 0) return
  }
  throw invalid("a header without end")
}

/** @returns bytes of the block unpacked */
function skipBlock(bits: BitReader): number {
  switch (bits.take(2)) {
    case 0: {
      bits.align()
      const length = bits.take(16)
      if ((bits.take(16) ^ length) !== 0xffff) throw invalid("a stored block of two lengths")
      bits.skipBytes(length)
      return length
    }
    case 1:
      return skipSymbols(bits, FIXED)
    case 2:
      return skipSymbols(bits, readCodes(bits))
    default:
      throw invalid("a block of no known type")
  }
}

/** Sixteen symbols take at most 96 bytes: far less than is filled up. */
const SYMBOLS_PER_FILL = 16

function skipSymbols(bits: BitReader, { literals, distances }: Codes): number {
  let output = 0
  for (;;) {
    bits.fill()
    for (let i = 0; i < SYMBOLS_PER_FILL; i++) {
      const symbol = takeSymbol(bits, literals)
      if (symbol < END_OF_BLOCK) output++
      else if (symbol === END_OF_BLOCK) return output
      else output += skipMatch(bits, symbol - FIRST_LENGTH, distances)
    }
  }
}

function skipMatch(bits: BitReader, lengthSymbol: number, distances: HuffmanTable): number {
  const base = LENGTH_BASE[lengthSymbol]
  if (base === undefined) throw invalid("a length that is none")
  const length = base + bits.take(LENGTH_BITS[lengthSymbol] as number)
  const extra = DISTANCE_BITS[takeSymbol(bits, distances)]
  if (extra === undefined) throw invalid("a distance that is none")
  bits.skip(extra)
  return length
}

function takeSymbol(bits: BitReader, { bits: width, entries }: HuffmanTable): number {
  const entry = entries[bits.peek() & ((1 << width) - 1)] as number
  if (entry === 0) throw invalid("a code that is none")
  bits.skip(entry & 15)
  return entry >> 4
}

/** @see RFC 1951, 3.2.7 */
function readCodes(bits: BitReader): Codes {
  const literalCount = bits.take(5) + FIRST_LENGTH
  const distanceCount = bits.take(5) + 1
  const codeCount = bits.take(4) + 4
  const codeLengths = new Uint8Array(CODE_ORDER.length)
  for (let i = 0; i < codeCount; i++) codeLengths[CODE_ORDER[i] as number] = bits.take(3)
  const lengths = readLengths(bits, huffmanTable(codeLengths), literalCount + distanceCount)
  return {
    literals: huffmanTable(lengths.subarray(0, literalCount)),
    distances: huffmanTable(lengths.subarray(literalCount)),
  }
}

function readLengths(bits: BitReader, table: HuffmanTable, count: number): Uint8Array {
  const lengths = new Uint8Array(count)
  for (let at = 0; at < count; ) {
    const symbol = takeSymbol(bits, table)
    if (symbol < 16) {
      lengths[at++] = symbol
      continue
    }
    const value = symbol === 16 ? lengths[at - 1] : 0
    const times = symbol === 16 ? 3 + bits.take(2) : symbol === 17 ? 3 + bits.take(3) : 11 + bits.take(7)
    if (value === undefined || at + times > count) throw invalid("code lengths that do not fit")
    lengths.fill(value, at, at + times)
    at += times
  }
  return lengths
}

function invalid(why: string): ImageError {
  return new ImageError("compression-invalid", `wrong gzip stream: ${why}`)
}
