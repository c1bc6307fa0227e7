import { fdOrigin, fdStat, MAX_MAPPING_SIZE, Mapping } from "@ts-vmm/native"
import { type GuestAddress, type GuestMemory, MAX_GUEST_ADDRESS, RegionTable } from "@ts-vmm/vm-memory"
import { regionSource } from "@ts-vmm/vm-memory/mmap"
import { VhostUserError } from "./errors.js"
import type { WireRegion } from "./message.js"

/** Regions and their place in the file are whole pages: nothing smaller can be mapped. */
const PAGE_SIZE = 4096
const U64_END = 1n << 64n

/** A region whose numbers were checked; nothing is mapped yet. */
export interface CheckedRegion {
  readonly guestAddress: GuestAddress
  readonly size: number
  /** Where the front end has it: ring addresses arrive in its terms. */
  readonly userAddress: bigint
  readonly mmapOffset: number
}

/** Which files may back guest memory. */
export interface MemoryPolicy {
  /**
   * `"memory"`: memfd and tmpfs only. Any other file can make a page fault wait for a disk, or for
   * ever when the peer serves the file itself (FUSE), and with it every device of this process.
   */
  readonly files: "memory" | "any"
}

/**
 * Checks regions against the protocol and each other.
 *
 * @throws VhostUserError `memory-region`: empty, unaligned, beyond 2^52, wrapping, or overlapping another in
 *   guest or user addresses
 */
export function checkRegions(wire: readonly WireRegion[]): CheckedRegion[] {
  const regions = wire.map(checkRegion)
  for (const [i, a] of regions.entries()) {
    for (const b of regions.slice(i + 1)) {
      const guest = a.guestAddress < b.guestAddress + b.size && b.guestAddress < a.guestAddress + a.size
      const user =
        a.userAddress < b.userAddress + BigInt(b.size) && b.userAddress < a.userAddress + BigInt(a.size)
      if (guest || user) throw regionError("regions overlap", b.guestAddress)
    }
  }
  return regions
}

function checkRegion({ guestAddress, size, userAddress, mmapOffset }: WireRegion): CheckedRegion {
  const limit = BigInt(MAX_GUEST_ADDRESS)
  if (size === 0n) throw regionError("region is empty", Number(guestAddress))
  if (guestAddress + size > limit || mmapOffset + size > limit || userAddress + size > U64_END) {
    throw regionError("region ends beyond the last address", Number(guestAddress))
  }
  if ([guestAddress, size, mmapOffset].some(value => value % BigInt(PAGE_SIZE) !== 0n)) {
    throw regionError("region is not made of whole pages", Number(guestAddress))
  }
  return {
    guestAddress: Number(guestAddress),
    size: Number(size),
    userAddress,
    mmapOffset: Number(mmapOffset),
  }
}

function regionError(fact: string, value: number, cause?: unknown): VhostUserError {
  return new VhostUserError("memory-region", `${fact}: guest address 0x${value.toString(16)}`, {
    value,
    cause,
  })
}

/** A region and its pages; more than one mapping when it is larger than an `ArrayBuffer` can be. */
interface MappedRegion extends CheckedRegion {
  readonly mappings: readonly Mapping[]
}

/**
 * The guest memory of one front end: regions it shared by fd, mapped here. Immutable: ADD_MEM_REG and
 * REM_MEM_REG make the next table, which shares the mappings they have in common.
 */
export class MemoryTable {
  readonly #regions: readonly MappedRegion[]
  /** What devices see. */
  readonly memory: GuestMemory

  private constructor(regions: readonly MappedRegion[]) {
    this.#regions = regions
    this.memory = new RegionTable(
      regions.flatMap(region =>
        region.mappings.map((mapping, i) =>
          regionSource({ start: region.guestAddress + i * MAX_MAPPING_SIZE, mapping }),
        ),
      ),
    )
  }

  /**
   * Maps all of `wire`. The fds stay the caller's to close, also after success.
   *
   * @throws VhostUserError `memory-region`; nothing stays mapped then
   */
  static map(wire: readonly WireRegion[], fds: readonly number[], policy: MemoryPolicy): MemoryTable {
    const regions = checkRegions(wire)
    if (fds.length !== regions.length) {
      throw new VhostUserError("protocol", `${regions.length} regions came with ${fds.length} fds`, {
        value: fds.length,
      })
    }
    const mapped: MappedRegion[] = []
    try {
      for (const [i, region] of regions.entries()) mapped.push(mapRegion(region, fds[i]!, policy))
      return new MemoryTable(mapped)
    } catch (error) {
      closeAll(mapped)
      throw error
    }
  }

  /** Number of regions the front end made. */
  get regionCount(): number {
    return this.#regions.length
  }

  /** True once the peer took away pages under us; what is read there since are zeroes. */
  get faulted(): boolean {
    return this.#regions.some(region => region.mappings.some(mapping => mapping.faulted))
  }

  /** Asynchronous I/O operations that read or write guest memory right now. */
  get inFlight(): number {
    return this.#regions.reduce(
      (sum, { mappings }) => sum + mappings.reduce((n, mapping) => n + mapping.inFlight, 0),
      0,
    )
  }

  /** This table with one region more. @throws VhostUserError `memory-region` */
  with(wire: WireRegion, fd: number, policy: MemoryPolicy): MemoryTable {
    const [region] = checkRegions([wire, ...this.#regions.map(toWire)])
    const added = mapRegion(region!, fd, policy)
    return new MemoryTable([...this.#regions, added])
  }

  /**
   * This table without the region of that guest address, user address and size, or undefined when it was the
   * last one. The mappings of the removed region are still open: close them with {@link closeExcept}.
   *
   * @throws VhostUserError `memory-region` when there is no such region
   */
  without(wire: WireRegion): MemoryTable | undefined {
    const rest = this.#regions.filter(
      region =>
        BigInt(region.guestAddress) !== wire.guestAddress ||
        region.userAddress !== wire.userAddress ||
        BigInt(region.size) !== wire.size,
    )
    if (rest.length === this.#regions.length) {
      throw regionError("no such region to remove", Number(wire.guestAddress))
    }
    return rest.length === 0 ? undefined : new MemoryTable(rest)
  }

  /**
   * Guest address of `[userAddress, userAddress + size)`, or undefined when that is not inside one region.
   * Ring addresses arrive as addresses of the front end's own.
   */
  toGuest(userAddress: bigint, size: number): GuestAddress | undefined {
    for (const region of this.#regions) {
      const offset = userAddress - region.userAddress
      if (offset >= 0n && offset + BigInt(size) <= BigInt(region.size))
        return region.guestAddress + Number(offset)
    }
    return undefined
  }

  /** Unmaps what `next` does not use too. I/O that still runs on it keeps its pages until it ends. */
  closeExcept(next: MemoryTable | undefined): void {
    const kept = new Set(next ? next.#regions : [])
    closeAll(this.#regions.filter(region => !kept.has(region)))
  }

  /** Unmaps everything. Idempotent. */
  close(): void {
    closeAll(this.#regions)
  }
}

function toWire(region: CheckedRegion): WireRegion {
  return {
    guestAddress: BigInt(region.guestAddress),
    size: BigInt(region.size),
    userAddress: region.userAddress,
    mmapOffset: BigInt(region.mmapOffset),
  }
}

function mapRegion(region: CheckedRegion, fd: number, policy: MemoryPolicy): MappedRegion {
  const mappings: Mapping[] = []
  try {
    // First, because on any other file the calls below may wait for whoever serves it.
    if (policy.files === "memory" && fdOrigin(fd) !== "memory") {
      throw regionError("memory is not a memfd or a file on tmpfs", region.guestAddress)
    }
    const { kind, readable, writable } = fdStat(fd)
    if (kind !== "file" || !readable || !writable) {
      throw regionError(
        `memory is a ${kind}, readable: ${readable}, writable: ${writable}`,
        region.guestAddress,
      )
    }
    for (let at = 0; at < region.size; at += MAX_MAPPING_SIZE) {
      const size = Math.min(region.size - at, MAX_MAPPING_SIZE)
      // Guard pages: an index that escaped every check faults instead of reaching this process's own memory.
      mappings.push(Mapping.map({ fd, offset: region.mmapOffset + at, size, guard: true }))
    }
    return { ...region, mappings }
  } catch (error) {
    for (const mapping of mappings) mapping.close()
    if (error instanceof VhostUserError) throw error
    throw regionError("region cannot be mapped", region.guestAddress, error)
  }
}

function closeAll(regions: readonly MappedRegion[]): void {
  for (const { mappings } of regions) for (const mapping of mappings) mapping.close()
}
