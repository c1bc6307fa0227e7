/**
 * The KVM API of Linux: `Kvm`, `VmFd`, `VcpuFd`, `DeviceFd`, the exits of a vCPU and the structures they use.
 *
 * @packageDocumentation
 */
/** What a {@link VcpuThread} answers by itself; here too, since it takes one. */
export {
  type ExitRow,
  type ExitSpace,
  ExitTable,
  type ExitTableOptions,
  type ReadAction,
  type WriteAction,
} from "@ts-vmm/native"
export { Cap } from "./bindings/cap.js"
export { KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY } from "./bindings/common.js"
export * from "./constants.js"
export { AttributeFd, type DeviceAttr, DeviceFd } from "./device.js"
export { KvmError, type KvmErrorCode, type KvmErrorDetails } from "./errors.js"
export type {
  ColdExit,
  HypercallExit,
  InternalErrorExit,
  RdmsrExit,
  SimpleExit,
  UnknownExit,
  WrmsrExit,
  XenHypercallExit,
} from "./exit/cold.js"
export type { DebugExit, DebugExitArm64, DebugExitX86 } from "./exit/debug.js"
export type { HypervDebugger, HypervExit, HypervHypercall, HypervSynic } from "./exit/hyperv.js"
export { decodeExit, type IoExit, type MmioExit, type PlainExit, type VcpuExit } from "./exit.js"
export { KvmFd } from "./fd.js"
export { KVM_RUN } from "./ioctls/any-arch.js"
export type { ArrayRequest, IoctlRequest, StructRequest } from "./ioctls/request.js"
export { KVM_PATH, Kvm } from "./kvm.js"
export type { KvmClockData, KvmMpState, KvmMsi, KvmTranslation } from "./structs/any-arch.js"
export type { KvmGuestDebugArchArm64, KvmVcpuEventsArm64, KvmVcpuInit } from "./structs/arm64.js"
export { FlexibleArray, type FlexibleArrayOptions } from "./structs/flexible-array.js"
export { KVM_RUN_OFFSETS } from "./structs/kvm-run.js"
export { KvmStruct, type Shown, type Value } from "./structs/struct.js"
export type {
  KvmCpuidEntry2,
  KvmDebugregs,
  KvmDtable,
  KvmFpu,
  KvmIoapicState,
  KvmLapicState,
  KvmMsrEntry,
  KvmPicState,
  KvmPitState2,
  KvmRegs,
  KvmSegment,
  KvmSregs,
  KvmSregs2,
  KvmSyncRegs,
  KvmVcpuEvents,
  KvmX86Mce,
  KvmXcr,
  KvmXenHvmConfig,
} from "./structs/x86-64.js"
export { Arm64Vcpu } from "./vcpu/arm64.js"
export type { CoalescedWrite } from "./vcpu/coalesced-ring.js"
export { type DirtyPage, DirtyRing } from "./vcpu/dirty-ring.js"
export { VcpuRegisters } from "./vcpu/registers.js"
export { type GuestDebug, VcpuState } from "./vcpu/state.js"
export type { SyncReg } from "./vcpu/sync-regs.js"
export { VcpuFd } from "./vcpu.js"
export {
  VcpuThread,
  type VcpuThreadEnd,
  type VcpuThreadOptions,
  type VcpuThreadState,
} from "./vcpu-thread.js"
export { type IoEvent, type IrqchipState, type IrqfdOptions, VmInterrupts } from "./vm/interrupts.js"
export type { IrqRoute, MsiTarget } from "./vm/irq-route.js"
export {
  type ClearDirtyLog,
  type CoalescedZone,
  type UserMemoryRegion,
  type UserMemoryRegion2,
  VmMemory,
} from "./vm/memory.js"
export type { MsrFilter, MsrFilterRange } from "./vm/msr-filter.js"
export { type PmuEventFilter, type SevCommand, VmFd } from "./vm.js"
