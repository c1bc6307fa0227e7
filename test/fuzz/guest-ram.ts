import {
  createQueue,
  VIRTIO_F_EVENT_IDX,
  VIRTIO_F_INDIRECT_DESC,
  VIRTIO_F_RING_PACKED,
  VIRTIO_F_VERSION_1,
  type VirtQueue,
} from "@ts-vmm/virtio-devices"
import { type MappedMemory, mmapMemory } from "@ts-vmm/vm-memory/mmap"
import type { Random } from "./random.js"

/**
 * Guest RAM of the queue targets: every region stands between inaccessible pages, so that an access which
 * leaves it ends the process. The first two touch; a hole and a region above 4 GiB follow.
 */
export const RAM = [
  { start: 0, size: 0x2000 },
  { start: 0x2000, size: 0xa000 },
  { start: 0x1_0000, size: 0x1000 },
  { start: 0x1_0000_0000, size: 0x4000 },
] as const

/** New zeroed memory of that shape. */
export function guardedRam(): MappedMemory {
  return mmapMemory(RAM, { guard: true, name: "fuzz-ram" })
}

/** One descriptor, as raw as it gets. */
export interface RawDescriptor {
  readonly address: bigint
  readonly length: number
  readonly flags: number
  /** Split: `next`; packed: buffer id. */
  readonly next: number
}

/** Descriptors somewhere in memory: an indirect table, or what an attacker wants to look like one. */
export interface RawTable {
  readonly at: number
  readonly entries: readonly RawDescriptor[]
}

/** Where the parts of a ring lie, and what was negotiated. */
export interface RingCase {
  readonly packed: boolean
  readonly indirect: boolean
  readonly eventIdx: boolean
  readonly size: number
  readonly desc: number
  readonly driver: number
  readonly device: number
}

/** The queue under test. @throws QueueError for a set-up that is not acceptable */
export function makeQueue(
  memory: MappedMemory,
  ring: RingCase,
  state?: Parameters<typeof createQueue>[1]["state"],
): VirtQueue {
  return createQueue(memory, state ? { ...ring, state } : ring, featuresOf(ring))
}

/** The feature word that a ring's flags stand for. */
export function featuresOf(ring: Pick<RingCase, "packed" | "indirect" | "eventIdx">): bigint {
  return (
    VIRTIO_F_VERSION_1 |
    (ring.packed ? VIRTIO_F_RING_PACKED : 0n) |
    (ring.indirect ? VIRTIO_F_INDIRECT_DESC : 0n) |
    (ring.eventIdx ? VIRTIO_F_EVENT_IDX : 0n)
  )
}

/** A ring whose set-up is almost always acceptable. */
export function randomRing(random: Random, packed: boolean): RingCase {
  const size = packed ? random.between(1, 33) : random.pick([1, 2, 4, 8, 8, 16, 64])
  const base = random.pick([0, 0, 0x2000, 0x1_0000, 0x1_0000_0000])
  // Past the largest table: 64 descriptors are 1 KiB.
  const ring = { desc: base, driver: base + 0x400, device: base + 0x600 }
  if (random.oneIn(200)) ring[random.pick(["desc", "driver", "device"] as const)] = random.edge()
  return { packed, indirect: !random.oneIn(4), eventIdx: random.oneIn(2), size, ...ring }
}

/** An address that is mostly inside memory, often at the end of a region. */
export function randomAddress(random: Random): bigint {
  const region = random.pick(RAM)
  switch (random.below(60)) {
    case 0:
      return random.edge64()
    case 1:
      return BigInt(region.start + region.size) + BigInt(random.between(-8, 8))
    case 2:
      return BigInt(region.start + region.size - random.below(64))
    case 3:
      return (1n << 64n) - BigInt(random.below(0x2000)) - 1n
    default:
      return BigInt(region.start + random.below(region.size))
  }
}

/** A buffer length: short, around the size of a region, or absurd. */
export function randomLength(random: Random): number {
  switch (random.below(40)) {
    case 0:
      return random.edge()
    case 1:
    case 2:
      return 0
    case 3:
      return random.between(0x1000, 0x4000)
    default:
      return random.between(1, 300)
  }
}

const NEXT = 1
const WRITE = 2
const INDIRECT = 4

/** A descriptor that likes to point on to the one behind it, readable ones before writable ones. */
export function randomDescriptor(
  random: Random,
  index: number,
  entries: number,
  tables: readonly number[],
): RawDescriptor {
  let flags = random.oneIn(3) || (index + 1 >= entries && !random.oneIn(8)) ? 0 : NEXT
  if (index >= entries / 2 ? !random.oneIn(12) : random.oneIn(12)) flags |= WRITE
  if (random.oneIn(80)) flags = random.u32() & 0xffff
  const next = random.oneIn(40)
    ? random.edge() & 0xffff
    : (index + 1) % Math.max(1, entries + random.below(2))
  if (tables.length > 0 && random.oneIn(5)) return indirectDescriptor(random, flags, next, tables)
  return { address: randomAddress(random), length: randomLength(random), flags, next }
}

function indirectDescriptor(
  random: Random,
  flags: number,
  next: number,
  tables: readonly number[],
): RawDescriptor {
  const length = random.oneIn(16) ? random.edge() : 16 * random.between(1, 12)
  const bits = random.oneIn(16) ? flags | INDIRECT : (flags & ~NEXT) | INDIRECT
  return { address: BigInt(random.pick(tables)), length, flags: bits, next }
}

/** Tables of descriptors in memory, some across two regions, some not aligned. */
export function randomTables(random: Random): RawTable[] {
  return random.list(random.below(3), () => {
    const at = Number(
      random.oneIn(3) ? 0x2000n - 16n * BigInt(random.below(8)) : randomAddress(random) & ~0xfn,
    )
    const entries = random.between(1, 12)
    const nested = random.oneIn(12) ? [at] : []
    return {
      at: random.oneIn(6) ? at + random.between(1, 15) : at,
      entries: random.list(entries, i => randomDescriptor(random, i, entries, nested)),
    }
  })
}

/** Writes descriptors at an address; what falls outside memory is left out. */
export function writeTable(memory: MappedMemory, { at, entries }: RawTable, packed = false): void {
  entries.forEach((descriptor, i) => {
    writeDescriptor(memory, at + 16 * i, descriptor, packed)
  })
}

export function writeDescriptor(memory: MappedMemory, at: number, raw: RawDescriptor, packed = false): void {
  const view = new DataView(new ArrayBuffer(16))
  view.setBigUint64(0, BigInt.asUintN(64, raw.address), true)
  view.setUint32(8, raw.length, true)
  view.setUint16(packed ? 14 : 12, raw.flags, true)
  view.setUint16(packed ? 12 : 14, raw.next, true)
  writeWhereThere(memory, at, new Uint8Array(view.buffer))
}

/** Writes what of `bytes` falls inside memory. */
export function writeWhereThere(memory: MappedMemory, at: number, bytes: Uint8Array): void {
  for (const region of memory.regions) {
    const from = Math.max(at, region.start)
    const to = Math.min(at + bytes.length, region.start + region.size)
    if (from < to) region.bytes.set(bytes.subarray(from - at, to - at), from - region.start)
  }
}

/** Zeroes everything: cases must not see what earlier ones left. */
export function wipe(memory: MappedMemory): void {
  for (const { bytes } of memory.regions) bytes.fill(0)
}
