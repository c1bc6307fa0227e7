import { KVM_MP_STATE_UNINITIALIZED, type KvmSregs, type VcpuFd } from "@ts-vmm/kvm-ioctls"
import { BOOT_GDT_START, BOOT_PAGE_TABLES_START, BOOT_STACK_POINTER } from "@ts-vmm/linux-loader"
import type { GuestAddress, GuestMemory } from "@ts-vmm/vm-memory"
import { BOOT_TASK, descriptorTable, FLAT_DATA, LONG_MODE_CODE, PROTECTED_MODE_CODE } from "./gdt.js"
import { writeIdentityMap } from "./paging.js"

/** @see Intel SDM vol. 3, "Control Registers" */
const CR0_PE = 1n << 0n
const CR0_ET = 1n << 4n
const CR0_PG = 1n << 31n
const CR4_PAE = 1n << 5n
/** @see Intel SDM vol. 3, "Extended Feature Enable Register" */
const EFER_LME = 1n << 8n
const EFER_LMA = 1n << 10n
/** Bit 1 of RFLAGS is always set; interrupts are off. */
const RFLAGS_RESERVED = 0x2n

/** The part of a vCPU that boot state is written to. */
export type BootVcpu = Pick<VcpuFd, "getSregs" | "setSregs" | "setRegs">

/** What a 64-bit kernel entry gets. */
export interface LongModeEntry {
  /** Guest physical address of the first instruction. */
  readonly entry: GuestAddress
  /** Guest physical address of the zero page. */
  readonly bootParams: GuestAddress
}

/** What a PVH kernel entry gets. */
export interface PvhEntry {
  /** Guest physical address of the first instruction, below 4 GiB. */
  readonly entry: GuestAddress
  /** Guest physical address of `hvm_start_info`, below 4 GiB. */
  readonly startInfo: GuestAddress
}

/**
 * Puts the boot CPU where the Linux 64-bit boot protocol wants it: long mode, the first 4 GiB identity mapped,
 * flat segments, interrupts off, RSI at the zero page.
 *
 * Writes the descriptor table and the page tables below 64 KiB.
 *
 * @throws KvmError `ioctl`; MemoryError `out-of-range` when there is no RAM at 0
 * @see Linux Documentation/arch/x86/boot.rst, "64-bit Boot Protocol"
 *
 * @example
 * ```ts
 * import { writeBootParams } from "@ts-vmm/linux-loader"
 * import { setUpLongMode } from "@ts-vmm/vmm"
 *
 * const bootParams = writeBootParams(memory, { kernel, cmdline, memoryMap })
 * setUpLongMode(vcpu, memory, { entry: kernel.entry, bootParams })
 * ```
 */
export function setUpLongMode(
  vcpu: BootVcpu,
  memory: GuestMemory,
  { entry, bootParams }: LongModeEntry,
): void {
  const table = descriptorTable(LONG_MODE_CODE)
  memory.write(BOOT_GDT_START, table)
  vcpu.setSregs({
    ...flatSegments(vcpu.getSregs(), LONG_MODE_CODE),
    gdt: { base: BigInt(BOOT_GDT_START), limit: table.length - 1 },
    cr0: CR0_PE | CR0_ET | CR0_PG,
    cr3: writeIdentityMap(memory, BOOT_PAGE_TABLES_START),
    cr4: CR4_PAE,
    efer: EFER_LME | EFER_LMA,
  })
  vcpu.setRegs({
    ...ZERO_REGS,
    rip: BigInt(entry),
    rsp: BigInt(BOOT_STACK_POINTER),
    rbp: BigInt(BOOT_STACK_POINTER),
    rsi: BigInt(bootParams),
    rflags: RFLAGS_RESERVED,
  })
}

/**
 * Puts the boot CPU where the PVH boot ABI wants it: 32-bit protected mode without paging, flat segments,
 * interrupts off, EBX at the start info.
 *
 * @throws KvmError `ioctl`
 * @see Xen docs/misc/pvh.pandoc, "x86/HVM direct boot ABI"
 */
export function setUpPvh(vcpu: BootVcpu, { entry, startInfo }: PvhEntry): void {
  vcpu.setSregs({
    ...flatSegments(vcpu.getSregs(), PROTECTED_MODE_CODE),
    cr0: CR0_PE | CR0_ET,
    cr3: 0n,
    cr4: 0n,
    efer: 0n,
  })
  vcpu.setRegs({ ...ZERO_REGS, rip: BigInt(entry), rbx: BigInt(startInfo), rflags: RFLAGS_RESERVED })
}

/**
 * Leaves a further CPU where INIT leaves it: not running until the boot CPU sends it a start-up IPI. KVM does
 * that by itself for every vCPU but number 0 when the local APICs are in the kernel; said here so that a
 * machine which is started a second time begins the same.
 *
 * @throws KvmError `ioctl`
 * @see KVM API, "KVM_SET_MP_STATE"
 */
export function setUpSecondary(vcpu: Pick<VcpuFd, "setMpState">): void {
  vcpu.setMpState({ mp_state: KVM_MP_STATE_UNINITIALIZED })
}
const ZERO_REGS = {
  rax: 0n,
  rbx: 0n,
  rcx: 0n,
  rdx: 0n,
  rsi: 0n,
  rdi: 0n,
  rsp: 0n,
  rbp: 0n,
  r8: 0n,
  r9: 0n,
  r10: 0n,
  r11: 0n,
  r12: 0n,
  r13: 0n,
  r14: 0n,
  r15: 0n,
}

/** What KVM reports at reset (APIC base, CR8, …) with flat segments in place and no interrupt table. */
function flatSegments(reset: KvmSregs, code: KvmSregs["cs"]): KvmSregs {
  const data = FLAT_DATA
  const idt = { base: 0n, limit: 0 }
  return { ...reset, cs: code, ds: data, es: data, fs: data, gs: data, ss: data, tr: BOOT_TASK, idt }
}
