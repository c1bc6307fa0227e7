// Structures of x86's asm/kvm.h, and those of linux/kvm.h that contain them.
import { array, bytes, i64, u8, u16, u32, u64 } from "@ts-vmm/vm-memory/layout"
import { FlexibleArray } from "./flexible-array.js"
import { kvmStruct, type Value } from "./struct.js"

export const kvmRegs = kvmStruct("kvm_regs", {
  rax: u64(),
  rbx: u64(),
  rcx: u64(),
  rdx: u64(),
  rsi: u64(),
  rdi: u64(),
  rsp: u64(),
  rbp: u64(),
  r8: u64(),
  r9: u64(),
  r10: u64(),
  r11: u64(),
  r12: u64(),
  r13: u64(),
  r14: u64(),
  r15: u64(),
  rip: u64(),
  rflags: u64(),
})
/** General purpose registers. */
export type KvmRegs = Value<typeof kvmRegs>

export const kvmSegment = kvmStruct("kvm_segment", {
  base: u64(),
  limit: u32(),
  selector: u16(),
  type: u8(),
  present: u8(),
  dpl: u8(),
  db: u8(),
  s: u8(),
  l: u8(),
  g: u8(),
  avl: u8(),
  unusable: u8(),
  padding: u8(),
})
/** A segment register with its hidden part. */
export type KvmSegment = Value<typeof kvmSegment>

export const kvmDtable = kvmStruct("kvm_dtable", { base: u64(), limit: u16(), padding: bytes(6) })
/** GDTR or IDTR. */
export type KvmDtable = Value<typeof kvmDtable>

/** What kvm_sregs and kvm_sregs2 have in common. */
const systemRegisters = () => ({
  cs: kvmSegment.layout,
  ds: kvmSegment.layout,
  es: kvmSegment.layout,
  fs: kvmSegment.layout,
  gs: kvmSegment.layout,
  ss: kvmSegment.layout,
  tr: kvmSegment.layout,
  ldt: kvmSegment.layout,
  gdt: kvmDtable.layout,
  idt: kvmDtable.layout,
  cr0: u64(),
  cr2: u64(),
  cr3: u64(),
  cr4: u64(),
  cr8: u64(),
  efer: u64(),
  apic_base: u64(),
})

export const kvmSregs = kvmStruct("kvm_sregs", { ...systemRegisters(), interrupt_bitmap: array(u64(), 4) })
/** Segment and control registers. */
export type KvmSregs = Value<typeof kvmSregs>

export const kvmSregs2 = kvmStruct("kvm_sregs2", {
  ...systemRegisters(),
  flags: u64(),
  pdptrs: array(u64(), 4),
})
/** Segment and control registers, with the PDPTRs of PAE paging. */
export type KvmSregs2 = Value<typeof kvmSregs2>

export const kvmFpu = kvmStruct("kvm_fpu", {
  fpr: array(bytes(16), 8),
  fcw: u16(),
  fsw: u16(),
  ftwx: u8(),
  pad1: u8(),
  last_opcode: u16(),
  last_ip: u64(),
  last_dp: u64(),
  xmm: array(bytes(16), 16),
  mxcsr: u32(),
  pad2: u32(),
})
/** x87 and SSE registers. */
export type KvmFpu = Value<typeof kvmFpu>

export const kvmMsrEntry = kvmStruct("kvm_msr_entry", { index: u32(), reserved: u32(), data: u64() })
/** One model-specific register. */
export type KvmMsrEntry = Value<typeof kvmMsrEntry>

export const kvmMsrs = new FlexibleArray({
  header: kvmStruct("kvm_msrs", { nmsrs: u32(), pad: u32() }),
  count: "nmsrs",
  element: kvmMsrEntry,
  // MAX_IO_MSRS of the kernel's x86.c.
  max: 256,
})

export const kvmMsrList = new FlexibleArray({
  header: kvmStruct("kvm_msr_list", { nmsrs: u32() }),
  count: "nmsrs",
  element: kvmStruct("__u32", { value: u32() }),
  // No limit in the kernel, which lists some 150.
  max: 8192,
})

export const kvmMsrFilterRange = kvmStruct("kvm_msr_filter_range", {
  flags: u32(),
  nmsrs: u32(),
  base: u32(),
  gap: u32(),
  bitmap: u64(),
})
export const kvmMsrFilter = kvmStruct("kvm_msr_filter", {
  flags: u32(),
  gap: u32(),
  ranges: array(kvmMsrFilterRange.layout, 16),
})

export const kvmCpuidEntry2 = kvmStruct("kvm_cpuid_entry2", {
  function: u32(),
  index: u32(),
  flags: u32(),
  eax: u32(),
  ebx: u32(),
  ecx: u32(),
  edx: u32(),
  padding: bytes(12),
})
/** One leaf of CPUID; `index` counts only with `KVM_CPUID_FLAG_SIGNIFCANT_INDEX` in `flags`. */
export type KvmCpuidEntry2 = Value<typeof kvmCpuidEntry2>

export const kvmCpuid2 = new FlexibleArray({
  header: kvmStruct("kvm_cpuid2", { nent: u32(), padding: u32() }),
  count: "nent",
  element: kvmCpuidEntry2,
  // KVM_MAX_CPUID_ENTRIES of the kernel's kvm_host.h.
  max: 256,
})

export const kvmLapicState = kvmStruct("kvm_lapic_state", { regs: bytes(1024) })
/** The local APIC's registers: register `n` of the manual at byte `n`. */
export type KvmLapicState = Value<typeof kvmLapicState>

export const kvmPicState = kvmStruct("kvm_pic_state", {
  last_irr: u8(),
  irr: u8(),
  imr: u8(),
  isr: u8(),
  priority_add: u8(),
  irq_base: u8(),
  read_reg_select: u8(),
  poll: u8(),
  special_mask: u8(),
  init_state: u8(),
  auto_eoi: u8(),
  rotate_on_auto_eoi: u8(),
  special_fully_nested_mode: u8(),
  init4: u8(),
  elcr: u8(),
  elcr_mask: u8(),
})
/** One of the two 8259 interrupt controllers. */
export type KvmPicState = Value<typeof kvmPicState>

export const kvmIoapicState = kvmStruct("kvm_ioapic_state", {
  base_address: u64(),
  ioregsel: u32(),
  id: u32(),
  irr: u32(),
  pad: u32(),
  redirtbl: array(u64(), 24),
})
/** The I/O APIC; `redirtbl` are the redirection entries as its data sheet has them. */
export type KvmIoapicState = Value<typeof kvmIoapicState>

export const kvmPitConfig = kvmStruct("kvm_pit_config", { flags: u32(), pad: bytes(60) })

export const kvmPitChannelState = kvmStruct("kvm_pit_channel_state", {
  count: u32(),
  latched_count: u16(),
  count_latched: u8(),
  status_latched: u8(),
  status: u8(),
  read_state: u8(),
  write_state: u8(),
  write_latch: u8(),
  rw_mode: u8(),
  mode: u8(),
  bcd: u8(),
  gate: u8(),
  count_load_time: i64(),
})

export const kvmPitState2 = kvmStruct("kvm_pit_state2", {
  channels: array(kvmPitChannelState.layout, 3),
  flags: u32(),
  reserved: bytes(36),
})
/** The 8254 timer. */
export type KvmPitState2 = Value<typeof kvmPitState2>

export const kvmReinjectControl = kvmStruct("kvm_reinject_control", {
  pit_reinject: u8(),
  reserved: bytes(31),
})

export const kvmGuestDebugX86 = kvmStruct("kvm_guest_debug", {
  control: u32(),
  pad: u32(),
  arch: array(u64(), 8),
})

export const kvmDebugExitArchX86 = kvmStruct("kvm_debug_exit_arch", {
  exception: u32(),
  pad: u32(),
  pc: u64(),
  dr6: u64(),
  dr7: u64(),
})

export const kvmException = kvmStruct("kvm_vcpu_events.exception", {
  injected: u8(),
  nr: u8(),
  has_error_code: u8(),
  pending: u8(),
  error_code: u32(),
})
export const kvmInjectedInterrupt = kvmStruct("kvm_vcpu_events.interrupt", {
  injected: u8(),
  nr: u8(),
  soft: u8(),
  shadow: u8(),
})
export const kvmNmiState = kvmStruct("kvm_vcpu_events.nmi", {
  injected: u8(),
  pending: u8(),
  masked: u8(),
  pad: u8(),
})
export const kvmSmiState = kvmStruct("kvm_vcpu_events.smi", {
  smm: u8(),
  pending: u8(),
  smm_inside_nmi: u8(),
  latched_init: u8(),
})
export const kvmTripleFault = kvmStruct("kvm_vcpu_events.triple_fault", { pending: u8() })

export const kvmVcpuEvents = kvmStruct("kvm_vcpu_events", {
  exception: kvmException.layout,
  interrupt: kvmInjectedInterrupt.layout,
  nmi: kvmNmiState.layout,
  sipi_vector: u32(),
  flags: u32(),
  smi: kvmSmiState.layout,
  triple_fault: kvmTripleFault.layout,
  reserved: bytes(26),
  exception_has_payload: u8(),
  exception_payload: u64(),
})
/** Exceptions, interrupts and NMIs under way; `flags` are `KVM_VCPUEVENT_VALID_*`. */
export type KvmVcpuEvents = Value<typeof kvmVcpuEvents>

export const kvmDebugregs = kvmStruct("kvm_debugregs", {
  db: array(u64(), 4),
  dr6: u64(),
  dr7: u64(),
  flags: u64(),
  reserved: bytes(72),
})
/** The guest's own debug registers. */
export type KvmDebugregs = Value<typeof kvmDebugregs>

export const kvmXsave = kvmStruct("kvm_xsave", { region: bytes(4096) })

export const kvmXcr = kvmStruct("kvm_xcr", { xcr: u32(), reserved: u32(), value: u64() })
/** An extended control register; XCR0 is the only one so far. */
export type KvmXcr = Value<typeof kvmXcr>
export const kvmXcrs = kvmStruct("kvm_xcrs", {
  nr_xcrs: u32(),
  flags: u32(),
  xcrs: array(kvmXcr.layout, 16),
  padding: bytes(128),
})

export const kvmSyncRegs = kvmStruct("kvm_sync_regs", {
  regs: kvmRegs.layout,
  sregs: kvmSregs.layout,
  events: kvmVcpuEvents.layout,
})
/** Registers in the page that `run` shares. */
export type KvmSyncRegs = Value<typeof kvmSyncRegs>

export const kvmNestedState = kvmStruct("kvm_nested_state", {
  flags: u16(),
  format: u16(),
  size: u32(),
  hdr: bytes(120),
})
/** Largest nested state: header and two pages for VMX. */
export const KVM_NESTED_STATE_MAX_SIZE = 128 + 8192

export const kvmPmuEventFilter = new FlexibleArray({
  header: kvmStruct("kvm_pmu_event_filter", {
    action: u32(),
    nevents: u32(),
    fixed_counter_bitmap: u32(),
    flags: u32(),
    pad: bytes(16),
  }),
  count: "nevents",
  element: kvmStruct("__u64", { value: u64() }),
  // KVM_PMU_EVENT_FILTER_MAX_EVENTS of the kernel's pmu.c.
  max: 300,
})

export const kvmX86Mce = kvmStruct("kvm_x86_mce", {
  status: u64(),
  addr: u64(),
  misc: u64(),
  mcg_status: u64(),
  bank: u8(),
  pad1: bytes(7),
  pad2: bytes(24),
})
/** A machine check to inject. */
export type KvmX86Mce = Value<typeof kvmX86Mce>

export const kvmSevCmd = kvmStruct("kvm_sev_cmd", {
  id: u32(),
  pad0: u32(),
  data: u64(),
  error: u32(),
  sev_fd: u32(),
})

export const kvmXenHvmConfig = kvmStruct("kvm_xen_hvm_config", {
  flags: u32(),
  msr: u32(),
  blob_addr_32: u64(),
  blob_addr_64: u64(),
  blob_size_32: u8(),
  blob_size_64: u8(),
  pad2: bytes(30),
})
/** Where the guest's hypercall page is filled in. */
export type KvmXenHvmConfig = Value<typeof kvmXenHvmConfig>

export const kvmHypervEventfd = kvmStruct("kvm_hyperv_eventfd", {
  conn_id: u32(),
  fd: u32(),
  flags: u32(),
  padding: bytes(12),
})
