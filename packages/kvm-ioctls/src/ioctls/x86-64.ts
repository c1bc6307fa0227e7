// Requests of x86 only, or with a structure of another size elsewhere. @see linux/kvm.h
import { kvmTprAccessCtl, kvmU64, kvmVapicAddr } from "../structs/any-arch.js"
import {
  kvmCpuid2,
  kvmDebugregs,
  kvmFpu,
  kvmGuestDebugX86,
  kvmHypervEventfd,
  kvmLapicState,
  kvmMsrFilter,
  kvmMsrList,
  kvmMsrs,
  kvmNestedState,
  kvmPitConfig,
  kvmPitState2,
  kvmPmuEventFilter,
  kvmRegs,
  kvmSregs,
  kvmSregs2,
  kvmVcpuEvents,
  kvmX86Mce,
  kvmXcrs,
  kvmXenHvmConfig,
  kvmXsave,
} from "../structs/x86-64.js"
import { io, ior, iow, iowArray, iowr, iowrArray } from "./request.js"

// The system fd.
export const KVM_GET_MSR_INDEX_LIST = iowrArray("KVM_GET_MSR_INDEX_LIST", 0x02, kvmMsrList)
/** With KVM_CAP_EXT_CPUID. */
export const KVM_GET_SUPPORTED_CPUID = iowrArray("KVM_GET_SUPPORTED_CPUID", 0x05, kvmCpuid2)
/** With KVM_CAP_EXT_EMUL_CPUID. */
export const KVM_GET_EMULATED_CPUID = iowrArray("KVM_GET_EMULATED_CPUID", 0x09, kvmCpuid2)
/** With KVM_CAP_GET_MSR_FEATURES. */
export const KVM_GET_MSR_FEATURE_INDEX_LIST = iowrArray("KVM_GET_MSR_FEATURE_INDEX_LIST", 0x0a, kvmMsrList)
/** With KVM_CAP_MCE. */
export const KVM_X86_GET_MCE_CAP_SUPPORTED = ior("KVM_X86_GET_MCE_CAP_SUPPORTED", 0x9d, kvmU64)
/** With KVM_CAP_HYPERV_CPUID; on a vCPU's fd too. */
export const KVM_GET_SUPPORTED_HV_CPUID = iowrArray("KVM_GET_SUPPORTED_HV_CPUID", 0xc1, kvmCpuid2)

// A VM's fd.
/** With KVM_CAP_SET_TSS_ADDR. */
export const KVM_SET_TSS_ADDR = io("KVM_SET_TSS_ADDR", 0x47)
/** With KVM_CAP_SET_IDENTITY_MAP_ADDR. */
export const KVM_SET_IDENTITY_MAP_ADDR = iow("KVM_SET_IDENTITY_MAP_ADDR", 0x48, kvmU64)
export const KVM_REINJECT_CONTROL = io("KVM_REINJECT_CONTROL", 0x71)
/** With KVM_CAP_PIT2. */
export const KVM_CREATE_PIT2 = iow("KVM_CREATE_PIT2", 0x77, kvmPitConfig)
/** With KVM_CAP_PIT_STATE2. */
export const KVM_GET_PIT2 = ior("KVM_GET_PIT2", 0x9f, kvmPitState2)
export const KVM_SET_PIT2 = iow("KVM_SET_PIT2", 0xa0, kvmPitState2)
/** With KVM_CAP_XEN_HVM. */
export const KVM_XEN_HVM_CONFIG = iow("KVM_XEN_HVM_CONFIG", 0x7a, kvmXenHvmConfig)
/** With KVM_CAP_HYPERV_EVENTFD. */
export const KVM_HYPERV_EVENTFD = iow("KVM_HYPERV_EVENTFD", 0xbd, kvmHypervEventfd)
/** With KVM_CAP_PMU_EVENT_FILTER. */
export const KVM_SET_PMU_EVENT_FILTER = iowArray("KVM_SET_PMU_EVENT_FILTER", 0xb2, kvmPmuEventFilter)
/** With KVM_CAP_X86_MSR_FILTER. */
export const KVM_X86_SET_MSR_FILTER = iow("KVM_X86_SET_MSR_FILTER", 0xc6, kvmMsrFilter)

// A vCPU's fd: registers.
export const KVM_GET_REGS = ior("KVM_GET_REGS", 0x81, kvmRegs)
export const KVM_SET_REGS = iow("KVM_SET_REGS", 0x82, kvmRegs)
export const KVM_GET_SREGS = ior("KVM_GET_SREGS", 0x83, kvmSregs)
export const KVM_SET_SREGS = iow("KVM_SET_SREGS", 0x84, kvmSregs)
/** With KVM_CAP_SREGS2. */
export const KVM_GET_SREGS2 = ior("KVM_GET_SREGS2", 0xcc, kvmSregs2)
export const KVM_SET_SREGS2 = iow("KVM_SET_SREGS2", 0xcd, kvmSregs2)
export const KVM_GET_FPU = ior("KVM_GET_FPU", 0x8c, kvmFpu)
export const KVM_SET_FPU = iow("KVM_SET_FPU", 0x8d, kvmFpu)
/** With KVM_CAP_XSAVE. */
export const KVM_GET_XSAVE = ior("KVM_GET_XSAVE", 0xa4, kvmXsave)
export const KVM_SET_XSAVE = iow("KVM_SET_XSAVE", 0xa5, kvmXsave)
/** With KVM_CAP_XSAVE2. */
export const KVM_GET_XSAVE2 = ior("KVM_GET_XSAVE2", 0xcf, kvmXsave)
/** With KVM_CAP_XCRS. */
export const KVM_GET_XCRS = ior("KVM_GET_XCRS", 0xa6, kvmXcrs)
export const KVM_SET_XCRS = iow("KVM_SET_XCRS", 0xa7, kvmXcrs)
/** With KVM_CAP_DEBUGREGS. */
export const KVM_GET_DEBUGREGS = ior("KVM_GET_DEBUGREGS", 0xa1, kvmDebugregs)
export const KVM_SET_DEBUGREGS = iow("KVM_SET_DEBUGREGS", 0xa2, kvmDebugregs)
/** On the system fd too, for feature MSRs. */
export const KVM_GET_MSRS = iowrArray("KVM_GET_MSRS", 0x88, kvmMsrs)
export const KVM_SET_MSRS = iowArray("KVM_SET_MSRS", 0x89, kvmMsrs)

// A vCPU's fd: what it is.
/** With KVM_CAP_EXT_CPUID. */
export const KVM_SET_CPUID2 = iowArray("KVM_SET_CPUID2", 0x90, kvmCpuid2)
export const KVM_GET_CPUID2 = iowrArray("KVM_GET_CPUID2", 0x91, kvmCpuid2)
/** With KVM_CAP_TSC_CONTROL; on a VM's fd too, with KVM_CAP_VM_TSC_CONTROL. */
export const KVM_SET_TSC_KHZ = io("KVM_SET_TSC_KHZ", 0xa2)
export const KVM_GET_TSC_KHZ = io("KVM_GET_TSC_KHZ", 0xa3)
/** With KVM_CAP_KVMCLOCK_CTRL. */
export const KVM_KVMCLOCK_CTRL = io("KVM_KVMCLOCK_CTRL", 0xad)

// A vCPU's fd: interrupts and events.
/** With KVM_CAP_IRQCHIP. */
export const KVM_GET_LAPIC = ior("KVM_GET_LAPIC", 0x8e, kvmLapicState)
export const KVM_SET_LAPIC = iow("KVM_SET_LAPIC", 0x8f, kvmLapicState)
/** With KVM_CAP_VCPU_EVENTS. */
export const KVM_GET_VCPU_EVENTS = ior("KVM_GET_VCPU_EVENTS", 0x9f, kvmVcpuEvents)
export const KVM_SET_VCPU_EVENTS = iow("KVM_SET_VCPU_EVENTS", 0xa0, kvmVcpuEvents)
/** With KVM_CAP_USER_NMI. */
export const KVM_NMI = io("KVM_NMI", 0x9a)
/** With KVM_CAP_X86_SMM. */
export const KVM_SMI = io("KVM_SMI", 0xb7)
/** With KVM_CAP_SET_GUEST_DEBUG. */
export const KVM_SET_GUEST_DEBUG = iow("KVM_SET_GUEST_DEBUG", 0x9b, kvmGuestDebugX86)
export const KVM_X86_SETUP_MCE = iow("KVM_X86_SETUP_MCE", 0x9c, kvmU64)
export const KVM_X86_SET_MCE = iow("KVM_X86_SET_MCE", 0x9e, kvmX86Mce)
/** With KVM_CAP_VAPIC. */
export const KVM_TPR_ACCESS_REPORTING = iowr("KVM_TPR_ACCESS_REPORTING", 0x92, kvmTprAccessCtl)
export const KVM_SET_VAPIC_ADDR = iow("KVM_SET_VAPIC_ADDR", 0x93, kvmVapicAddr)
/** With KVM_CAP_NESTED_STATE. */
export const KVM_GET_NESTED_STATE = iowr("KVM_GET_NESTED_STATE", 0xbe, kvmNestedState)
export const KVM_SET_NESTED_STATE = iow("KVM_SET_NESTED_STATE", 0xbf, kvmNestedState)
