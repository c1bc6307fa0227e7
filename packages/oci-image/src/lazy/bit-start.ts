/**
 * A deflate stream can only be begun at a whole byte, and blocks begin anywhere. Moving all bits would not do: a stored
 * block goes on at the next whole byte, which would be another one. So blocks that unpack to nothing are put in front,
 * as many as it takes for the next to begin at the right bit.
 */

/** Values and their numbers of bits, lowest bit first. */
type Bits = readonly (readonly [value: number, count: number])[]

/** Fixed codes, end of block: 10 bits. @see RFC 1951, 3.2.6 */
const FIXED: Bits = [[0b010, 10]]

/**
 * Codes of its own, end of block: 95 bits, so that odd places can be reached. The literals' code has 255 as `0` and the
 * end of block as `1`, the distances' none. @see RFC 1951, 3.2.7
 */
const DYNAMIC: Bits = [
  [0b100, 3],
  // 257 literals and lengths, 1 distance, 18 lengths of the codes that lengths are written in: 18, 0 and 1.
  [0, 5],
  [0, 5],
  [18 - 4, 4],
  ...[0, 0, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2].map(length => [length, 3] as const),
  // 255 zeros in two runs, two ones, and a zero for the distance.
  [0b11, 2],
  [138 - 11, 7],
  [0b11, 2],
  [117 - 11, 7],
  [0b01, 2],
  [0b01, 2],
  [0b0, 1],
  // End of block.
  [0b1, 1],
]

/** What comes in front, by the bit that follows: its number of bits is that, beside whole bytes. */
const FRONTS: readonly Buffer[] = [
  [],
  [...DYNAMIC, ...FIXED],
  FIXED,
  [...DYNAMIC, ...FIXED, ...FIXED],
  [...FIXED, ...FIXED],
  [...DYNAMIC, ...FIXED, ...FIXED, ...FIXED],
  [...FIXED, ...FIXED, ...FIXED],
  DYNAMIC,
].map(packBits)

/**
 * Makes a deflate stream of one that begins inside a byte.
 *
 * @param bytes - from the byte in which it begins
 * @param bit - bits of that byte that come before it
 */
export function startAtBit(bytes: Buffer, bit: number): Buffer {
  if (bit === 0) return bytes
  const front = FRONTS[bit] as Buffer
  const out = Buffer.concat([front.subarray(0, -1), bytes])
  const before = (1 << bit) - 1
  const shared = front.length - 1
  out[shared] = ((front.at(-1) as number) & before) | ((bytes[0] as number) & ~before)
  return out
}

function packBits(bits: Bits): Buffer {
  const bytes: number[] = []
  let at = 0
  for (const [value, count] of bits)
    for (let i = 0; i < count; i++, at++)
      bytes[at >> 3] = (bytes[at >> 3] ?? 0) | (((value >> i) & 1) << (at & 7))
  return Buffer.from(bytes)
}
