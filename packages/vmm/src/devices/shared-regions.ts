import type { SharedRegion } from "@ts-vmm/virtio-devices"
import type { MappedMemory } from "@ts-vmm/vm-memory/mmap"
import { VmmError } from "../errors.js"

/**
 * Guest RAM as another process can have it.
 *
 * @throws VmmError `config-invalid` when it lies in no file that could be handed on
 */
export function sharedRegions(memory: MappedMemory): SharedRegion[] {
  return memory.regions.map(({ start, size }, index) => {
    const { fd, hostAddress } = memory.mappings[index]!
    if (fd < 0)
      throw new VmmError(
        "config-invalid",
        "guest memory is this process's own: a device that another process serves needs sharedMemory",
      )
    return { guestAddress: start, size, userAddress: hostAddress, fd }
  })
}
