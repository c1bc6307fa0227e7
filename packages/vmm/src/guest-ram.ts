import type { VmFd } from "@ts-vmm/kvm-ioctls"
import { type MappedMemory, mmapMemory } from "@ts-vmm/vm-memory/mmap"
import { memoryRegions } from "./arch/x86-64/layout.js"

/**
 * Makes guest RAM and shows it to the VM, one memory slot a region.
 *
 * @param sizeBytes all guest RAM
 * @throws VmmError `memory-size`; SysError `ENOMEM`; KvmError `ioctl`
 */
export function createGuestRam(vm: Pick<VmFd, "setUserMemoryRegion">, sizeBytes: number): MappedMemory {
  const memory = mmapMemory(memoryRegions(sizeBytes))
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
