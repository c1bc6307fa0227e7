import type { VmFd } from "@ts-vmm/kvm-ioctls"
import type { RegionRequest } from "@ts-vmm/vm-memory"
import { type MappedMemory, mappingMemory, mmapMemory } from "@ts-vmm/vm-memory/mmap"
import { memoryRegions } from "./arch/x86-64/layout.js"

/**
 * Makes guest RAM and shows it to the VM, one memory slot a region.
 *
 * @param sizeBytes all guest RAM that the guest is told of
 * @param more regions above it that it is not told of
 * @throws VmmError `memory-size`; SysError `ENOMEM`; KvmError `ioctl`
 */
export function createGuestRam(
  vm: Pick<VmFd, "setUserMemoryRegion">,
  sizeBytes: number,
  more: readonly RegionRequest[] = [],
): MappedMemory {
  const memory = mmapMemory([...memoryRegions(sizeBytes), ...more])
  try {
    for (const [slot, { start, size }] of memory.regions.entries()) {
      const { hostAddress } = memory.mappings[slot]!
      vm.setUserMemoryRegion({ slot, guestAddress: start, size, hostAddress })
    }
    return memory
  } catch (error) {
    memory.close()
    throw error
  }
}

/** The RAM that a guest of this size is told of, as a view of all of it: it ends with `memory`. */
export function ramAtBoot(memory: MappedMemory, sizeBytes: number): MappedMemory {
  const count = memoryRegions(sizeBytes).length
  return mappingMemory(
    memory.mappings.slice(0, count).map((mapping, i) => ({ start: memory.regions[i]!.start, mapping })),
  )
}
