import type { RegionRequest } from "@ts-vmm/vm-memory"
import { VmmError } from "../../errors.js"

/*
 * The machine's physical address map, as far as devices and RAM go. What a loader puts below 1 MiB has its
 * addresses in @ts-vmm/linux-loader.
 *
 *   0x0000_0000  low RAM: boot structures below 1 MiB, kernel from 1 MiB
 *   0xc000_0000  end of low RAM at most; gap for devices
 *     0xd000_0000  virtio-mmio windows, one page each
 *     0xfec0_0000  I/O APIC        0xfee0_0000  local APICs
 *     0xfffb_c000  one page that KVM needs for its identity map, three for its TSS (Intel)
 *   0x1_0000_0000  high RAM, in regions of at most 4 GiB
 *   above RAM      what devices have there (virtio-pmem, virtio-mem), from the next GiB on
 */

const MIB = 2 ** 20
const GIB = 2 ** 30

/** Low RAM ends here at the latest: the rest of the first 4 GiB belongs to devices. */
export const LOW_RAM_END = 0xc000_0000
/** High RAM starts here. */
export const HIGH_RAM_START = 0x1_0000_0000
/** Device memory starts at a multiple of it, above RAM. */
export const DEVICE_MEMORY_ALIGNMENT = GIB
/** No device memory from here on: Linux maps 64 TiB with page tables of four levels. */
export const DEVICE_MEMORY_END = 2 ** 46
/** First virtio-mmio window. */
export const VIRTIO_MMIO_BASE = 0xd000_0000
/** Distance between virtio-mmio windows: a page, so that no two devices share one. */
export const VIRTIO_MMIO_STEP = 0x1000
/** First address after the room for virtio-mmio windows. */
export const VIRTIO_MMIO_END = 0xe000_0000
/** Length of the I/O APIC's window, which starts at the loader's `IOAPIC_START`. */
export const IOAPIC_SIZE = 0x1000
/** One page for KVM_SET_IDENTITY_MAP_ADDR; never RAM. */
export const KVM_IDENTITY_MAP_ADDRESS = 0xfffb_c000
/** Three pages for KVM_SET_TSS_ADDR; never RAM. */
export const KVM_TSS_ADDRESS = 0xfffb_d000

/** First COM port. */
export const COM1_PORT = 0x3f8
/** Interrupt of the first COM port. */
export const COM1_GSI = 4
/** i8042 data port; command and status are at 0x64. */
export const I8042_PORT = 0x60
/** Interrupt of the keyboard. */
export const I8042_GSI = 1
/** CMOS index port; data is the next one. */
export const CMOS_PORT = 0x70
/** ACPI sleep control, sleep status and reset registers. */
export const ACPI_POWER_PORT = 0x600

/** First interrupt for virtio devices. */
export const VIRTIO_GSI_FIRST = 5
/** Last interrupt for virtio devices: the last pin of the I/O APIC. */
export const VIRTIO_GSI_LAST = 23
/** Pins of the I/O APIC. */
export const IOAPIC_PINS = 24

/** Most vCPUs of one machine. */
export const MAX_VCPUS = 32
/** Least guest RAM in bytes. */
export const MIN_MEMORY_SIZE = 64 * MIB
/** Most guest RAM in bytes. */
export const MAX_MEMORY_SIZE = 1024 * GIB
/** Most bytes of one region: the largest `ArrayBuffer` of Node 20. */
const MAX_REGION_SIZE = 4 * GIB
const PAGE_SIZE = 4096

/**
 * How guest RAM of a size is laid out: up to 3 GiB from 0, the rest from 4 GiB in regions of at most 4 GiB.
 *
 * @param sizeBytes - all guest RAM in bytes, whole pages, 64 MiB to 1 TiB
 * @throws VmmError `memory-size`
 *
 * @example
 * ```ts
 * import { memoryRegions } from "@ts-vmm/vmm"
 * import { mmapMemory } from "@ts-vmm/vm-memory/mmap"
 *
 * const memory = mmapMemory(memoryRegions(6 * 2 ** 30))   // [0, 3 GiB) and [4 GiB, 7 GiB)
 * ```
 */
export function memoryRegions(sizeBytes: number): RegionRequest[] {
  if (!(sizeBytes >= MIN_MEMORY_SIZE && sizeBytes <= MAX_MEMORY_SIZE && sizeBytes % PAGE_SIZE === 0))
    throw new VmmError("memory-size", `guest memory of ${sizeBytes} bytes is not supported`, {
      sizeBytes,
      minimum: MIN_MEMORY_SIZE,
      maximum: MAX_MEMORY_SIZE,
    })
  const low = Math.min(sizeBytes, LOW_RAM_END)
  const regions: RegionRequest[] = [{ start: 0, size: low }]
  for (let left = sizeBytes - low, start = HIGH_RAM_START; left > 0; ) {
    const size = Math.min(left, MAX_REGION_SIZE)
    regions.push({ start, size })
    start += size
    left -= size
  }
  return regions
}
