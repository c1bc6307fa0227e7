import type { VmFd } from "@ts-vmm/kvm-ioctls"
import type { Mapping } from "@ts-vmm/native"
import type { RegionRequest } from "@ts-vmm/vm-memory"
import { type MappedMemory, mappingMemory, mmapMemory } from "@ts-vmm/vm-memory/mmap"
import { memoryRegions } from "./arch/x86-64/layout.js"

/**
 * Linux keeps 64 bytes for each 4 KiB page of its RAM, and takes the memory for them from the top when it boots: 1/64
 * of the RAM, all of which it writes. With what else it takes up there, this much is worth huge pages.
 */
const BOOT_MEMORY_SHARE = 1 / 32
/** Smaller guests win nothing that could be measured. */
const HUGE_PAGES_FROM = 512 * 2 ** 20
const HUGE_PAGE = 2 * 2 ** 20

/** How guest RAM is made. */
export interface GuestRamOptions {
  /** In memfds that a vhost-user back end can map. Default false: memory of this process alone. */
  readonly shared?: boolean
  /** RAM above it that the guest is not told of at boot: a device's to hand out. Default none. */
  readonly more?: readonly RegionRequest[]
}

/**
 * Makes guest RAM and shows it to the VM, one memory slot a region.
 *
 * @param sizeBytes all guest RAM that the guest is told of
 * @throws VmmError `memory-size`; SysError `ENOMEM`; KvmError `ioctl`
 */
export function createGuestRam(
  vm: Pick<VmFd, "setUserMemoryRegion">,
  sizeBytes: number,
  { shared = false, more = [] }: GuestRamOptions = {},
): MappedMemory {
  const atBoot = memoryRegions(sizeBytes)
  const memory = mmapMemory([...atBoot, ...more], { shared })
  try {
    for (const [slot, { start, size }] of memory.regions.entries()) {
      const { hostAddress } = memory.mappings[slot]!
      vm.setUserMemoryRegion({ slot, guestAddress: start, size, hostAddress })
    }
    if (sizeBytes >= HUGE_PAGES_FROM)
      preferHugePagesAtTop(memory.mappings.slice(0, atBoot.length), sizeBytes * BOOT_MEMORY_SHARE)
    return memory
  } catch (error) {
    memory.close()
    throw error
  }
}

/** In thousands of small pages, each a page fault out of the guest, a start with much RAM would take its time. */
function preferHugePagesAtTop(mappings: readonly Mapping[], bytes: number): void {
  let left = Math.ceil(bytes / HUGE_PAGE) * HUGE_PAGE
  for (const mapping of mappings.toReversed()) {
    const size = Math.min(left, mapping.size)
    mapping.preferHugePages(mapping.size - size, size)
    left -= size
    if (left === 0) return
  }
}

/** The RAM that a guest of this size is told of, as a view of all of it: it ends with `memory`. */
export function ramAtBoot(memory: MappedMemory, sizeBytes: number): MappedMemory {
  const count = memoryRegions(sizeBytes).length
  return mappingMemory(
    memory.mappings.slice(0, count).map((mapping, i) => ({ start: memory.regions[i]!.start, mapping })),
  )
}
