/** Bytes of a MAC address. */
export const MAC_SIZE = 6

/** A random, locally administered, unicast MAC address. */
export function randomMac(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(MAC_SIZE))
  bytes[0] = ((bytes[0] as number) & 0xfc) | 2 // locally administered, unicast
  return formatMac(bytes)
}

/** The bytes of `02:00:00:00:00:01`. @throws RangeError for what is no address of one machine */
export function parseMac(mac: string): Uint8Array {
  if (!/^([0-9a-f]{2}:){5}[0-9a-f]{2}$/i.test(mac)) throw new RangeError(`mac "${mac}" is no MAC address`)
  const bytes = Uint8Array.from(mac.split(":"), part => Number.parseInt(part, 16))
  if (!isUnicast(bytes)) throw new RangeError(`mac "${mac}" is a group's address`)
  return bytes
}

/** The address of one machine, not of a group (IEEE 802, the first bit on the wire). */
export function isUnicast(bytes: Uint8Array, at = 0): boolean {
  return ((bytes[at] as number) & 1) === 0
}

/** As `02:00:00:00:00:01`. */
export function formatMac(bytes: Uint8Array): string {
  return [...bytes].map(byte => byte.toString(16).padStart(2, "0")).join(":")
}
