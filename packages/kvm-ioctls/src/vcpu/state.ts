import { toU32 } from "../arguments.js"
import { invalidArgument } from "../errors.js"
import {
  KVM_GET_MP_STATE,
  KVM_INTERRUPT,
  KVM_SET_MP_STATE,
  KVM_SET_SIGNAL_MASK,
  KVM_TRANSLATE,
} from "../ioctls/any-arch.js"
import {
  KVM_GET_CPUID2,
  KVM_GET_LAPIC,
  KVM_GET_NESTED_STATE,
  KVM_GET_SUPPORTED_HV_CPUID,
  KVM_GET_TSC_KHZ,
  KVM_GET_VCPU_EVENTS,
  KVM_KVMCLOCK_CTRL,
  KVM_NMI,
  KVM_SET_CPUID2,
  KVM_SET_GUEST_DEBUG,
  KVM_SET_LAPIC,
  KVM_SET_NESTED_STATE,
  KVM_SET_TSC_KHZ,
  KVM_SET_VAPIC_ADDR,
  KVM_SET_VCPU_EVENTS,
  KVM_SMI,
  KVM_TPR_ACCESS_REPORTING,
  KVM_X86_SET_MCE,
  KVM_X86_SETUP_MCE,
} from "../ioctls/x86-64.js"
import type { KvmMpState, KvmTranslation } from "../structs/any-arch.js"
import {
  KVM_NESTED_STATE_MAX_SIZE,
  type KvmCpuidEntry2,
  type KvmLapicState,
  type KvmVcpuEvents,
  type KvmX86Mce,
  kvmNestedState,
} from "../structs/x86-64.js"
import { VcpuRegisters } from "./registers.js"

const CPUID_GUESS = 80

/** See {@link VcpuState.setGuestDebug}. */
export interface GuestDebug {
  /** `KVM_GUESTDBG_*`; 0 ends debugging. */
  readonly control: number
  /** DR0 to DR7, with `KVM_GUESTDBG_USE_HW_BP`; 4 and 5 mean nothing. Default all 0. */
  readonly debugreg?: readonly bigint[]
}

/** What a vCPU is, and what happens to it beside its registers. Methods of {@link VcpuFd}. */
export abstract class VcpuState extends VcpuRegisters {
  /**
   * What CPUID says in the guest. Before the first `run`; afterwards only the same again.
   * @param entries - at most 256
   * @see KVM_SET_CPUID2
   */
  setCpuid2(entries: readonly KvmCpuidEntry2[]): void {
    this.writeArray(KVM_SET_CPUID2, entries)
  }

  /** @see KVM_GET_CPUID2 */
  getCpuid2(): KvmCpuidEntry2[] {
    // Kernels before 6.2 leave the count as it was.
    return this.readUncountedArray(KVM_GET_CPUID2, CPUID_GUESS)
  }

  /** CPUID leaves for a Hyper-V guest, as this vCPU can have them. @see KVM_GET_SUPPORTED_HV_CPUID */
  getSupportedHvCpuid(): KvmCpuidEntry2[] {
    return this.readArray(KVM_GET_SUPPORTED_HV_CPUID, CPUID_GUESS)
  }

  /** The local APIC's registers. @throws {@link KvmError} `ioctl` with `EINVAL` (no irqchip) @see KVM_GET_LAPIC */
  getLapic(): KvmLapicState {
    return this.readStruct(KVM_GET_LAPIC)
  }

  /** @see KVM_SET_LAPIC */
  setLapic(state: KvmLapicState): void {
    this.writeStruct(KVM_SET_LAPIC, state)
  }

  /** Whether it runs, halts or waits to be started. @see KVM_GET_MP_STATE */
  getMpState(): KvmMpState {
    return this.readStruct(KVM_GET_MP_STATE)
  }

  /** @see KVM_SET_MP_STATE */
  setMpState(state: KvmMpState): void {
    this.writeStruct(KVM_SET_MP_STATE, state)
  }

  /** Exceptions, interrupts and NMIs under way. @see KVM_GET_VCPU_EVENTS */
  getVcpuEvents(): KvmVcpuEvents {
    return this.readStruct(KVM_GET_VCPU_EVENTS)
  }

  /** @see KVM_SET_VCPU_EVENTS */
  setVcpuEvents(events: KvmVcpuEvents): void {
    this.writeStruct(KVM_SET_VCPU_EVENTS, events)
  }

  /** Injects a hardware interrupt, in a VM without interrupt controllers. @param irq - vector @see KVM_INTERRUPT */
  interrupt(irq: number): void {
    this.writeStruct(KVM_INTERRUPT, { irq: toU32("irq", irq) })
  }

  /** Queues a non-maskable interrupt. @see KVM_NMI */
  nmi(): void {
    this.call(KVM_NMI)
  }

  /** Queues a system management interrupt. @see KVM_SMI */
  smi(): void {
    this.call(KVM_SMI)
  }

  /** Single steps and breakpoints, which become exits `debug`. @see KVM_SET_GUEST_DEBUG */
  setGuestDebug({ control, debugreg = [] }: GuestDebug): void {
    const arch = Array.from({ length: 8 }, (_, index) => debugreg[index] ?? 0n)
    this.writeStruct(KVM_SET_GUEST_DEBUG, { control: toU32("control", control), arch })
  }

  /** What a guest-virtual address means at the moment. @see KVM_TRANSLATE */
  translateGva(address: bigint): KvmTranslation {
    const nothing = { physical_address: 0n, valid: 0, writeable: 0, usermode: 0 }
    return this.exchangeStruct(KVM_TRANSLATE, { linear_address: address, ...nothing })
  }

  /** Rate of the guest's TSC in kHz. @see KVM_GET_TSC_KHZ */
  getTscKhz(): number {
    return this.call(KVM_GET_TSC_KHZ)
  }

  /** @throws {@link KvmError} `ioctl` with `EINVAL` (this processor cannot scale so far) @see KVM_SET_TSC_KHZ */
  setTscKhz(khz: number): void {
    this.call(KVM_SET_TSC_KHZ, toU32("khz", khz))
  }

  /**
   * Tells a guest with kvmclock that it was paused, so that its watchdogs do not bark.
   * @throws {@link KvmError} `ioctl` with `EINVAL` (the guest has no kvmclock)
   * @see KVM_KVMCLOCK_CTRL
   */
  kvmclockCtrl(): void {
    this.call(KVM_KVMCLOCK_CTRL)
  }

  /** State of nested virtualization: the bytes of struct kvm_nested_state. @see KVM_GET_NESTED_STATE */
  getNestedState(): Uint8Array {
    const head = { flags: 0, format: 0, size: KVM_NESTED_STATE_MAX_SIZE, hdr: new Uint8Array(120) }
    const state = kvmNestedState.toBytes(head, KVM_NESTED_STATE_MAX_SIZE)
    this.call(KVM_GET_NESTED_STATE, state)
    return state.slice(0, kvmNestedState.decode(state).size)
  }

  /** @throws {@link KvmError} `invalid-argument` when the size in `state` is not its own @see KVM_SET_NESTED_STATE */
  setNestedState(state: Uint8Array): void {
    const claimed = state.length >= kvmNestedState.span ? kvmNestedState.decode(state).size : Number.NaN
    if (!(claimed >= kvmNestedState.span && claimed <= state.length))
      throw invalidArgument(`a nested state of ${state.length} bytes says that it has ${claimed}`)
    this.call(KVM_SET_NESTED_STATE, state)
  }

  /**
   * Switches machine checks on.
   * @param mcgCap - MCG_CAP: the number of banks, 1 to 32, and features of {@link Kvm.getMceCapSupported}
   * @see KVM_X86_SETUP_MCE
   */
  setupMce(mcgCap: bigint): void {
    this.writeStruct(KVM_X86_SETUP_MCE, { value: mcgCap })
  }

  /** Injects a machine check. @see KVM_X86_SET_MCE */
  setMce(mce: KvmX86Mce): void {
    this.writeStruct(KVM_X86_SET_MCE, mce)
  }

  /** Exits `tpr-access` on access to the task priority register. @see KVM_TPR_ACCESS_REPORTING */
  setTprAccessReporting(enabled: boolean): void {
    this.writeStruct(KVM_TPR_ACCESS_REPORTING, { enabled: enabled ? 1 : 0, flags: 0 })
  }

  /** Guest-physical address of the shared part of the local APIC. @see KVM_SET_VAPIC_ADDR */
  setVapicAddr(address: bigint): void {
    this.writeStruct(KVM_SET_VAPIC_ADDR, { vapic_addr: address })
  }

  /**
   * Signals blocked while it runs, in place of the thread's own mask.
   * @param mask - bit n - 1 of the kernel's 64-bit set: signal n
   * @see KVM_SET_SIGNAL_MASK
   */
  setSignalMask(mask: bigint): void {
    const bits = new Uint8Array(new BigUint64Array([mask]).buffer)
    this.writeArray(
      KVM_SET_SIGNAL_MASK,
      Array.from(bits, value => ({ value })),
    )
  }
}
