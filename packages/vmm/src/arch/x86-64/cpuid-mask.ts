/** One of the four registers that CPUID answers in. */
export type CpuidRegister = "eax" | "ebx" | "ecx" | "edx"

/** One feature bit that the guest does not get to see, and why. */
export interface MaskedBit {
  readonly leaf: number
  readonly index: number
  readonly register: CpuidRegister
  readonly bit: number
  /** Name of the feature in the manuals. */
  readonly name: string
  readonly reason: string
}

const NO_PMU = "this machine gives no performance counters: they are state to save and a timer of the host"
const NO_NESTING =
  "a sandbox needs no hypervisor of its own, and nested virtualization is KVM's largest surface"
const NO_IDLE = "KVM runs it as a no-op, so that an idle loop built on it would burn a host CPU"

/**
 * Feature bits taken from what KVM supports.
 * @see Intel SDM vol. 2, "CPUID"; AMD APM vol. 3, appendix E
 */
export const MASKED_BITS: readonly MaskedBit[] = [
  { leaf: 1, index: 0, register: "ecx", bit: 3, name: "MONITOR", reason: NO_IDLE },
  { leaf: 1, index: 0, register: "ecx", bit: 5, name: "VMX", reason: NO_NESTING },
  { leaf: 1, index: 0, register: "ecx", bit: 15, name: "PDCM", reason: NO_PMU },
  { leaf: 7, index: 0, register: "ebx", bit: 2, name: "SGX", reason: "no enclave memory is set up" },
  { leaf: 7, index: 0, register: "ecx", bit: 5, name: "WAITPKG", reason: NO_IDLE },
  { leaf: 7, index: 0, register: "ecx", bit: 30, name: "SGX_LC", reason: "no enclave memory is set up" },
  {
    leaf: 7,
    index: 0,
    register: "ebx",
    bit: 25,
    name: "Intel PT",
    reason: "traces leave through host buffers",
  },
  { leaf: 0x8000_0001, index: 0, register: "ecx", bit: 2, name: "SVM", reason: NO_NESTING },
  { leaf: 0x8000_0001, index: 0, register: "ecx", bit: 23, name: "PerfCtrExtCore", reason: NO_PMU },
  { leaf: 0x8000_0001, index: 0, register: "ecx", bit: 29, name: "MONITORX", reason: NO_IDLE },
]

/** Leaves that the guest does not get at all (CPUID answers zeros), each with its reason. */
export const MASKED_LEAVES: ReadonlyMap<number, string> = new Map([
  [0x5, `MONITOR/MWAIT: ${NO_IDLE}`],
  [0xa, `architectural performance monitoring: ${NO_PMU}`],
  [0x12, "SGX: no enclave memory is set up"],
  [0x14, "Intel PT: traces leave through host buffers"],
  [0x8000_000a, `SVM: ${NO_NESTING}`],
  [0x8000_001f, "SEV: guest memory is not encrypted"],
  [0x8000_0022, `performance monitoring version 2: ${NO_PMU}`],
])
