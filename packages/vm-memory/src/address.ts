import { MemoryError } from "./errors.js"
import type { GuestAddress } from "./guest-memory.js"

const TWO_32 = 2 ** 32
/** Upper words from here on make a u64 that a `number` cannot hold. */
const HIGH_WORD_LIMIT = 2 ** 21

/**
 * A guest u64 as an address, from its two little-endian words.
 * @throws MemoryError `address-too-large` when the high word is 2^21 or more
 *
 * @example
 * ```ts
 * const at = addressFromWords(view.getUint32(0, true), view.getUint32(4, true))
 * ```
 */
export function addressFromWords(low: number, high: number): GuestAddress {
  if (high >= HIGH_WORD_LIMIT) throw new MemoryError("address-too-large", high * TWO_32 + low, 0)
  return high * TWO_32 + low
}

/**
 * A guest or host u64 as an address.
 * @throws MemoryError `address-too-large` from 2^53 on, or when negative
 */
export function addressFromBigInt(value: bigint): GuestAddress {
  if (value < 0n || value >= 1n << 53n) throw new MemoryError("address-too-large", Number(value), 0)
  return Number(value)
}

/**
 * Checked `at + offset`.
 * @throws MemoryError `address-too-large` when the sum leaves 53 bits, or a part is negative or no integer
 */
export function addAddress(at: GuestAddress, offset: number): GuestAddress {
  const sum = at + offset
  if (
    !Number.isSafeInteger(sum) ||
    !Number.isSafeInteger(at) ||
    at < 0 ||
    !Number.isSafeInteger(offset) ||
    offset < 0
  )
    throw new MemoryError("address-too-large", at, offset)
  return sum
}

/** True when `at` is a multiple of `alignment`, which need not be a power of two. */
export function isAligned(at: GuestAddress, alignment: number): boolean {
  return at % alignment === 0
}
