import { Mapping } from "@ts-vmm/native"
import type { RegionRequest } from "./array-buffer.js"
import { MemoryError } from "./errors.js"
import type { GuestAddress } from "./guest-memory.js"
import { MAX_REGION_SIZE, type RegionSource, RegionTable } from "./region-table.js"

/** A mapping and where the guest sees it. */
export interface MappedRegion {
  /** First guest physical address. */
  readonly start: GuestAddress
  /** The whole region. */
  readonly mapping: Mapping
}

/** How `mmapMemory` makes its regions. */
export interface MmapOptions {
  /** Inaccessible pages directly before and after every region. Default true: they cost address space only. */
  readonly guard?: boolean
  /** Name of the memfds as /proc shows them. Default "guest-ram". */
  readonly name?: string
  /**
   * Default true: a memfd each, which another process (a vhost-user back end) can map. False: memory of this process
   * alone, which can have huge pages on every host; the mappings' `fd` is -1.
   */
  readonly shared?: boolean
}

/** Guest memory in mappings that the kernel and, unless they are private, other processes can share. */
export class MappedMemory extends RegionTable implements Disposable {
  /** One per region, in the order of `regions`: the fd to send (-1: private), the host address for KVM. */
  readonly mappings: readonly Mapping[]

  /**
   * Over mappings that exist; they belong to this object from here on.
   * @throws MemoryError `no-regions`, `region-size`, `region-address`, `region-overlap`, `misaligned`; the
   * mappings stay the caller's then
   */
  constructor(regions: readonly MappedRegion[]) {
    super(regions.map(regionSource))
    this.mappings = [...regions].sort((a, b) => a.start - b.start).map(region => region.mapping)
  }

  /** Detaches every view, then unmaps as soon as nothing is in flight. Idempotent. */
  close(): void {
    for (const mapping of this.mappings) mapping.close()
  }

  [Symbol.dispose](): void {
    this.close()
  }
}

/**
 * Zeroed guest memory, by default one sealed memfd per region. Pages take memory when they are first touched.
 *
 * @throws MemoryError `no-regions`, `region-size`, `region-address`, `region-overlap`, `misaligned`
 * @throws SysError `ENOMEM`, `EMFILE`, …
 *
 * @example
 * ```ts
 * using memory = mmapMemory([{ start: 0, size: 128 * 2 ** 20 }])
 * memory.regions.forEach((r, i) => vm.setUserMemoryRegion({ slot: i, guestAddress: r.start, size: r.size, hostAddress: memory.mappings[i].hostAddress }))
 * ```
 */
export function mmapMemory(regions: readonly RegionRequest[], options: MmapOptions = {}): MappedMemory {
  const { guard = true, name = "guest-ram", shared = true } = options
  const mapped: MappedRegion[] = []
  try {
    for (const { start, size } of regions) {
      if (!(Number.isSafeInteger(size) && size > 0 && size <= MAX_REGION_SIZE))
        throw new MemoryError("region-size", start, size)
      const mapping = shared ? Mapping.create({ name, size, guard }) : Mapping.createPrivate({ size, guard })
      mapped.push({ start, mapping })
    }
    return new MappedMemory(mapped)
  } catch (error) {
    for (const { mapping } of mapped) mapping.close()
    throw error
  }
}

/**
 * Guest memory over mappings that exist already, such as those of a vhost-user memory table. The result owns
 * them: its `close` closes them.
 *
 * @throws MemoryError as the constructor of `MappedMemory`
 */
export function mappingMemory(regions: readonly MappedRegion[]): MappedMemory {
  return new MappedMemory(regions)
}

/** A mapping as a region of a `RegionTable`, whose discarded pages really go back to the host. */
export function regionSource({ start, mapping }: MappedRegion): RegionSource {
  const discard = (offset: number, size: number) => mapping.discard(offset, size)
  return { start, bytes: new Uint8Array(mapping.buffer), discard }
}
