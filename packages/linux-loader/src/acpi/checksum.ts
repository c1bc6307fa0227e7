/** The byte that makes the sum of all these bytes 0 (modulo 256), while its own place holds 0. */
export function sum8(...parts: readonly Uint8Array[]): number {
  let sum = 0
  for (const part of parts) for (const byte of part) sum += byte
  return -sum & 0xff
}
