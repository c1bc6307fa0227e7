import type { KvmCpuidEntry2 } from "@ts-vmm/kvm-ioctls"
import { VmmError } from "../../errors.js"
import { MASKED_BITS, MASKED_LEAVES } from "./cpuid-mask.js"
import { withTopology } from "./cpuid-topology.js"
import { MAX_VCPUS } from "./layout.js"

/** What decides the answer of CPUID on one vCPU. */
export interface CpuidOptions {
  /** Index of the vCPU, which is also its APIC id. */
  readonly vcpuIndex: number
  /** Number of vCPUs, 1 to 32. */
  readonly vcpuCount: number
  /** Whether KVM offers KVM_CAP_TSC_DEADLINE_TIMER; KVM_GET_SUPPORTED_CPUID never says so itself. */
  readonly tscDeadlineTimer: boolean
  /** Frequency of the guest's time stamp counter in kHz, from KVM_GET_TSC_KHZ; absent when unknown. */
  readonly tscKhz?: number
}

/** Leaf 1, ECX. @see Intel SDM vol. 2, "CPUID", leaf 01H */
const TSC_DEADLINE = 24
const HYPERVISOR = 31

/** One tick of the local APIC timer is 1 ns in KVM. @see KVM API, KVM_CAP_X86_APIC_BUS_CYCLES_NS */
const APIC_BUS_HZ = 1_000_000_000
const FREQUENCY_LEAF = 0x15
const PROCESSOR_FREQUENCY_LEAF = 0x16
const HYPERVISOR_BASE = 0x4000_0000
const HYPERVISOR_TIMING_LEAF = 0x4000_0010

/** Vendor string as EBX of leaf 0: "Genu", "Auth". */
const VENDOR_INTEL = 0x756e_6547

/**
 * CPUID of one vCPU: what KVM supports, less what makes no sense in this machine, plus topology, the
 * hypervisor bit and the frequencies that spare the guest a calibration loop.
 *
 * KVM's own leaves (0x4000_0000 signature, 0x4000_0001 features: kvmclock, asynchronous page faults,
 * paravirtual EOI, …) pass through.
 *
 * @param supported - entries of KVM_GET_SUPPORTED_CPUID; not changed
 * @returns entries for KVM_SET_CPUID2
 * @throws VmmError `vcpu-count`
 * @see Intel SDM vol. 2, "CPUID"; AMD APM vol. 3, appendix E; Linux Documentation/virt/kvm/x86/cpuid.rst
 *
 * @example
 * ```ts
 * import { vcpuCpuid } from "@ts-vmm/vmm"
 *
 * vcpu.setCpuid2(vcpuCpuid(kvm.getSupportedCpuid(), { vcpuIndex: 0, vcpuCount: 2, tscDeadlineTimer: true }))
 * ```
 */
export function vcpuCpuid(supported: readonly KvmCpuidEntry2[], options: CpuidOptions): KvmCpuidEntry2[] {
  const { vcpuIndex, vcpuCount } = options
  if (!(Number.isInteger(vcpuCount) && vcpuCount >= 1 && vcpuCount <= MAX_VCPUS))
    throw new VmmError("vcpu-count", `${vcpuCount} vCPUs are not supported`, { vcpuCount, limit: MAX_VCPUS })
  if (!(Number.isInteger(vcpuIndex) && vcpuIndex >= 0 && vcpuIndex < vcpuCount))
    throw new VmmError("vcpu-count", `no vCPU ${vcpuIndex} of ${vcpuCount}`, { vcpuIndex, vcpuCount })
  const entries = supported.filter(e => !MASKED_LEAVES.has(e.function)).map(e => ({ ...e }))
  for (const entry of entries) maskBits(entry)
  setFeatures(entries, options)
  if (options.tscKhz) setFrequencies(entries, options.tscKhz)
  return withTopology(entries, vcpuIndex, vcpuCount)
}

function maskBits(entry: KvmCpuidEntry2): void {
  for (const { leaf, index, register, bit } of MASKED_BITS)
    if (entry.function === leaf && entry.index === index)
      entry[register] = (entry[register] & ~(1 << bit)) >>> 0
}

function setFeatures(entries: KvmCpuidEntry2[], { tscDeadlineTimer }: CpuidOptions): void {
  for (const entry of entries) {
    if (entry.function !== 1) continue
    entry.ecx = (entry.ecx | (1 << HYPERVISOR)) >>> 0
    if (tscDeadlineTimer) entry.ecx = (entry.ecx | (1 << TSC_DEADLINE)) >>> 0
  }
}

/**
 * Frequencies. Leaves 0x15 and 0x16 are Intel's: there Linux takes the TSC's and the APIC timer's from them.
 * Leaf 0x4000_0010 is the convention of VMware, QEMU and the BSDs: kHz of the TSC and of the APIC bus. Linux
 * on KVM reads the TSC's from kvmclock and does not need it.
 */
function setFrequencies(entries: KvmCpuidEntry2[], tscKhz: number): void {
  const basic = entries.find(e => e.function === 0)
  if (basic?.ebx === VENDOR_INTEL) {
    basic.eax = Math.max(basic.eax, PROCESSOR_FREQUENCY_LEAF)
    const mhz = Math.round(tscKhz / 1000)
    replace(entries, FREQUENCY_LEAF, { eax: APIC_BUS_HZ / 1000, ebx: tscKhz, ecx: APIC_BUS_HZ })
    replace(entries, PROCESSOR_FREQUENCY_LEAF, { eax: mhz, ebx: mhz, ecx: APIC_BUS_HZ / 1_000_000 })
  }
  const hypervisor = entries.find(e => e.function === HYPERVISOR_BASE)
  if (hypervisor) {
    hypervisor.eax = Math.max(hypervisor.eax, HYPERVISOR_TIMING_LEAF)
    replace(entries, HYPERVISOR_TIMING_LEAF, { eax: tscKhz, ebx: APIC_BUS_HZ / 1000 })
  }
}

/** Puts a leaf without subleaves in place of whatever was there. */
function replace(entries: KvmCpuidEntry2[], leaf: number, registers: Partial<KvmCpuidEntry2>): void {
  const index = entries.findIndex(e => e.function === leaf)
  if (index >= 0) entries.splice(index, 1)
  entries.push({ function: leaf, index: 0, flags: 0, eax: 0, ebx: 0, ecx: 0, edx: 0, ...registers })
}
