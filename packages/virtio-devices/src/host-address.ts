import type { SharedRegion } from "./device.js"

/**
 * A guest address in the terms of whoever serves the rings.
 *
 * @param size bytes from there on that have to lie in the same piece of RAM
 * @returns undefined when they do not
 */
export function hostAddress(
  regions: readonly SharedRegion[],
  address: number,
  size: number,
): bigint | undefined {
  const region = regions.find(
    ({ guestAddress, size: length }) => address >= guestAddress && address + size <= guestAddress + length,
  )
  return region && region.userAddress + BigInt(address - region.guestAddress)
}
