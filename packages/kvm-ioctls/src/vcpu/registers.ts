import { AttributeFd } from "../device.js"
import { invalidArgument } from "../errors.js"
import { KVM_GET_ONE_REG, KVM_GET_REG_LIST, KVM_SET_ONE_REG } from "../ioctls/any-arch.js"
import {
  KVM_GET_DEBUGREGS,
  KVM_GET_FPU,
  KVM_GET_MSRS,
  KVM_GET_REGS,
  KVM_GET_SREGS,
  KVM_GET_SREGS2,
  KVM_GET_XCRS,
  KVM_GET_XSAVE,
  KVM_GET_XSAVE2,
  KVM_SET_DEBUGREGS,
  KVM_SET_FPU,
  KVM_SET_MSRS,
  KVM_SET_REGS,
  KVM_SET_SREGS,
  KVM_SET_SREGS2,
  KVM_SET_XCRS,
  KVM_SET_XSAVE,
} from "../ioctls/x86-64.js"
import type {
  KvmDebugregs,
  KvmFpu,
  KvmMsrEntry,
  KvmRegs,
  KvmSregs,
  KvmSregs2,
  KvmXcr,
} from "../structs/x86-64.js"

/** Bytes of struct kvm_xsave without what dynamic features add. */
const XSAVE_SIZE = 4096
/** KVM_GET_REG_LIST: arm64 has some 250 registers without SVE. */
const REG_LIST_GUESS = 512
const REG_SIZE_SHIFT = 52n

/**
 * The registers of a vCPU. All may be read and written while it does not run. Methods of {@link VcpuFd}.
 *
 * Each pair gives and takes a plain object with the kernel's names: `setRegs({ ...vcpu.getRegs(), rip: 0x1000n })`.
 */
export abstract class VcpuRegisters extends AttributeFd {
  /** General purpose registers. @see KVM_GET_REGS */
  getRegs(): KvmRegs {
    return this.readStruct(KVM_GET_REGS)
  }

  /** @see KVM_SET_REGS */
  setRegs(regs: KvmRegs): void {
    this.writeStruct(KVM_SET_REGS, regs)
  }

  /** Segment and control registers. @see KVM_GET_SREGS */
  getSregs(): KvmSregs {
    return this.readStruct(KVM_GET_SREGS)
  }

  /** @throws {@link KvmError} `ioctl` with `EINVAL` (values that contradict each other) @see KVM_SET_SREGS */
  setSregs(sregs: KvmSregs): void {
    this.writeStruct(KVM_SET_SREGS, sregs)
  }

  /** As {@link getSregs}, with the PDPTRs. @see KVM_GET_SREGS2 (Linux 5.14) */
  getSregs2(): KvmSregs2 {
    return this.readStruct(KVM_GET_SREGS2)
  }

  /** @see KVM_SET_SREGS2 */
  setSregs2(sregs: KvmSregs2): void {
    this.writeStruct(KVM_SET_SREGS2, sregs)
  }

  /** x87 and SSE registers. @see KVM_GET_FPU */
  getFpu(): KvmFpu {
    return this.readStruct(KVM_GET_FPU)
  }

  /** @see KVM_SET_FPU */
  setFpu(fpu: KvmFpu): void {
    this.writeStruct(KVM_SET_FPU, fpu)
  }

  /** The 4096 bytes of an XSAVE area. @see KVM_GET_XSAVE */
  getXsave(): Uint8Array {
    return this.readStruct(KVM_GET_XSAVE).region
  }

  /**
   * Sets what {@link getXsave} or {@link getXsave2} gave.
   * @param area - 4096 bytes, or more where dynamic features are on: as many as `getXsave2` gave
   * @see KVM_SET_XSAVE
   */
  setXsave(area: Uint8Array): void {
    if (area.length < XSAVE_SIZE)
      throw invalidArgument(`an XSAVE area has at least ${XSAVE_SIZE} bytes, not ${area.length}`)
    this.call(KVM_SET_XSAVE, area)
  }

  /**
   * The whole XSAVE area, also with dynamic features such as AMX.
   * @param size - `vm.checkExtensionInt(Cap.Xsave2)`, at least 4096
   * @see KVM_GET_XSAVE2 (Linux 5.17)
   */
  getXsave2(size: number): Uint8Array {
    if (!(Number.isInteger(size) && size >= XSAVE_SIZE))
      throw invalidArgument(`an XSAVE area has at least ${XSAVE_SIZE} bytes, not ${size}`)
    const area = new Uint8Array(size)
    this.call(KVM_GET_XSAVE2, area)
    return area
  }

  /** Extended control registers. @see KVM_GET_XCRS */
  getXcrs(): KvmXcr[] {
    const { nr_xcrs, xcrs } = this.readStruct(KVM_GET_XCRS)
    return xcrs.slice(0, nr_xcrs)
  }

  /** @param xcrs - at most 16 @see KVM_SET_XCRS */
  setXcrs(xcrs: readonly KvmXcr[]): void {
    if (xcrs.length > 16) throw invalidArgument(`there are at most 16 XCRs, not ${xcrs.length}`)
    const none = Array.from({ length: 16 - xcrs.length }, () => ({ xcr: 0, value: 0n }))
    this.writeStruct(KVM_SET_XCRS, { nr_xcrs: xcrs.length, flags: 0, xcrs: [...xcrs, ...none] })
  }

  /** The guest's own debug registers; a debugger uses {@link VcpuFd.setGuestDebug}. @see KVM_GET_DEBUGREGS */
  getDebugRegs(): KvmDebugregs {
    return this.readStruct(KVM_GET_DEBUGREGS)
  }

  /** @see KVM_SET_DEBUGREGS */
  setDebugRegs(registers: KvmDebugregs): void {
    this.writeStruct(KVM_SET_DEBUGREGS, registers)
  }

  /**
   * Model-specific registers. The kernel stops at the first that it does not have: the answer is shorter then.
   * @param indices - at most 256
   * @see KVM_GET_MSRS
   */
  getMsrs(indices: readonly number[]): KvmMsrEntry[] {
    const bytes = KVM_GET_MSRS.array.toBytes(indices.map(index => ({ index, data: 0n })))
    const count = this.call(KVM_GET_MSRS, bytes)
    return KVM_GET_MSRS.array.decode(bytes).slice(0, count)
  }

  /**
   * Sets MSRs in order and stops at the first that is refused.
   * @param entries - at most 256
   * @returns how many were set: compare it with `entries.length`
   * @see KVM_SET_MSRS
   */
  setMsrs(entries: readonly KvmMsrEntry[]): number {
    return this.writeArray(KVM_SET_MSRS, entries)
  }

  /** Ids for {@link getOneReg}. @see KVM_GET_REG_LIST (arm64; x86-64 since Linux 6.18) */
  getRegList(): bigint[] {
    return this.readArray(KVM_GET_REG_LIST, REG_LIST_GUESS).map(({ value }) => value)
  }

  /**
   * One register by its id: `size` bytes, little endian, where `size` is in the id.
   * @throws {@link KvmError} `ioctl` with `ENOENT` (no such register)
   * @see KVM_GET_ONE_REG
   */
  getOneReg(id: bigint): Uint8Array {
    const { bytes, address } = this.pointee(registerSize(id))
    this.writeStruct(KVM_GET_ONE_REG, { id, addr: address })
    return bytes.slice()
  }

  /** @param value - as many bytes as the id says @see KVM_SET_ONE_REG */
  setOneReg(id: bigint, value: Uint8Array): void {
    const size = registerSize(id)
    if (value.length !== size) throw invalidArgument(`register ${id} has ${size} bytes, not ${value.length}`)
    const { bytes, address } = this.pointee(size)
    bytes.set(value)
    this.writeStruct(KVM_SET_ONE_REG, { id, addr: address })
  }
}

/** KVM_REG_SIZE of linux/kvm.h. */
function registerSize(id: bigint): number {
  return 1 << Number((id >> REG_SIZE_SHIFT) & 15n)
}
