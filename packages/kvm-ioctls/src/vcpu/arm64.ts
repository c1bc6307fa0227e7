import * as arm64 from "../ioctls/arm64.js"
import type { StructRequest } from "../ioctls/request.js"
import type { KvmGuestDebugArchArm64, KvmVcpuEventsArm64, KvmVcpuInit } from "../structs/arm64.js"

/** How {@link Arm64Vcpu} reaches the vCPU's fd. @internal */
export interface StructAccess {
  read<T>(request: StructRequest<T>): T
  write<T>(request: StructRequest<T>, value: T): void
}

const NO_DEBUG: KvmGuestDebugArchArm64 = {
  dbg_bcr: Array(16).fill(0n),
  dbg_bvr: Array(16).fill(0n),
  dbg_wcr: Array(16).fill(0n),
  dbg_wvr: Array(16).fill(0n),
}

/**
 * What a vCPU has on arm64 only, or in another form there. Its registers are read and written one by one:
 * {@link VcpuFd.getOneReg} with the ids of {@link arm64CoreReg} and {@link arm64SysReg}.
 */
export class Arm64Vcpu {
  readonly #access: StructAccess

  /** @internal Use {@link VcpuFd.arm64}. */
  constructor(access: StructAccess) {
    this.#access = access
  }

  /** Makes it a processor of this kind. Before anything else. @see KVM_ARM_VCPU_INIT */
  vcpuInit(init: KvmVcpuInit): void {
    this.#access.write(arm64.KVM_ARM_VCPU_INIT, init)
  }

  /** Ends the configuration of a feature. @param feature - `KVM_ARM_VCPU_SVE` @see KVM_ARM_VCPU_FINALIZE */
  vcpuFinalize(feature: number): void {
    this.#access.write(arm64.KVM_ARM_VCPU_FINALIZE, { value: feature })
  }

  /** SErrors under way. @see KVM_GET_VCPU_EVENTS */
  getVcpuEvents(): KvmVcpuEventsArm64 {
    return this.#access.read(arm64.KVM_GET_VCPU_EVENTS)
  }

  /** @see KVM_SET_VCPU_EVENTS */
  setVcpuEvents(events: KvmVcpuEventsArm64): void {
    this.#access.write(arm64.KVM_SET_VCPU_EVENTS, events)
  }

  /** @param control - `KVM_GUESTDBG_*` @see KVM_SET_GUEST_DEBUG */
  setGuestDebug(control: number, arch: KvmGuestDebugArchArm64 = NO_DEBUG): void {
    this.#access.write(arm64.KVM_SET_GUEST_DEBUG, { control, arch })
  }
}
