import type { FrontDoor } from "./front-door.js"
import { MmioPort } from "./mmio-port.js"

/**
 * Driver and device joined by the registers of virtio-mmio, over shared memory as a hypervisor maps it. Loads the
 * native addon when it is first opened, so that tests over `direct` need none.
 */
export const overMmio: FrontDoor = {
  name: "mmio",
  open: async (device, options) => {
    const { mmapMemory } = await import("@ts-vmm/vm-memory/mmap")
    const memory = mmapMemory(options.regions)
    const inFlight = () => memory.mappings.reduce((sum, mapping) => sum + mapping.inFlight, 0)
    return new MmioPort(device, memory, { inFlight })
  },
}
