export {
  type BootVcpu,
  type LongModeEntry,
  type PvhEntry,
  setUpLongMode,
  setUpPvh,
  setUpSecondary,
} from "./boot-state.js"
export { type CpuidOptions, vcpuCpuid } from "./cpuid.js"
export { MASKED_BITS, MASKED_LEAVES, type MaskedBit } from "./cpuid-mask.js"
export { setUpFpu } from "./fpu.js"
export { IoApic, type IoApicCounters, type IoApicKvm } from "./io-apic.js"
export {
  createInterruptController,
  type InterruptController,
  type InterruptControllerKind,
  type InterruptVm,
} from "./irqchip.js"
export { setUpLapic } from "./lapic.js"
export * from "./layout.js"
export { BOOT_MSRS, setUpMsrs } from "./msrs.js"
export { RESET_VECTOR_START, writeResetVector } from "./reset-vector.js"
