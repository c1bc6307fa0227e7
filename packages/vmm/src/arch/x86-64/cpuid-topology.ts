import { KVM_CPUID_FLAG_SIGNIFCANT_INDEX, type KvmCpuidEntry2 } from "@ts-vmm/kvm-ioctls"

/*
 * One package, one thread per core: every vCPU is a core, its APIC id is its index. That is what a scheduler
 * may assume of vCPUs that float over host CPUs.
 */

/** Domain types of leaves 0xb and 0x1f. @see Intel SDM vol. 2, "CPUID", leaf 0BH */
const DOMAIN_INVALID = 0
const DOMAIN_SMT = 1
const DOMAIN_CORE = 2
/** Cache level in bits 7:5 of leaf 4 and leaf 0x8000_001d. */
const FIRST_SHARED_CACHE_LEVEL = 3
/** Leaf 1, EDX: the logical processor count in EBX is valid. */
const HTT = 28
/** Vendor string as EBX of leaf 0: "Auth". */
const VENDOR_AMD = 0x6874_7541
/** Leaf 0x8000_0001, ECX, AMD: the package has more than one core and no hyperthreads. */
const CMP_LEGACY = 1

const EXTENDED_TOPOLOGY_LEAVES = [0xb, 0x1f]
/** AMD's own extended topology; without it a guest takes leaf 0xb. */
const AMD_EXTENDED_TOPOLOGY_LEAF = 0x8000_0026

/**
 * Replaces what KVM passed through of the host's topology by that of the machine.
 *
 * @param entries - entries of one vCPU; taken over and changed
 * @param apicId - index of the vCPU
 * @param cores - number of vCPUs
 */
export function withTopology(entries: KvmCpuidEntry2[], apicId: number, cores: number): KvmCpuidEntry2[] {
  const basic = entries.find(e => e.function === 0)
  const topology: Topology = {
    apicId,
    cores,
    apicIdBits: Math.ceil(Math.log2(cores)),
    amd: basic?.ebx === VENDOR_AMD,
  }
  const kept = entries.filter(
    e => !EXTENDED_TOPOLOGY_LEAVES.includes(e.function) && e.function !== AMD_EXTENDED_TOPOLOGY_LEAF,
  )
  for (const entry of kept) EDIT[entry.function]?.(entry, topology)
  for (const leaf of EXTENDED_TOPOLOGY_LEAVES)
    if (leaf <= (basic?.eax ?? 0)) kept.push(...extendedTopology(leaf, topology))
  return kept
}

interface Topology {
  readonly apicId: number
  readonly cores: number
  /** Bits of an APIC id that tell cores of the package apart. */
  readonly apicIdBits: number
  /** The fields that only AMD defines are reserved elsewhere. */
  readonly amd: boolean
}

type Edit = (entry: KvmCpuidEntry2, topology: Topology) => void

/** What each leaf says about topology. */
const EDIT: Readonly<Record<number, Edit>> = {
  1: (entry, { apicId, cores }) => {
    entry.ebx = ((entry.ebx & 0xffff) | (cores << 16) | (apicId << 24)) >>> 0
    entry.edx = withBit(entry.edx, HTT, cores > 1)
  },
  4: (entry, { cores, apicIdBits }) => {
    if ((entry.eax & 0x1f) === 0) return
    const sharing = cacheLevel(entry) < FIRST_SHARED_CACHE_LEVEL ? 0 : cores - 1
    const addressableCores = (1 << apicIdBits) - 1
    entry.eax = ((entry.eax & 0x3fff) | (sharing << 14) | (addressableCores << 26)) >>> 0
  },
  2147483649: (entry, { cores, amd }) => {
    if (amd) entry.ecx = withBit(entry.ecx, CMP_LEGACY, cores > 1)
  },
  2147483656: (entry, { cores, apicIdBits, amd }) => {
    if (amd) entry.ecx = ((apicIdBits << 12) | (cores - 1)) >>> 0
  },
  2147483677: (entry, { cores }) => {
    if ((entry.eax & 0x1f) === 0) return
    const sharing = cacheLevel(entry) < FIRST_SHARED_CACHE_LEVEL ? 0 : cores - 1
    entry.eax = ((entry.eax & 0x3fff) | (sharing << 14)) >>> 0
  },
  2147483678: (entry, { apicId }) => {
    entry.eax = apicId
    entry.ebx = apicId // core id; bits 15:8 are threads per core less one
    entry.ecx = 0 // node 0 of one
    entry.edx = 0
  },
}

/** Leaves 0xb and 0x1f: the domains from thread to package, then the end. */
function extendedTopology(leaf: number, { apicId, cores, apicIdBits }: Topology): KvmCpuidEntry2[] {
  const domains = [
    { shift: 0, processors: 1, type: DOMAIN_SMT },
    { shift: apicIdBits, processors: cores, type: DOMAIN_CORE },
    { shift: 0, processors: 0, type: DOMAIN_INVALID },
  ]
  return domains.map(({ shift, processors, type }, index) => ({
    function: leaf,
    index,
    flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
    eax: shift,
    ebx: processors,
    ecx: (type << 8) | index,
    edx: apicId,
  }))
}

function cacheLevel(entry: KvmCpuidEntry2): number {
  return (entry.eax >>> 5) & 0x7
}

function withBit(value: number, bit: number, on: boolean): number {
  return (on ? value | (1 << bit) : value & ~(1 << bit)) >>> 0
}
