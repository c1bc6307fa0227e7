// Structures of linux/kvm.h that are the same on every architecture.
import { array, bytes, i16, i32, u8, u16, u32, u64 } from "@ts-vmm/vm-memory/layout"
import { FlexibleArray } from "./flexible-array.js"
import { kvmStruct, type Value } from "./struct.js"

/** Where a request takes the address of one 64-bit number. */
export const kvmU64 = kvmStruct("__u64", { value: u64() })
/** Where a request takes the address of one `int`. */
export const kvmInt = kvmStruct("int", { value: i32() })

export const kvmUserspaceMemoryRegion = kvmStruct("kvm_userspace_memory_region", {
  slot: u32(),
  flags: u32(),
  guest_phys_addr: u64(),
  memory_size: u64(),
  userspace_addr: u64(),
})

export const kvmUserspaceMemoryRegion2 = kvmStruct("kvm_userspace_memory_region2", {
  slot: u32(),
  flags: u32(),
  guest_phys_addr: u64(),
  memory_size: u64(),
  userspace_addr: u64(),
  guest_memfd_offset: u64(),
  guest_memfd: u32(),
  pad1: u32(),
  pad2: bytes(112),
})

export const kvmMemoryAttributes = kvmStruct("kvm_memory_attributes", {
  address: u64(),
  size: u64(),
  attributes: u64(),
  flags: u64(),
})

export const kvmCreateGuestMemfd = kvmStruct("kvm_create_guest_memfd", {
  size: u64(),
  flags: u64(),
  reserved: bytes(48),
})

export const kvmPreFaultMemory = kvmStruct("kvm_pre_fault_memory", {
  gpa: u64(),
  size: u64(),
  flags: u64(),
  padding: bytes(40),
})

export const kvmDirtyLog = kvmStruct("kvm_dirty_log", { slot: u32(), padding1: u32(), dirty_bitmap: u64() })

export const kvmClearDirtyLog = kvmStruct("kvm_clear_dirty_log", {
  slot: u32(),
  num_pages: u32(),
  first_page: u64(),
  dirty_bitmap: u64(),
})

export const kvmDirtyGfn = kvmStruct("kvm_dirty_gfn", { flags: u32(), slot: u32(), offset: u64() })

export const kvmCoalescedMmioZone = kvmStruct("kvm_coalesced_mmio_zone", {
  addr: u64(),
  size: u32(),
  pio: u32(),
})

export const kvmCoalescedMmio = kvmStruct("kvm_coalesced_mmio", {
  phys_addr: u64(),
  len: u32(),
  pio: u32(),
  data: bytes(8),
})

export const kvmIrqLevel = kvmStruct("kvm_irq_level", { irq: u32(), level: u32() })

export const kvmIrqchip = kvmStruct("kvm_irqchip", { chip_id: u32(), pad: u32(), chip: bytes(512) })

export const kvmIoeventfd = kvmStruct("kvm_ioeventfd", {
  datamatch: u64(),
  addr: u64(),
  len: u32(),
  fd: i32(),
  flags: u32(),
  pad: bytes(36),
})

export const kvmIrqfd = kvmStruct("kvm_irqfd", {
  fd: u32(),
  gsi: u32(),
  flags: u32(),
  resamplefd: u32(),
  pad: bytes(16),
})

export const kvmMsi = kvmStruct("kvm_msi", {
  address_lo: u32(),
  address_hi: u32(),
  data: u32(),
  flags: u32(),
  devid: u32(),
  pad: bytes(12),
})
/** A message-signalled interrupt; `devid` counts with `KVM_MSI_VALID_DEVID` in `flags`. */
export type KvmMsi = Value<typeof kvmMsi>

export const kvmIrqRoutingIrqchip = kvmStruct("kvm_irq_routing_irqchip", { irqchip: u32(), pin: u32() })
export const kvmIrqRoutingMsi = kvmStruct("kvm_irq_routing_msi", {
  address_lo: u32(),
  address_hi: u32(),
  data: u32(),
  devid: u32(),
})
export const kvmIrqRoutingHvSint = kvmStruct("kvm_irq_routing_hv_sint", { vcpu: u32(), sint: u32() })
export const kvmIrqRoutingXenEvtchn = kvmStruct("kvm_irq_routing_xen_evtchn", {
  port: u32(),
  vcpu: u32(),
  priority: u32(),
})

export const kvmIrqRoutingEntry = kvmStruct("kvm_irq_routing_entry", {
  gsi: u32(),
  type: u32(),
  flags: u32(),
  pad: u32(),
  u: bytes(32),
})

export const kvmIrqRouting = new FlexibleArray({
  header: kvmStruct("kvm_irq_routing", { nr: u32(), flags: u32() }),
  count: "nr",
  element: kvmIrqRoutingEntry,
  // KVM_MAX_IRQ_ROUTES of the kernel's kvm_host.h.
  max: 4096,
})

export const kvmEnableCap = kvmStruct("kvm_enable_cap", {
  cap: u32(),
  flags: u32(),
  args: array(u64(), 4),
  pad: bytes(64),
})

export const kvmClockData = kvmStruct("kvm_clock_data", {
  clock: u64(),
  flags: u32(),
  pad0: u32(),
  realtime: u64(),
  host_tsc: u64(),
  pad: bytes(16),
})
/** `clock` in nanoseconds; `flags` are `KVM_CLOCK_*` and say which of the other two are valid. */
export type KvmClockData = Value<typeof kvmClockData>

export const kvmMpState = kvmStruct("kvm_mp_state", { mp_state: u32() })
/** `mp_state` is one of `KVM_MP_STATE_*`. */
export type KvmMpState = Value<typeof kvmMpState>

export const kvmInterrupt = kvmStruct("kvm_interrupt", { irq: u32() })

export const kvmTranslation = kvmStruct("kvm_translation", {
  linear_address: u64(),
  physical_address: u64(),
  valid: u8(),
  writeable: u8(),
  usermode: u8(),
  pad: bytes(5),
})
/** What a guest-virtual address means at the moment; `physical_address` counts only if `valid`. */
export type KvmTranslation = Value<typeof kvmTranslation>

export const kvmOneReg = kvmStruct("kvm_one_reg", { id: u64(), addr: u64() })

export const kvmRegList = new FlexibleArray({
  header: kvmStruct("kvm_reg_list", { n: u64() }),
  count: "n",
  element: kvmU64,
  // No limit in the kernel; SVE guests have some 600.
  max: 65_536,
})

export const kvmSignalMask = new FlexibleArray({
  header: kvmStruct("kvm_signal_mask", { len: u32() }),
  count: "len",
  element: kvmStruct("__u8", { value: u8() }),
  // The kernel's sigset_t.
  max: 8,
})

export const kvmCreateDevice = kvmStruct("kvm_create_device", { type: u32(), fd: u32(), flags: u32() })

export const kvmDeviceAttr = kvmStruct("kvm_device_attr", {
  flags: u32(),
  group: u32(),
  attr: u64(),
  addr: u64(),
})

export const kvmEncRegion = kvmStruct("kvm_enc_region", { addr: u64(), size: u64() })

export const kvmTprAccessCtl = kvmStruct("kvm_tpr_access_ctl", {
  enabled: u32(),
  flags: u32(),
  reserved: bytes(32),
})
export const kvmVapicAddr = kvmStruct("kvm_vapic_addr", { vapic_addr: u64() })

export const kvmStatsHeader = kvmStruct("kvm_stats_header", {
  flags: u32(),
  name_size: u32(),
  num_desc: u32(),
  id_offset: u32(),
  desc_offset: u32(),
  data_offset: u32(),
})
export const kvmStatsDesc = kvmStruct("kvm_stats_desc", {
  flags: u32(),
  exponent: i16(),
  size: u16(),
  offset: u32(),
  bucket_size: u32(),
})
