import { toFd, toU32, toU64 } from "../arguments.js"
import { KVM_MEM_GUEST_MEMFD } from "../bindings/common.js"
import { AttributeFd } from "../device.js"
import { invalidArgument } from "../errors.js"
import {
  KVM_CLEAR_DIRTY_LOG,
  KVM_CREATE_GUEST_MEMFD,
  KVM_GET_DIRTY_LOG,
  KVM_REGISTER_COALESCED_MMIO,
  KVM_RESET_DIRTY_RINGS,
  KVM_SET_MEMORY_ATTRIBUTES,
  KVM_SET_USER_MEMORY_REGION,
  KVM_SET_USER_MEMORY_REGION2,
  KVM_UNREGISTER_COALESCED_MMIO,
} from "../ioctls/any-arch.js"

/** A memory slot: guest-physical addresses backed by memory of this process. */
export interface UserMemoryRegion {
  /** Index of the slot, below `getNrMemslots()`; bits 16 and up are the address space. */
  readonly slot: number
  /** `KVM_MEM_LOG_DIRTY_PAGES`, `KVM_MEM_READONLY`. Default 0. */
  readonly flags?: number
  /** Guest-physical address, a multiple of the page size. */
  readonly guestAddress: number
  /** Bytes, a multiple of the page size; 0 removes the slot. */
  readonly size: number
  /** Address in this process, such as `Mapping.hostAddress`. The memory must stay mapped as long as the slot is there. */
  readonly hostAddress: bigint
}

/** A memory slot that can be private to the guest. */
export interface UserMemoryRegion2 extends UserMemoryRegion {
  /** From {@link VmMemory.createGuestMemfd}. `KVM_MEM_GUEST_MEMFD` is set where it is given. */
  readonly guestMemfd?: number
  /** Where in it the slot starts, in bytes. Default 0. */
  readonly guestMemfdOffset?: number
}

/** Addresses or ports whose writes the kernel gathers. */
export interface CoalescedZone {
  readonly space: "mmio" | "pio"
  readonly address: number
  /** Bytes. */
  readonly size: number
}

/** What {@link VmMemory.clearDirtyLog} clears. */
export interface ClearDirtyLog {
  readonly slot: number
  /** Page of the slot that bit 0 stands for, a multiple of 64. */
  readonly firstPage: number
  /** A multiple of 64, or up to the end of the slot. */
  readonly numPages: number
  /** Bit n: protect page `firstPage + n` again. At least `numPages` bits. */
  readonly bitmap: Uint8Array
}

const PAGE_SIZE = 4096

/** The memory of a VM: slots, dirty pages, coalesced writes. Methods of {@link VmFd}. */
export abstract class VmMemory extends AttributeFd {
  /**
   * Creates, moves, changes the flags of or removes (size 0) a memory slot.
   *
   * The kernel reads and writes that memory from now on. It must stay mapped until the slot is removed or the VM is
   * gone, else the guest faults.
   *
   * @throws {@link KvmError} `ioctl` with `EEXIST` (overlaps another slot), `EINVAL` (alignment, slot, a changed size)
   * @see KVM_SET_USER_MEMORY_REGION
   */
  setUserMemoryRegion(region: UserMemoryRegion): void {
    this.writeStruct(KVM_SET_USER_MEMORY_REGION, slotFields(region))
  }

  /** As {@link setUserMemoryRegion}, with a guest_memfd. @see KVM_SET_USER_MEMORY_REGION2 (Linux 6.8) */
  setUserMemoryRegion2(region: UserMemoryRegion2): void {
    const { guestMemfd, guestMemfdOffset = 0 } = region
    const fields = slotFields(region)
    const privateFlag = guestMemfd === undefined ? 0 : KVM_MEM_GUEST_MEMFD
    this.writeStruct(KVM_SET_USER_MEMORY_REGION2, {
      ...fields,
      flags: (fields.flags | privateFlag) >>> 0,
      guest_memfd_offset: toU64("guestMemfdOffset", guestMemfdOffset),
      guest_memfd: guestMemfd === undefined ? 0 : toFd("guestMemfd", guestMemfd),
    })
  }

  /**
   * Memory that only the guest can see. @returns an fd, which is the caller's to close
   * @param size - bytes, a multiple of the page size
   * @see KVM_CREATE_GUEST_MEMFD (Linux 6.8)
   */
  createGuestMemfd(size: number, flags = 0n): number {
    return this.writeStruct(KVM_CREATE_GUEST_MEMFD, { size: toU64("size", size), flags })
  }

  /**
   * Makes pages private to the guest (`KVM_MEMORY_ATTRIBUTE_PRIVATE`) or shared (0).
   * @see KVM_SET_MEMORY_ATTRIBUTES (Linux 6.8)
   */
  setMemoryAttributes(guestAddress: number, size: number, attributes: bigint | number): void {
    this.writeStruct(KVM_SET_MEMORY_ATTRIBUTES, {
      address: toU64("guestAddress", guestAddress),
      size: toU64("size", size),
      attributes: BigInt(attributes),
      flags: 0n,
    })
  }

  /**
   * Which pages of a slot with `KVM_MEM_LOG_DIRTY_PAGES` the guest wrote since the last call: bit `n % 8` of byte
   * `n / 8` is page n. The length is a multiple of 8.
   *
   * @param memorySize - bytes of the slot
   * @throws {@link KvmError} `ioctl` with `ENOENT` (no such slot, or not logged), `ENXIO` (the VM has a dirty ring)
   * @see KVM_GET_DIRTY_LOG
   */
  getDirtyLog(slot: number, memorySize: number): Uint8Array {
    const { bytes, address } = this.pointee(bitmapSize(Math.ceil(memorySize / PAGE_SIZE)))
    this.writeStruct(KVM_GET_DIRTY_LOG, { slot: toU32("slot", slot), dirty_bitmap: address })
    return bytes.slice()
  }

  /**
   * Watches pages again, with `KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2` enabled.
   * @throws {@link KvmError} `invalid-argument` for a bitmap that is too short
   * @see KVM_CLEAR_DIRTY_LOG
   */
  clearDirtyLog({ slot, firstPage, numPages, bitmap }: ClearDirtyLog): void {
    if (bitmap.length * 8 < numPages)
      throw invalidArgument(`a bitmap of ${bitmap.length} bytes has no ${numPages} bits`)
    const { bytes, address } = this.pointee(bitmapSize(numPages))
    bytes.set(bitmap.subarray(0, bytes.length))
    this.writeStruct(KVM_CLEAR_DIRTY_LOG, {
      slot: toU32("slot", slot),
      num_pages: toU32("numPages", numPages),
      first_page: toU64("firstPage", firstPage),
      dirty_bitmap: address,
    })
  }

  /** Gives harvested entries of all vCPUs' dirty rings back. @returns how many @see KVM_RESET_DIRTY_RINGS */
  resetDirtyRings(): number {
    return this.call(KVM_RESET_DIRTY_RINGS)
  }

  /**
   * Writes to this zone no longer stop the vCPU: they gather in its ring until something else does.
   * @see KVM_REGISTER_COALESCED_MMIO, {@link VcpuFd.coalescedMmioRead}
   */
  registerCoalescedMmio(zone: CoalescedZone): void {
    this.writeStruct(KVM_REGISTER_COALESCED_MMIO, zoneFields(zone))
  }

  /** @see KVM_UNREGISTER_COALESCED_MMIO */
  unregisterCoalescedMmio(zone: CoalescedZone): void {
    this.writeStruct(KVM_UNREGISTER_COALESCED_MMIO, zoneFields(zone))
  }
}

function slotFields({ slot, flags = 0, guestAddress, size, hostAddress }: UserMemoryRegion) {
  return {
    slot: toU32("slot", slot),
    flags: toU32("flags", flags),
    guest_phys_addr: toU64("guestAddress", guestAddress),
    memory_size: toU64("size", size),
    userspace_addr: hostAddress,
  }
}

function zoneFields({ space, address, size }: CoalescedZone) {
  return { addr: toU64("address", address), size: toU32("size", size), pio: space === "pio" ? 1 : 0 }
}

/** The kernel reads and writes whole longs. */
function bitmapSize(pages: number): number {
  return Math.ceil(pages / 64) * 8
}
