import type { KvmMsrEntry, VcpuFd } from "@ts-vmm/kvm-ioctls"
import { VmmError } from "../../errors.js"

/** @see Intel SDM vol. 4, "Model-Specific Registers" */
const MSR_IA32_TSC = 0x10
const MSR_IA32_SYSENTER_CS = 0x174
const MSR_IA32_SYSENTER_ESP = 0x175
const MSR_IA32_SYSENTER_EIP = 0x176
const MSR_IA32_MISC_ENABLE = 0x1a0
const MSR_MTRR_DEF_TYPE = 0x2ff
const MSR_STAR = 0xc000_0081
const MSR_LSTAR = 0xc000_0082
const MSR_CSTAR = 0xc000_0083
const MSR_SYSCALL_MASK = 0xc000_0084
const MSR_KERNEL_GS_BASE = 0xc000_0102

const MISC_ENABLE_FAST_STRING = 1n << 0n
/** @see Intel SDM vol. 3, "IA32_MTRR_DEF_TYPE MSR" */
const MTRR_ENABLE = 1n << 11n
const MTRR_WRITE_BACK = 6n

/**
 * MSRs as firmware leaves them: no system call entry, string instructions in their fast form, all memory
 * write-back (without which a kernel finds MTRRs off and treats RAM as uncached).
 */
export const BOOT_MSRS: readonly KvmMsrEntry[] = [
  { index: MSR_IA32_SYSENTER_CS, data: 0n },
  { index: MSR_IA32_SYSENTER_ESP, data: 0n },
  { index: MSR_IA32_SYSENTER_EIP, data: 0n },
  { index: MSR_STAR, data: 0n },
  { index: MSR_CSTAR, data: 0n },
  { index: MSR_KERNEL_GS_BASE, data: 0n },
  { index: MSR_SYSCALL_MASK, data: 0n },
  { index: MSR_LSTAR, data: 0n },
  { index: MSR_IA32_TSC, data: 0n },
  { index: MSR_IA32_MISC_ENABLE, data: MISC_ENABLE_FAST_STRING },
  { index: MSR_MTRR_DEF_TYPE, data: MTRR_ENABLE | MTRR_WRITE_BACK },
]

/**
 * Sets a vCPU's MSRs as firmware leaves them. Each vCPU gets them, the boot CPU and the others.
 * @throws KvmError `ioctl`; VmmError `capability-missing` with the number of an MSR that KVM does not set
 * @see KVM API, "KVM_SET_MSRS"
 */
export function setUpMsrs(vcpu: Pick<VcpuFd, "setMsrs">): void {
  const refused = BOOT_MSRS[vcpu.setMsrs(BOOT_MSRS)]
  if (refused === undefined) return
  const name = `MSR 0x${refused.index.toString(16)}`
  throw new VmmError("capability-missing", `this host's KVM does not set ${name}`, { capability: name })
}
