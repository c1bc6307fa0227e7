// Structures of arm64's asm/kvm.h, and those of linux/kvm.h that contain them.
import { array, bytes, u8, u16, u32, u64 } from "@ts-vmm/vm-memory/layout"
import { kvmStruct, type Value } from "./struct.js"

export const kvmVcpuInit = kvmStruct("kvm_vcpu_init", { target: u32(), features: array(u32(), 7) })
/** Kind of processor, and one bit per `KVM_ARM_VCPU_*` feature. */
export type KvmVcpuInit = Value<typeof kvmVcpuInit>

export const kvmSerrorEvents = kvmStruct("kvm_vcpu_events.exception", {
  serror_pending: u8(),
  serror_has_esr: u8(),
  ext_dabt_pending: u8(),
  pad: bytes(5),
  serror_esr: u64(),
})
export const kvmVcpuEventsArm64 = kvmStruct("kvm_vcpu_events", {
  exception: kvmSerrorEvents.layout,
  reserved: bytes(48),
})
/** SErrors and external aborts under way. */
export type KvmVcpuEventsArm64 = Value<typeof kvmVcpuEventsArm64>

export const kvmGuestDebugArchArm64 = kvmStruct("kvm_guest_debug_arch", {
  dbg_bcr: array(u64(), 16),
  dbg_bvr: array(u64(), 16),
  dbg_wcr: array(u64(), 16),
  dbg_wvr: array(u64(), 16),
})
/** Hardware breakpoints and watchpoints. */
export type KvmGuestDebugArchArm64 = Value<typeof kvmGuestDebugArchArm64>
export const kvmGuestDebugArm64 = kvmStruct("kvm_guest_debug", {
  control: u32(),
  pad: u32(),
  arch: kvmGuestDebugArchArm64.layout,
})

export const kvmDebugExitArchArm64 = kvmStruct("kvm_debug_exit_arch", {
  hsr: u32(),
  hsr_high: u32(),
  far: u64(),
})

export const kvmArmDeviceAddr = kvmStruct("kvm_arm_device_addr", { id: u64(), addr: u64() })

export const kvmArmCounterOffset = kvmStruct("kvm_arm_counter_offset", {
  counter_offset: u64(),
  reserved: u64(),
})

export const kvmArmCopyMteTags = kvmStruct("kvm_arm_copy_mte_tags", {
  guest_ipa: u64(),
  length: u64(),
  addr: u64(),
  flags: u64(),
  reserved: bytes(16),
})

export const kvmSyncRegsArm64 = kvmStruct("kvm_sync_regs", { device_irq_level: u64() })

/** For the attribute KVM_ARM_VCPU_PMU_V3_FILTER. */
export const kvmPmuEventFilterArm64 = kvmStruct("kvm_pmu_event_filter", {
  base_event: u16(),
  nevents: u16(),
  action: u8(),
  pad: bytes(3),
})
