/**
 * What a program for arm64 hosts needs beside the main entry: constants of its `asm/kvm.h` and the ids of registers.
 *
 * @packageDocumentation
 */
import {
  KVM_REG_ARM_CORE,
  KVM_REG_ARM64_SYSREG,
  KVM_REG_ARM64_SYSREG_CRM_SHIFT,
  KVM_REG_ARM64_SYSREG_CRN_SHIFT,
  KVM_REG_ARM64_SYSREG_OP0_SHIFT,
  KVM_REG_ARM64_SYSREG_OP1_SHIFT,
  KVM_REG_ARM64_SYSREG_OP2_SHIFT,
} from "./bindings/arm64.js"
import { KVM_REG_ARM64, KVM_REG_SIZE_U32, KVM_REG_SIZE_U64, KVM_REG_SIZE_U128 } from "./bindings/common.js"
import { invalidArgument } from "./errors.js"

export * from "./bindings/arm64.js"
export type { KvmGuestDebugArchArm64, KvmVcpuEventsArm64, KvmVcpuInit } from "./structs/arm64.js"
export { Arm64Vcpu } from "./vcpu/arm64.js"

/** Offsets in arm64's struct kvm_regs; a test compares those that the headers name. */
export const ARM64_CORE_OFFSETS = {
  regs: 0,
  "regs.sp": 248,
  "regs.pc": 256,
  "regs.pstate": 264,
  sp_el1: 272,
  elr_el1: 280,
  spsr: 288,
  fp_regs: 336,
  "fp_regs.fpsr": 848,
  "fp_regs.fpcr": 852,
} as const

/** A core register by its name in the manual; `spsr` is that of EL1. */
export type Arm64CoreReg =
  | `x${number}`
  | `v${number}`
  | "sp"
  | "pc"
  | "pstate"
  | "sp_el1"
  | "elr_el1"
  | "spsr"
  | "fpsr"
  | "fpcr"

/** The registers that are not one of many: offset and size flag. */
const NAMED: ReadonlyMap<string, readonly [offset: number, size: bigint]> = new Map([
  ["sp", [ARM64_CORE_OFFSETS["regs.sp"], KVM_REG_SIZE_U64]],
  ["pc", [ARM64_CORE_OFFSETS["regs.pc"], KVM_REG_SIZE_U64]],
  ["pstate", [ARM64_CORE_OFFSETS["regs.pstate"], KVM_REG_SIZE_U64]],
  ["sp_el1", [ARM64_CORE_OFFSETS.sp_el1, KVM_REG_SIZE_U64]],
  ["elr_el1", [ARM64_CORE_OFFSETS.elr_el1, KVM_REG_SIZE_U64]],
  ["spsr", [ARM64_CORE_OFFSETS.spsr, KVM_REG_SIZE_U64]],
  ["fpsr", [ARM64_CORE_OFFSETS["fp_regs.fpsr"], KVM_REG_SIZE_U32]],
  ["fpcr", [ARM64_CORE_OFFSETS["fp_regs.fpcr"], KVM_REG_SIZE_U32]],
])

/**
 * Id of a core register for {@link VcpuFd.getOneReg}: `x0` to `x30`, `v0` to `v31`, `sp`, `pc`, …
 *
 * @throws {@link KvmError} `invalid-argument` for a name that is none
 * @see Documentation/virt/kvm/api.rst, 4.68
 *
 * @example
 * ```ts
 * import { arm64CoreReg } from "@ts-vmm/kvm-ioctls/arm64"
 *
 * vcpu.setOneReg(arm64CoreReg("pc"), new Uint8Array(new BigUint64Array([0x4008_0000n]).buffer))
 * ```
 */
export function arm64CoreReg(name: Arm64CoreReg): bigint {
  const [offset, size] = NAMED.get(name) ?? numbered(name)
  return KVM_REG_ARM64 | KVM_REG_ARM_CORE | size | BigInt(offset / 4)
}

function numbered(name: string): readonly [offset: number, size: bigint] {
  const [, bank, digits = ""] = /^([xv])(0|[1-9]\d?)$/.exec(name) ?? []
  const number = Number(digits)
  if (bank === "x" && number <= 30) return [ARM64_CORE_OFFSETS.regs + number * 8, KVM_REG_SIZE_U64]
  if (bank === "v" && number <= 31) return [ARM64_CORE_OFFSETS.fp_regs + number * 16, KVM_REG_SIZE_U128]
  throw invalidArgument(`arm64 has no core register ${name}`)
}

/** How an MRS or MSR instruction names a system register. */
export interface Arm64SysReg {
  readonly op0: number
  readonly op1: number
  readonly crn: number
  readonly crm: number
  readonly op2: number
}

/**
 * Id of a system register for {@link VcpuFd.getOneReg}.
 *
 * @throws {@link KvmError} `invalid-argument` for a field that is too large
 *
 * @example
 * ```ts
 * import { arm64SysReg } from "@ts-vmm/kvm-ioctls/arm64"
 *
 * const MPIDR_EL1 = arm64SysReg({ op0: 3, op1: 0, crn: 0, crm: 0, op2: 5 })
 * ```
 */
export function arm64SysReg({ op0, op1, crn, crm, op2 }: Arm64SysReg): bigint {
  return (
    KVM_REG_ARM64 |
    KVM_REG_ARM64_SYSREG |
    KVM_REG_SIZE_U64 |
    (field("op0", op0, 3) << KVM_REG_ARM64_SYSREG_OP0_SHIFT) |
    (field("op1", op1, 7) << KVM_REG_ARM64_SYSREG_OP1_SHIFT) |
    (field("crn", crn, 15) << KVM_REG_ARM64_SYSREG_CRN_SHIFT) |
    (field("crm", crm, 15) << KVM_REG_ARM64_SYSREG_CRM_SHIFT) |
    (field("op2", op2, 7) << KVM_REG_ARM64_SYSREG_OP2_SHIFT)
  )
}

function field(name: string, value: number, max: number): bigint {
  if (!(Number.isInteger(value) && value >= 0 && value <= max))
    throw invalidArgument(`${name} must be an integer from 0 to ${max}, not ${value}`)
  return BigInt(value)
}
