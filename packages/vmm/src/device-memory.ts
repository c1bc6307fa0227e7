import { KVM_MEM_READONLY, type VmFd } from "@ts-vmm/kvm-ioctls"
import type { DeviceMemory, DeviceMemoryPart, VirtioDevice } from "@ts-vmm/virtio-devices"
import { MAX_REGION_SIZE, type RegionRequest } from "@ts-vmm/vm-memory"
import { AddressAllocator } from "./allocators.js"
import { DEVICE_MEMORY_ALIGNMENT, DEVICE_MEMORY_END, HIGH_RAM_START } from "./arch/x86-64/layout.js"

/** Where something of a device's is in guest address space. */
interface PlacedParts {
  readonly start: number
  readonly parts: readonly DeviceMemoryPart[]
}

/** What devices have in guest address space, beside the RAM that the guest is told of. */
export interface DeviceMemoryPlan {
  /** More guest RAM. */
  readonly ram: readonly RegionRequest[]
  /** Memory of devices. */
  readonly placed: readonly PlacedParts[]
}

/**
 * Finds a place for it, above guest RAM and apart from it, and tells the devices.
 *
 * @param ram - all that the guest is told of
 * @throws VmmError `exhausted`, `allocation-invalid`; nothing was told then to the device that does not fit
 */
export function placeDeviceMemory(
  ram: readonly RegionRequest[],
  devices: readonly VirtioDevice[],
): DeviceMemoryPlan {
  const base = firstFree(ram)
  const places = new AddressAllocator({ base, size: DEVICE_MEMORY_END - base })
  const more: RegionRequest[] = []
  const placed: PlacedParts[] = []
  for (const { deviceMemory } of devices) {
    if (!deviceMemory) continue
    const { parts, start } = place(deviceMemory, places)
    if (parts === "ram") more.push(...regionsOf(start, deviceMemory.size))
    else placed.push({ start, parts })
  }
  return { ram: more, placed }
}

/**
 * Shows the VM the memory of devices, one slot a part. It stays mapped until the VM is gone.
 *
 * @param firstSlot - below it are those of guest RAM
 * @throws KvmError `ioctl`
 */
export function showDeviceMemory(
  vm: Pick<VmFd, "setUserMemoryRegion">,
  { placed }: DeviceMemoryPlan,
  firstSlot: number,
): void {
  let slot = firstSlot
  for (const { start, parts } of placed) {
    let guestAddress = start
    for (const { hostAddress, size, readOnly } of parts) {
      const flags = readOnly ? KVM_MEM_READONLY : 0
      vm.setUserMemoryRegion({ slot, guestAddress, size, hostAddress, flags })
      guestAddress += size
      slot++
    }
  }
}

function place({ size, alignment, parts, placedAt }: DeviceMemory, places: AddressAllocator) {
  const { base: start } = places.allocate({ size, alignment })
  placedAt(start)
  return { start, parts }
}

/** Not right behind RAM: regions that touch are one to a memory map. */
function firstFree(ram: readonly RegionRequest[]): number {
  const end = Math.max(HIGH_RAM_START, ...ram.map(({ start, size }) => start + size))
  return (Math.floor(end / DEVICE_MEMORY_ALIGNMENT) + 1) * DEVICE_MEMORY_ALIGNMENT
}

function regionsOf(start: number, size: number): RegionRequest[] {
  const count = Math.ceil(size / MAX_REGION_SIZE)
  return Array.from({ length: count }, (_, i) => ({
    start: start + i * MAX_REGION_SIZE,
    size: Math.min(MAX_REGION_SIZE, size - i * MAX_REGION_SIZE),
  }))
}
