import * as kvm from "../bindings/common.js"
import { KVM_RUN_OFFSETS as AT, KVM_XEN_EXIT_OFFSETS as XEN } from "../structs/kvm-run.js"
import { type DebugExit, decodeDebug } from "./debug.js"
import { decodeHyperv, type HypervExit } from "./hyperv.js"

/** The exits that no guest makes thousands of in a second. */
export type ColdExit =
  | SimpleExit
  | DebugExit
  | HypervExit
  | HypercallExit
  | XenHypercallExit
  | RdmsrExit
  | WrmsrExit
  | InternalErrorExit
  | { readonly reason: "fail-entry"; readonly hardwareReason: bigint; readonly cpu: number }
  | { readonly reason: "exception"; readonly exception: number; readonly errorCode: number }
  | { readonly reason: "tpr-access"; readonly rip: bigint; readonly isWrite: boolean }
  /** `type` is one of `KVM_SYSTEM_EVENT_*`. */
  | { readonly reason: "system-event"; readonly type: number; readonly data: readonly bigint[] }
  /** The guest ended a level-triggered interrupt of an I/O APIC that is not in the kernel. */
  | { readonly reason: "ioapic-eoi"; readonly vector: number }
  | { readonly reason: "arm-nisv"; readonly esrIss: bigint; readonly faultIpa: bigint }
  | {
      readonly reason: "arm-sea"
      readonly flags: bigint
      readonly esr: bigint
      readonly gva: bigint
      readonly gpa: bigint
    }
  /** `flags` are `KVM_NOTIFY_*`. */
  | { readonly reason: "notify"; readonly flags: number }
  /** `flags` are `KVM_MEMORY_EXIT_FLAG_*`. */
  | { readonly reason: "memory-fault"; readonly flags: bigint; readonly gpa: bigint; readonly size: bigint }
  | UnknownExit

/** A number this package has no name for, so that a newer kernel or another architecture stops no program. */
export interface UnknownExit {
  readonly reason: "unknown"
  /** `KVM_EXIT_*`. */
  readonly number: number
  /** What the processor said, where `number` is 0 (`KVM_EXIT_UNKNOWN`). */
  readonly hardwareReason: bigint
}

/** Exits that are nothing but their name. */
const SIMPLE = {
  [kvm.KVM_EXIT_IRQ_WINDOW_OPEN]: "irq-window-open",
  [kvm.KVM_EXIT_SHUTDOWN]: "shutdown",
  [kvm.KVM_EXIT_SET_TPR]: "set-tpr",
  [kvm.KVM_EXIT_NMI]: "nmi",
  [kvm.KVM_EXIT_WATCHDOG]: "watchdog",
  [kvm.KVM_EXIT_DIRTY_RING_FULL]: "dirty-ring-full",
  [kvm.KVM_EXIT_AP_RESET_HOLD]: "ap-reset-hold",
  [kvm.KVM_EXIT_X86_BUS_LOCK]: "x86-bus-lock",
} as const

/** See {@link VcpuExit}. `shutdown` is a triple fault. */
export interface SimpleExit {
  readonly reason: (typeof SIMPLE)[keyof typeof SIMPLE]
}

/** The guest asks for something with VMCALL, VMMCALL or HVC. */
export interface HypercallExit {
  readonly reason: "hypercall"
  readonly nr: bigint
  readonly args: readonly bigint[]
  readonly flags: bigint
  /** What the guest gets back. */
  answer(result: bigint): void
}

/** The same from a Xen guest. */
export interface XenHypercallExit {
  readonly reason: "xen"
  readonly longmode: boolean
  readonly cpl: number
  readonly input: bigint
  readonly params: readonly bigint[]
  answer(result: bigint): void
}

/** A RDMSR that KVM leaves to the program. @see KVM_CAP_X86_USER_SPACE_MSR */
export interface RdmsrExit {
  readonly reason: "x86-rdmsr"
  readonly index: number
  /** `KVM_MSR_EXIT_REASON_*`. */
  readonly cause: number
  answer(value: bigint): void
  /** The guest gets #GP. */
  refuse(): void
}

/** A WRMSR that KVM leaves to the program. */
export interface WrmsrExit {
  readonly reason: "x86-wrmsr"
  readonly index: number
  /** `KVM_MSR_EXIT_REASON_*`. */
  readonly cause: number
  readonly value: bigint
  accept(): void
  /** The guest gets #GP. */
  refuse(): void
}

/** KVM cannot go on. */
export interface InternalErrorExit {
  readonly reason: "internal-error"
  /** `KVM_INTERNAL_ERROR_*`. */
  readonly suberror: number
  readonly data: readonly bigint[]
  /** The instruction that KVM cannot emulate, where it says so; else empty. */
  readonly instruction: Uint8Array
}

const u64 = (page: DataView, offset: number) => page.getBigUint64(offset, true)
const u64s = (page: DataView, offset: number, count: number) =>
  Array.from({ length: count }, (_, index) => u64(page, offset + index * 8))
/** Elements of the arrays of an internal error and of a system event. */
const MOST_DATA = 16

/** The exits that {@link decodeExit} does not decode itself. @internal */
export function decodeColdExit(page: DataView, number: number): ColdExit {
  const simple = (SIMPLE as Readonly<Record<number, SimpleExit["reason"]>>)[number]
  if (simple !== undefined) return { reason: simple }
  const decode = DECODERS.get(number)
  return decode?.(page) ?? unknown(page, number)
}

function unknown(page: DataView, number: number): UnknownExit {
  return { reason: "unknown", number, hardwareReason: u64(page, AT["hw.hardware_exit_reason"]) }
}

/** A decoder gives nothing when it does not know the kind that the page names. */
const DECODERS: ReadonlyMap<number, (page: DataView) => ColdExit | undefined> = new Map<
  number,
  (page: DataView) => ColdExit | undefined
>([
  [kvm.KVM_EXIT_DEBUG, decodeDebug],
  [kvm.KVM_EXIT_HYPERV, decodeHyperv],
  [kvm.KVM_EXIT_HYPERCALL, decodeHypercall],
  [kvm.KVM_EXIT_XEN, decodeXen],
  [kvm.KVM_EXIT_X86_RDMSR, decodeRdmsr],
  [kvm.KVM_EXIT_X86_WRMSR, decodeWrmsr],
  [kvm.KVM_EXIT_INTERNAL_ERROR, decodeInternalError],
  [kvm.KVM_EXIT_SYSTEM_EVENT, decodeSystemEvent],
  [kvm.KVM_EXIT_ARM_SEA, decodeArmSea],
  [kvm.KVM_EXIT_IOAPIC_EOI, page => ({ reason: "ioapic-eoi", vector: page.getUint8(AT["eoi.vector"]) })],
  [kvm.KVM_EXIT_NOTIFY, page => ({ reason: "notify", flags: page.getUint32(AT["notify.flags"], true) })],
  [
    kvm.KVM_EXIT_FAIL_ENTRY,
    page => ({
      reason: "fail-entry",
      hardwareReason: u64(page, AT["fail_entry.hardware_entry_failure_reason"]),
      cpu: page.getUint32(AT["fail_entry.cpu"], true),
    }),
  ],
  [
    kvm.KVM_EXIT_EXCEPTION,
    page => ({
      reason: "exception",
      exception: page.getUint32(AT["ex.exception"], true),
      errorCode: page.getUint32(AT["ex.error_code"], true),
    }),
  ],
  [
    kvm.KVM_EXIT_TPR_ACCESS,
    page => ({
      reason: "tpr-access",
      rip: u64(page, AT["tpr_access.rip"]),
      isWrite: page.getUint32(AT["tpr_access.is_write"], true) !== 0,
    }),
  ],
  [
    kvm.KVM_EXIT_ARM_NISV,
    page => ({
      reason: "arm-nisv",
      esrIss: u64(page, AT["arm_nisv.esr_iss"]),
      faultIpa: u64(page, AT["arm_nisv.fault_ipa"]),
    }),
  ],
  [
    kvm.KVM_EXIT_MEMORY_FAULT,
    page => ({
      reason: "memory-fault",
      flags: u64(page, AT["memory_fault.flags"]),
      gpa: u64(page, AT["memory_fault.gpa"]),
      size: u64(page, AT["memory_fault.size"]),
    }),
  ],
])

function decodeHypercall(page: DataView): HypercallExit {
  return {
    reason: "hypercall",
    nr: u64(page, AT["hypercall.nr"]),
    args: u64s(page, AT["hypercall.args"], 6),
    flags: u64(page, AT["hypercall.flags"]),
    answer: result => page.setBigUint64(AT["hypercall.ret"], result, true),
  }
}

function decodeXen(page: DataView): XenHypercallExit | undefined {
  const at = (offset: number) => AT.xen + offset
  if (page.getUint32(at(XEN.type), true) !== kvm.KVM_EXIT_XEN_HCALL) return undefined
  return {
    reason: "xen",
    longmode: page.getUint32(at(XEN["u.hcall.longmode"]), true) !== 0,
    cpl: page.getUint32(at(XEN["u.hcall.cpl"]), true),
    input: u64(page, at(XEN["u.hcall.input"])),
    params: u64s(page, at(XEN["u.hcall.params"]), 6),
    answer: result => page.setBigUint64(at(XEN["u.hcall.result"]), result, true),
  }
}

/** What RDMSR and WRMSR have in common. */
function msrFields(page: DataView) {
  return {
    index: page.getUint32(AT["msr.index"], true),
    cause: page.getUint32(AT["msr.reason"], true),
    refuse: () => page.setUint8(AT["msr.error"], 1),
  }
}

function decodeRdmsr(page: DataView): RdmsrExit {
  const answer = (value: bigint) => {
    page.setUint8(AT["msr.error"], 0)
    page.setBigUint64(AT["msr.data"], value, true)
  }
  return { reason: "x86-rdmsr", ...msrFields(page), answer }
}

function decodeWrmsr(page: DataView): WrmsrExit {
  const accept = () => page.setUint8(AT["msr.error"], 0)
  return { reason: "x86-wrmsr", ...msrFields(page), value: u64(page, AT["msr.data"]), accept }
}

function decodeInternalError(page: DataView): InternalErrorExit {
  const suberror = page.getUint32(AT["internal.suberror"], true)
  const count = Math.min(page.getUint32(AT["internal.ndata"], true), MOST_DATA)
  return {
    reason: "internal-error",
    suberror,
    data: u64s(page, AT["internal.data"], count),
    instruction: failedInstruction(page, suberror, count),
  }
}

/** An emulation failure with enough data overlays it with the bytes of the instruction. */
function failedInstruction(page: DataView, suberror: number, count: number): Uint8Array {
  const flags = count >= 3 ? u64(page, AT["emulation_failure.flags"]) : 0n
  const present = (flags & BigInt(kvm.KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES)) !== 0n
  if (suberror !== kvm.KVM_INTERNAL_ERROR_EMULATION || !present) return new Uint8Array(0)
  const size = Math.min(page.getUint8(AT["emulation_failure.insn_size"]), 15)
  return new Uint8Array(page.buffer, page.byteOffset + AT["emulation_failure.insn_bytes"], size).slice()
}

function decodeSystemEvent(page: DataView): ColdExit {
  const count = Math.min(page.getUint32(AT["system_event.ndata"], true), MOST_DATA)
  return {
    reason: "system-event",
    type: page.getUint32(AT["system_event.type"], true),
    data: u64s(page, AT["system_event.data"], count),
  }
}

function decodeArmSea(page: DataView): ColdExit {
  return {
    reason: "arm-sea",
    flags: u64(page, AT["arm_sea.flags"]),
    esr: u64(page, AT["arm_sea.esr"]),
    gva: u64(page, AT["arm_sea.gva"]),
    gpa: u64(page, AT["arm_sea.gpa"]),
  }
}
