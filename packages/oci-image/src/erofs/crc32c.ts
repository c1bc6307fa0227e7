/** Castagnoli polynomial, bit-reversed. */
const POLYNOMIAL = 0x82f63b78

/**
 * CRC-32C as the kernel's `crc32c()` computes it: no final inversion.
 *
 * @param seed - `0xffffffff` for a superblock
 */
export function crc32c(seed: number, bytes: Uint8Array): number {
  let crc = seed
  for (const byte of bytes) {
    crc ^= byte
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? POLYNOMIAL : 0)
  }
  return crc >>> 0
}
