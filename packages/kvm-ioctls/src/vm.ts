import { closeFd } from "@ts-vmm/native"
import { enableCapFields, toU32, toU64 } from "./arguments.js"
import { KVM_CREATE_DEVICE_TEST } from "./bindings/common.js"
import { DeviceFd } from "./device.js"
import { invalidArgument } from "./errors.js"
import { isErrno } from "./fd.js"
import {
  KVM_CHECK_EXTENSION,
  KVM_CREATE_DEVICE,
  KVM_CREATE_VCPU,
  KVM_ENABLE_CAP,
  KVM_GET_CLOCK,
  KVM_GET_STATS_FD,
  KVM_MEMORY_ENCRYPT_OP,
  KVM_MEMORY_ENCRYPT_REG_REGION,
  KVM_MEMORY_ENCRYPT_UNREG_REGION,
  KVM_SET_BOOT_CPU_ID,
  KVM_SET_CLOCK,
} from "./ioctls/any-arch.js"
import { KVM_ARM_PREFERRED_TARGET } from "./ioctls/arm64.js"
import {
  KVM_GET_TSC_KHZ,
  KVM_HYPERV_EVENTFD,
  KVM_SET_IDENTITY_MAP_ADDR,
  KVM_SET_PMU_EVENT_FILTER,
  KVM_SET_TSC_KHZ,
  KVM_SET_TSS_ADDR,
  KVM_X86_SET_MSR_FILTER,
  KVM_XEN_HVM_CONFIG,
} from "./ioctls/x86-64.js"
import type { KvmClockData } from "./structs/any-arch.js"
import type { KvmVcpuInit } from "./structs/arm64.js"
import { type KvmXenHvmConfig, kvmSevCmd } from "./structs/x86-64.js"
import { VcpuFd } from "./vcpu.js"
import { VmInterrupts } from "./vm/interrupts.js"
import { type MsrFilter, msrFilterFields, msrFilterSize } from "./vm/msr-filter.js"

/** Which performance events a guest may count. */
export interface PmuEventFilter {
  /** `KVM_PMU_EVENT_ALLOW` or `KVM_PMU_EVENT_DENY`. */
  readonly action: number
  /** At most 300, in the processor's encoding. */
  readonly events: readonly bigint[]
  /** Bit n: fixed counter n. Default 0. */
  readonly fixedCounterBitmap?: number
  /** `KVM_PMU_EVENT_FLAG_*`. Default 0. */
  readonly flags?: number
}

/** A SEV command; `data` is the address of its structure, in memory with a `hostAddress`. */
export interface SevCommand {
  readonly id: number
  readonly data: bigint
  readonly sevFd: number
}

/**
 * A virtual machine. Memory is in {@link VmMemory}, interrupts in {@link VmInterrupts}: all are methods of this class.
 *
 * Only the process that made a VM can use it.
 *
 * @example
 * ```ts
 * import { Kvm } from "@ts-vmm/kvm-ioctls"
 * import { Mapping } from "@ts-vmm/native"
 *
 * using kvm = new Kvm()
 * using ram = Mapping.create({ name: "ram", size: 0x10000 })
 * using vm = kvm.createVm()
 * vm.setUserMemoryRegion({ slot: 0, guestAddress: 0, size: ram.size, hostAddress: ram.hostAddress })
 * using vcpu = vm.createVcpu(0)
 * ```
 *
 * @see Documentation/virt/kvm/api.rst, "vm ioctls"
 */
export class VmFd extends VmInterrupts {
  readonly #vcpuMmapSize: number

  /** @internal Use {@link Kvm.createVm}. */
  constructor(fd: number, vcpuMmapSize: number) {
    super(fd)
    this.#vcpuMmapSize = vcpuMmapSize
  }

  /** Bytes of the mapping that each vCPU has. */
  get runSize(): number {
    return this.#vcpuMmapSize
  }

  /** As {@link Kvm.checkExtension}, for this VM, where that differs. @see KVM_CAP_CHECK_EXTENSION_VM */
  checkExtension(cap: number): boolean {
    return this.checkExtensionInt(cap) > 0
  }

  /** As {@link Kvm.checkExtensionInt}, for this VM. */
  checkExtensionInt(cap: number): number {
    return this.call(KVM_CHECK_EXTENSION, toU32("cap", cap))
  }

  /**
   * Switches a capability on.
   * @param args - at most four, as the capability defines them
   * @throws {@link KvmError} `ioctl` with `EINVAL`
   * @see KVM_ENABLE_CAP
   */
  enableCap(cap: number, args: readonly (bigint | number)[] = [], flags = 0): void {
    this.writeStruct(KVM_ENABLE_CAP, enableCapFields(cap, args, flags))
  }

  /** A new vCPU. @param id - on x86 its APIC id @throws {@link KvmError} `ioctl` with `EEXIST`, `EINVAL`, `EMFILE` */
  createVcpu(id: number): VcpuFd {
    const fd = this.call(KVM_CREATE_VCPU, toU32("id", id))
    return openOrClose(fd, () => new VcpuFd(fd, this.#vcpuMmapSize))
  }

  /** The id of the first vCPU to run. Default 0; before any vCPU is made. @see KVM_SET_BOOT_CPU_ID */
  setBootCpuId(id: number): void {
    this.call(KVM_SET_BOOT_CPU_ID, toU32("id", id))
  }

  /**
   * A device inside the kernel.
   * @param type - `KVM_DEV_TYPE_*`
   * @param flags - `KVM_CREATE_DEVICE_*` but for `_TEST`: see {@link testDevice}
   * @throws {@link KvmError} `ioctl` with `ENODEV` (not supported here), `EEXIST`; `invalid-argument`
   * @see KVM_CREATE_DEVICE
   */
  createDevice(type: number, flags = 0): DeviceFd {
    // A test makes no device, and the fd in its answer means nothing.
    if ((flags & KVM_CREATE_DEVICE_TEST) !== 0)
      throw invalidArgument("a test makes no device: use testDevice")
    return new DeviceFd(this.exchangeStruct(KVM_CREATE_DEVICE, { type, fd: 0, flags }).fd)
  }

  /** Whether {@link createDevice} could make a device of this type. @param type - `KVM_DEV_TYPE_*` */
  testDevice(type: number): boolean {
    try {
      this.writeStruct(KVM_CREATE_DEVICE, { type, fd: 0, flags: KVM_CREATE_DEVICE_TEST })
      return true
    } catch (error) {
      if (isErrno(error, "ENODEV", "EEXIST")) return false
      throw error
    }
  }

  /** Three pages below 4 GiB that no memory slot has, for the processor's own use (Intel). @see KVM_SET_TSS_ADDR */
  setTssAddress(address: number): void {
    this.call(KVM_SET_TSS_ADDR, toU64("address", address))
  }

  /** One more such page. Before the first vCPU. @see KVM_SET_IDENTITY_MAP_ADDR */
  setIdentityMapAddress(address: number): void {
    this.writeStruct(KVM_SET_IDENTITY_MAP_ADDR, { value: toU64("address", address) })
  }

  /** The clock that kvmclock shows guests. @see KVM_GET_CLOCK */
  getClock(): KvmClockData {
    return this.readStruct(KVM_GET_CLOCK)
  }

  /** Sets the clock, to go on from a snapshot. `flags` may hold `KVM_CLOCK_REALTIME` only. @see KVM_SET_CLOCK */
  setClock(clock: KvmClockData): void {
    this.writeStruct(KVM_SET_CLOCK, clock)
  }

  /** TSC rate in kHz of vCPUs made from then on. @see KVM_SET_TSC_KHZ */
  setTscKhz(khz: number): void {
    this.call(KVM_SET_TSC_KHZ, toU32("khz", khz))
  }

  /** @see KVM_GET_TSC_KHZ */
  getTscKhz(): number {
    return this.call(KVM_GET_TSC_KHZ)
  }

  /**
   * Which MSRs the guest may use. What is refused raises #GP in the guest, or, with `Cap.X86UserSpaceMsr` enabled,
   * becomes an exit `x86-rdmsr` or `x86-wrmsr`.
   * @throws {@link KvmError} `invalid-argument` for more than 16 ranges or a bitmap of the wrong size
   * @see KVM_X86_SET_MSR_FILTER
   */
  setMsrFilter(filter: MsrFilter): void {
    const { bytes, address } = this.pointee(msrFilterSize(filter))
    this.writeStruct(KVM_X86_SET_MSR_FILTER, msrFilterFields(filter, bytes, address))
  }

  /** @see KVM_SET_PMU_EVENT_FILTER */
  setPmuEventFilter({ action, events, fixedCounterBitmap = 0, flags = 0 }: PmuEventFilter): void {
    const elements = events.map(value => ({ value }))
    this.writeArray(KVM_SET_PMU_EVENT_FILTER, elements, {
      action,
      flags,
      fixed_counter_bitmap: fixedCounterBitmap,
    })
  }

  /** Answers Xen's hypercall page. @see KVM_XEN_HVM_CONFIG */
  xenHvmConfig(config: KvmXenHvmConfig): void {
    this.writeStruct(KVM_XEN_HVM_CONFIG, config)
  }

  /** Hyper-V's signal-event hypercall on connection `connId` signals an eventfd; -1 undoes it. @see KVM_HYPERV_EVENTFD */
  hypervEventfd(connId: number, eventFd: number): void {
    const off = eventFd < 0
    this.writeStruct(KVM_HYPERV_EVENTFD, { conn_id: connId, fd: off ? 0 : eventFd, flags: off ? 1 : 0 })
  }

  /**
   * A command of SEV or TDX; `command` is the structure that the kernel reads and writes.
   * @see KVM_MEMORY_ENCRYPT_OP
   */
  encryptOp(command: Uint8Array): void {
    this.call(KVM_MEMORY_ENCRYPT_OP, command)
  }

  /** A SEV command. @returns the firmware's error code, 0 for none @see struct kvm_sev_cmd */
  encryptOpSev({ id, data, sevFd }: SevCommand): number {
    const bytes = kvmSevCmd.toBytes({ id, data, error: 0, sev_fd: sevFd })
    this.encryptOp(bytes)
    return kvmSevCmd.decode(bytes).error
  }

  /** Pins memory that is encrypted. @see KVM_MEMORY_ENCRYPT_REG_REGION */
  registerEncMemoryRegion(hostAddress: bigint, size: number): void {
    this.writeStruct(KVM_MEMORY_ENCRYPT_REG_REGION, { addr: hostAddress, size: toU64("size", size) })
  }

  /** @see KVM_MEMORY_ENCRYPT_UNREG_REGION */
  unregisterEncMemoryRegion(hostAddress: bigint, size: number): void {
    this.writeStruct(KVM_MEMORY_ENCRYPT_UNREG_REGION, { addr: hostAddress, size: toU64("size", size) })
  }

  /** What {@link VcpuFd.vcpuInit} is given on this machine (arm64). @see KVM_ARM_PREFERRED_TARGET */
  getPreferredTarget(): KvmVcpuInit {
    return this.readStruct(KVM_ARM_PREFERRED_TARGET)
  }

  /** An fd that reads the VM's statistics; the caller's to close. @see KVM_GET_STATS_FD (Linux 5.14) */
  getStatsFd(): number {
    return this.call(KVM_GET_STATS_FD)
  }
}

/** An fd must not be lost when what should own it cannot be made. */
function openOrClose<T>(fd: number, make: () => T): T {
  try {
    return make()
  } catch (error) {
    closeFd(fd)
    throw error
  }
}
