import { KVM_SYNC_X86_EVENTS, KVM_SYNC_X86_REGS, KVM_SYNC_X86_SREGS } from "../bindings/x86-64.js"
import { KVM_RUN_OFFSETS as AT } from "../structs/kvm-run.js"
import { type KvmSyncRegs, kvmSyncRegs } from "../structs/x86-64.js"

/** A class of registers in the page. */
export type SyncReg = "regs" | "sregs" | "events"

const BITS: Readonly<Record<SyncReg, number>> = {
  regs: KVM_SYNC_X86_REGS,
  sregs: KVM_SYNC_X86_SREGS,
  events: KVM_SYNC_X86_EVENTS,
}

/**
 * Registers in the page that `run` shares with the kernel (x86-64): classes that are `valid` are there after each exit,
 * classes that are `dirty` are taken from there at the next `run`.
 *
 * @see Documentation/virt/kvm/api.rst, KVM_CAP_SYNC_REGS
 */
export class SyncRegs {
  readonly #page: DataView
  readonly #bytes: Uint8Array

  /** @param page - the vCPU's whole mapping */
  constructor(page: DataView) {
    this.#page = page
    this.#bytes = new Uint8Array(page.buffer, page.byteOffset + AT["s.regs"], kvmSyncRegs.span)
  }

  /** What the page holds; classes that were not valid at the last exit are old. */
  get(): KvmSyncRegs {
    return kvmSyncRegs.decode(this.#bytes)
  }

  /** Writes the page. Takes effect with `setDirty`. */
  set(registers: KvmSyncRegs): void {
    kvmSyncRegs.encode(registers, this.#bytes)
  }

  /** Whether the kernel writes this class at each exit. */
  setValid(register: SyncReg, on: boolean): void {
    this.#setBit(AT.kvm_valid_regs, BITS[register], on)
  }

  /** Whether the kernel reads this class at the next `run`, after which it is not dirty any more. */
  setDirty(register: SyncReg, on: boolean): void {
    this.#setBit(AT.kvm_dirty_regs, BITS[register], on)
  }

  #setBit(offset: number, bit: number, on: boolean): void {
    const old = this.#page.getUint32(offset, true)
    this.#page.setUint32(offset, on ? old | bit : old & ~bit, true)
  }
}
