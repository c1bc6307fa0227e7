import type { ExternalDevice, SharedRegion } from "@ts-vmm/virtio-devices"
import type { MappedMemory } from "@ts-vmm/vm-memory/mmap"
import { VmmError } from "../errors.js"

/**
 * Guest RAM as the server of a device can have it.
 *
 * @throws VmmError `config-invalid` for another process when it lies in no file that could be handed on
 */
export function sharedRegions(memory: MappedMemory, servedBy: ExternalDevice["servedBy"]): SharedRegion[] {
  return memory.regions.map(({ start, size }, index) => {
    const { fd, hostAddress } = memory.mappings[index]!
    if (fd < 0 && servedBy === "process")
      throw new VmmError(
        "config-invalid",
        "guest memory is this process's own: a device that another process serves needs sharedMemory",
      )
    return { guestAddress: start, size, userAddress: hostAddress, fd }
  })
}
