import type { GuestAddress, GuestMemory, GuestRegion } from "@ts-vmm/vm-memory"
import { QueueError } from "./errors.js"

/** One part of a ring: a piece of a single region. */
export interface RingPart {
  readonly address: GuestAddress
  readonly size: number
  readonly alignment: number
}

/** 16-bit words of a ring part, for indexes and flags. */
export function ringWords16(memory: GuestMemory, part: RingPart): Uint16Array {
  const region = resolve(memory, part)
  return new Uint16Array(region.bytes.buffer, offsetIn(region, part), Math.floor(part.size / 2))
}

/** 32-bit words of a ring part. */
export function ringWords32(memory: GuestMemory, part: RingPart): Uint32Array {
  const region = resolve(memory, part)
  return new Uint32Array(region.bytes.buffer, offsetIn(region, part), Math.floor(part.size / 4))
}

/**
 * Refuses ring parts that share a byte.
 * @throws QueueError `ring-overlap`
 */
export function checkDisjoint(parts: readonly RingPart[]): void {
  const sorted = [...parts].sort((a, b) => a.address - b.address)
  for (let i = 1; i < sorted.length; i++) {
    const before = sorted[i - 1]!
    if (before.address + before.size > sorted[i]!.address)
      throw new QueueError("ring-overlap", sorted[i]!.address, before.address + before.size)
  }
}

function resolve(memory: GuestMemory, { address, size, alignment }: RingPart): GuestRegion {
  if (address % alignment !== 0) throw new QueueError("ring-alignment", address, alignment)
  const region = memory.find(address, size)
  if (region === undefined) throw new QueueError("ring-address", address, size)
  if (region.bytes.length === 0) throw new QueueError("memory-gone", address, size)
  return region
}

function offsetIn(region: GuestRegion, part: RingPart): number {
  return region.bytes.byteOffset + (part.address - region.start)
}
