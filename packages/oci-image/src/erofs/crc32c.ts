/** Castagnoli polynomial, bit-reversed. */
const POLYNOMIAL = 0x82f63b78

/** What each byte does to the sum. */
const TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte
  for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? POLYNOMIAL : 0)
  return crc
})

/**
 * CRC-32C as the kernel's `crc32c()` computes it: no final inversion.
 *
 * @param seed - `0xffffffff` for a superblock
 */
export function crc32c(seed: number, bytes: Uint8Array): number {
  let crc = seed
  for (let i = 0; i < bytes.length; i++)
    crc = (TABLE[(crc ^ (bytes[i] as number)) & 0xff] as number) ^ (crc >>> 8)
  return crc >>> 0
}
