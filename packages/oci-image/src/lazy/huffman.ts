import { ImageError } from "../errors.js"

/** Longest code of deflate, in bits. */
export const MAX_CODE_BITS = 15

/** A code, to be looked up by the next {@link bits} bits of the stream. */
export interface HuffmanTable {
  readonly bits: number
  /** `symbol << 4 | length of its code` for every pattern of `bits` bits; 0 where no code begins so. */
  readonly entries: Uint16Array
}

/**
 * Builds the table of a code out of the lengths of its symbols' codes.
 *
 * @param lengths - 0 for symbols that do not occur
 * @throws ImageError `compression-invalid` for lengths that no code has
 * @see RFC 1951, 3.2.2
 */
export function huffmanTable(lengths: Uint8Array): HuffmanTable {
  const counts = new Uint16Array(MAX_CODE_BITS + 1)
  for (const length of lengths) counts[length] = (counts[length] as number) + 1
  counts[0] = 0
  let bits = MAX_CODE_BITS
  while (bits > 1 && counts[bits] === 0) bits--
  const next = firstCodes(counts)
  const entries = new Uint16Array(1 << bits)
  for (let symbol = 0; symbol < lengths.length; symbol++) {
    const length = lengths[symbol] as number
    if (length === 0) continue
    const code = reversed((next[length] as number)++, length)
    for (let at = code; at < entries.length; at += 1 << length) entries[at] = (symbol << 4) | length
  }
  return { bits, entries }
}

/** The first code of each length. */
function firstCodes(counts: Uint16Array): Uint32Array {
  const first = new Uint32Array(MAX_CODE_BITS + 2)
  let code = 0
  for (let length = 1; length <= MAX_CODE_BITS; length++) {
    first[length] = code
    code += counts[length] as number
    if (code > 1 << length)
      throw new ImageError("compression-invalid", "wrong gzip stream: a code of too many symbols")
    code <<= 1
  }
  return first
}

/** Codes stand in the stream with their first bit lowest. */
function reversed(code: number, length: number): number {
  let result = 0
  for (let i = 0; i < length; i++) result |= ((code >> i) & 1) << (length - 1 - i)
  return result
}
