import { ioctl, Mapping } from "@ts-vmm/native"
import { enableCapFields, toU64 } from "./arguments.js"
import { KVM_DIRTY_LOG_PAGE_OFFSET, KVM_EXIT_MEMORY_FAULT } from "./bindings/common.js"
import { invalidArgument, ioctlError, KvmError } from "./errors.js"
import { decodeExit, INTR_EXIT, type VcpuExit } from "./exit.js"
import { isSysErrno } from "./fd.js"
import { KVM_ENABLE_CAP, KVM_GET_STATS_FD, KVM_PRE_FAULT_MEMORY, KVM_RUN } from "./ioctls/any-arch.js"
import { KVM_RUN_OFFSETS } from "./structs/kvm-run.js"
import type { KvmSyncRegs } from "./structs/x86-64.js"
import { Arm64Vcpu } from "./vcpu/arm64.js"
import { CoalescedRing, type CoalescedWrite } from "./vcpu/coalesced-ring.js"
import { DirtyRing } from "./vcpu/dirty-ring.js"
import { VcpuState } from "./vcpu/state.js"
import { type SyncReg, SyncRegs } from "./vcpu/sync-regs.js"

const PAGE_SIZE = 4096

/**
 * A virtual processor. Registers are in {@link VcpuRegisters}, the rest of its state in {@link VcpuState}: all are
 * methods of this class.
 *
 * ```
 *   createVcpu ---> set registers ---> run() ---> exit: read, answer ---> run() ...
 *                                       |  ^
 *                                       '--'- { reason: "intr" }: a signal, or setImmediateExit(true)
 * ```
 *
 * While `run` is under way, in this thread or a native one, nothing else here may be called.
 *
 * @example
 * ```ts
 * vcpu.setRegs({ ...vcpu.getRegs(), rip: 0x1000n, rflags: 2n })
 * const exit = vcpu.run()
 * if (exit.reason === "io" && exit.direction === "out") process.stdout.write(exit.data)
 * ```
 *
 * @see Documentation/virt/kvm/api.rst, "vcpu ioctls"
 */
export class VcpuFd extends VcpuState {
  /** The kvm_run page, what follows it, and their fd. Whoever runs the vCPU may read and write it between runs. */
  readonly runMapping: Mapping
  /** What is particular to arm64. */
  readonly arm64: Arm64Vcpu
  readonly #page: DataView
  readonly #sync: SyncRegs
  readonly #coalesced: CoalescedRing

  /**
   * @param fd - of a vCPU; owned from now on, unless this throws
   * @param runSize - {@link Kvm.getVcpuMmapSize}
   */
  constructor(fd: number, runSize: number) {
    super(fd)
    this.runMapping = mapRun(fd, runSize)
    this.#page = new DataView(this.runMapping.buffer)
    this.#sync = new SyncRegs(this.#page)
    this.#coalesced = new CoalescedRing(this.#page)
    this.arm64 = new Arm64Vcpu({
      read: request => this.readStruct(request),
      write: (request, value) => void this.writeStruct(request, value),
    })
  }

  /**
   * Runs the guest in this thread until it needs something. Blocks, also for ever: a guest that computes never comes
   * back, and one that waits for an interrupt does not either. A VMM uses {@link VcpuThread}.
   *
   * @throws {@link KvmError} `ioctl` when the kernel cannot run it; `EINTR` and `EAGAIN` are exits `intr`
   * @see KVM_RUN
   */
  run(): VcpuExit {
    const { fd } = this
    if (fd === -1) throw new KvmError("closed", "KVM_RUN on a closed fd")
    try {
      ioctl(fd, KVM_RUN.number)
    } catch (error) {
      return this.#failedRun(error)
    }
    return decodeExit(this.#page)
  }

  /** The page's own words, for a vCPU that another thread ran. */
  decodeExit(): VcpuExit {
    return decodeExit(this.#page)
  }

  /** The next `run`, or the one under way at its next entry, ends at once with exit `intr`. @see KVM_CAP_IMMEDIATE_EXIT */
  setImmediateExit(on: boolean): void {
    this.#page.setUint8(KVM_RUN_OFFSETS.immediate_exit, on ? 1 : 0)
  }

  /** Exit `irq-window-open` as soon as the guest can take an interrupt (without a local APIC in the kernel). */
  setRequestInterruptWindow(on: boolean): void {
    this.#page.setUint8(KVM_RUN_OFFSETS.request_interrupt_window, on ? 1 : 0)
  }

  /** Whether {@link interrupt} would be taken now. */
  get readyForInterruptInjection(): boolean {
    return this.#page.getUint8(KVM_RUN_OFFSETS.ready_for_interrupt_injection) !== 0
  }

  /** Whether the guest's interrupt flag was set at the last exit. */
  get interruptFlag(): boolean {
    return this.#page.getUint8(KVM_RUN_OFFSETS.if_flag) !== 0
  }

  /** `KVM_RUN_X86_*` at the last exit. */
  get runFlags(): number {
    return this.#page.getUint16(KVM_RUN_OFFSETS.flags, true)
  }

  /** Registers as the page has them: those that {@link setSyncValidReg} asked for, at the last exit. */
  syncRegs(): KvmSyncRegs {
    return this.#sync.get()
  }

  /** Writes the page. Takes effect with {@link setSyncDirtyReg}. */
  setSyncRegs(registers: KvmSyncRegs): void {
    this.#sync.set(registers)
  }

  /** Every exit brings this class of registers, without a request of its own. @see KVM_CAP_SYNC_REGS */
  setSyncValidReg(register: SyncReg): void {
    this.#sync.setValid(register, true)
  }

  /** Undoes {@link setSyncValidReg}. */
  clearSyncValidReg(register: SyncReg): void {
    this.#sync.setValid(register, false)
  }

  /** The next `run` takes this class of registers from the page. */
  setSyncDirtyReg(register: SyncReg): void {
    this.#sync.setDirty(register, true)
  }

  /** Undoes {@link setSyncDirtyReg}. */
  clearSyncDirtyReg(register: SyncReg): void {
    this.#sync.setDirty(register, false)
  }

  /**
   * The next write to a coalesced zone, oldest first; undefined when there is none. The ring is one for all vCPUs of a
   * VM. Empty it at every exit, or the order of these writes and of others is lost.
   *
   * @see {@link VmMemory.registerCoalescedMmio}
   */
  coalescedMmioRead(): CoalescedWrite | undefined {
    return this.#coalesced.read()
  }

  /**
   * The ring of dirty pages, mapped; the caller's to close.
   * @param size - bytes, as `Cap.DirtyLogRing` was enabled with
   * @see KVM_CAP_DIRTY_LOG_RING
   */
  mapDirtyRing(size: number): DirtyRing {
    if (!(Number.isInteger(size) && size >= PAGE_SIZE && (size & (size - 1)) === 0))
      throw invalidArgument(`a dirty ring has a power of two of at least ${PAGE_SIZE} bytes, not ${size}`)
    const offset = KVM_DIRTY_LOG_PAGE_OFFSET * PAGE_SIZE
    try {
      return new DirtyRing(Mapping.mapDevice({ fd: this.fd, offset, size }))
    } catch (error) {
      throw ioctlError("mmap", error)
    }
  }

  /** Switches a capability of this vCPU on. @see KVM_ENABLE_CAP */
  enableCap(cap: number, args: readonly (bigint | number)[] = [], flags = 0): void {
    this.writeStruct(KVM_ENABLE_CAP, enableCapFields(cap, args, flags))
  }

  /**
   * Backs guest-physical memory before the guest touches it.
   * @returns bytes that are left when a signal came
   * @see KVM_PRE_FAULT_MEMORY (Linux 6.11)
   */
  preFaultMemory(guestAddress: number, size: number): number {
    const range = { gpa: toU64("guestAddress", guestAddress), size: toU64("size", size), flags: 0n }
    return Number(this.exchangeStruct(KVM_PRE_FAULT_MEMORY, range).size)
  }

  /** An fd that reads the vCPU's statistics; the caller's to close. @see KVM_GET_STATS_FD (Linux 5.14) */
  getStatsFd(): number {
    return this.call(KVM_GET_STATS_FD)
  }

  /** Closes fd and mapping. Nobody may run the vCPU any more. */
  override close(): void {
    super.close()
    this.runMapping.close()
  }

  #failedRun(error: unknown): VcpuExit {
    if (isSysErrno(error, "EINTR", "EAGAIN")) return INTR_EXIT
    const reason = this.#page.getUint32(KVM_RUN_OFFSETS.exit_reason, true)
    // The one exit that comes with an error.
    if (isSysErrno(error, "EFAULT", "EHWPOISON") && reason === KVM_EXIT_MEMORY_FAULT)
      return decodeExit(this.#page)
    throw ioctlError(KVM_RUN.name, error)
  }
}

function mapRun(fd: number, size: number): Mapping {
  try {
    return Mapping.mapDevice({ fd, offset: 0, size })
  } catch (error) {
    throw ioctlError("mmap", error)
  }
}
