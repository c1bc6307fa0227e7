import { constants, openSync } from "node:fs"
import { toU32 } from "./arguments.js"
import { Cap } from "./bindings/cap.js"
import { KVM_API_VERSION } from "./bindings/common.js"
import { KvmError, openError } from "./errors.js"
import { isErrno, KvmFd } from "./fd.js"
import {
  KVM_CHECK_EXTENSION,
  KVM_CREATE_VM,
  KVM_GET_API_VERSION,
  KVM_GET_VCPU_MMAP_SIZE,
} from "./ioctls/any-arch.js"
import {
  KVM_GET_EMULATED_CPUID,
  KVM_GET_MSR_FEATURE_INDEX_LIST,
  KVM_GET_MSR_INDEX_LIST,
  KVM_GET_MSRS,
  KVM_GET_SUPPORTED_CPUID,
  KVM_GET_SUPPORTED_HV_CPUID,
  KVM_X86_GET_MCE_CAP_SUPPORTED,
} from "./ioctls/x86-64.js"
import type { KvmCpuidEntry2, KvmMsrEntry } from "./structs/x86-64.js"
import { VmFd } from "./vm.js"

/** Where Linux puts the KVM node. */
export const KVM_PATH = "/dev/kvm"

/** What the kernel assumes where it does not know the capability. @see api.rst, KVM_CHECK_EXTENSION */
const DEFAULT_NR_VCPUS = 4
const DEFAULT_NR_MEMSLOTS = 32
/** Entries to make room for at first. More than any processor has, and kvm_pvm refuses 256. */
const CPUID_GUESS = 80
const MSR_GUESS = 160

/**
 * The KVM system fd: what the host can do, and the way to a virtual machine.
 *
 * @example
 * ```ts
 * import { Cap, Kvm } from "@ts-vmm/kvm-ioctls"
 *
 * using kvm = new Kvm()
 * if (!kvm.checkExtension(Cap.Irqfd)) throw new Error("this kernel is too old")
 * using vm = kvm.createVm()
 * ```
 *
 * @see Documentation/virt/kvm/api.rst, "system ioctls"
 */
export class Kvm extends KvmFd {
  /**
   * Opens the node and checks that it is KVM.
   *
   * @param node - its path, or an fd that is already open on it, which is owned from now on, unless this throws
   * @throws {@link KvmError} `unavailable`: no such node, no permission, not KVM, another API version
   */
  constructor(node: string | { readonly fd: number } = KVM_PATH) {
    const [name, fd] = typeof node === "string" ? [node, openNode(node)] : [`fd ${node.fd}`, node.fd]
    super(fd)
    try {
      this.#checkVersion(name)
    } catch (error) {
      if (typeof node === "string") this.close()
      throw error
    }
  }

  /** Version of the API: 12, as every kernel since 2.6.22. @see KVM_GET_API_VERSION */
  getApiVersion(): number {
    return this.call(KVM_GET_API_VERSION)
  }

  /** Whether the host has a capability. @param cap - one of {@link Cap} @see KVM_CHECK_EXTENSION */
  checkExtension(cap: number): boolean {
    return this.checkExtensionInt(cap) > 0
  }

  /** What the host says of a capability: 0 is no, anything else depends on the capability. */
  checkExtensionInt(cap: number): number {
    return this.call(KVM_CHECK_EXTENSION, toU32("cap", cap))
  }

  /** Bytes of the mapping that {@link VcpuFd.run} shares with the kernel. @see KVM_GET_VCPU_MMAP_SIZE */
  getVcpuMmapSize(): number {
    return this.call(KVM_GET_VCPU_MMAP_SIZE)
  }

  /** vCPUs a VM should have at most, as the kernel recommends it. */
  getNrVcpus(): number {
    return this.checkExtensionInt(Cap.NrVcpus) || DEFAULT_NR_VCPUS
  }

  /** vCPUs a VM can have. */
  getMaxVcpus(): number {
    return this.checkExtensionInt(Cap.MaxVcpus) || this.getNrVcpus()
  }

  /** vCPU ids are below this. */
  getMaxVcpuId(): number {
    return this.checkExtensionInt(Cap.MaxVcpuId) || this.getMaxVcpus()
  }

  /** Memory slots a VM can have. */
  getNrMemslots(): number {
    return this.checkExtensionInt(Cap.NrMemslots) || DEFAULT_NR_MEMSLOTS
  }

  /** Bits of a guest-physical address (arm64), 0 where the kernel has one fixed size. */
  getHostIpaLimit(): number {
    return this.checkExtensionInt(Cap.ArmVmIPASize)
  }

  /** Hardware breakpoints and watchpoints that {@link VcpuFd.setGuestDebug} can use (arm64). */
  getGuestDebugHwBps(): number {
    return this.checkExtensionInt(Cap.DebugHwBps)
  }

  /** See {@link getGuestDebugHwBps}. */
  getGuestDebugHwWps(): number {
    return this.checkExtensionInt(Cap.DebugHwWps)
  }

  /** CPUID that hardware and KVM together can give a guest. @see KVM_GET_SUPPORTED_CPUID */
  getSupportedCpuid(): KvmCpuidEntry2[] {
    return this.readArray(KVM_GET_SUPPORTED_CPUID, CPUID_GUESS)
  }

  /** CPUID features that KVM emulates although the hardware lacks them. @see KVM_GET_EMULATED_CPUID */
  getEmulatedCpuid(): KvmCpuidEntry2[] {
    return this.readArray(KVM_GET_EMULATED_CPUID, CPUID_GUESS)
  }

  /** CPUID leaves 0x40000000 on for a Hyper-V guest. @see KVM_GET_SUPPORTED_HV_CPUID */
  getSupportedHvCpuid(): KvmCpuidEntry2[] {
    return this.readArray(KVM_GET_SUPPORTED_HV_CPUID, CPUID_GUESS)
  }

  /** MSRs that belong to a vCPU's state. @see KVM_GET_MSR_INDEX_LIST */
  getMsrIndexList(): number[] {
    return this.readArray(KVM_GET_MSR_INDEX_LIST, MSR_GUESS).map(({ value }) => value)
  }

  /** MSRs that say what the host can do, for {@link getMsrs}. @see KVM_GET_MSR_FEATURE_INDEX_LIST */
  getMsrFeatureIndexList(): number[] {
    return this.readArray(KVM_GET_MSR_FEATURE_INDEX_LIST, MSR_GUESS).map(({ value }) => value)
  }

  /**
   * Feature MSRs of the host. The kernel stops at the first that it does not know: the answer is shorter then.
   * @param indices - at most 256
   */
  getMsrs(indices: readonly number[]): KvmMsrEntry[] {
    const bytes = KVM_GET_MSRS.array.toBytes(indices.map(index => ({ index, data: 0n })))
    const count = this.call(KVM_GET_MSRS, bytes)
    return KVM_GET_MSRS.array.decode(bytes).slice(0, count)
  }

  /** Machine check features that {@link VcpuFd.setupMce} can be given. @see KVM_X86_GET_MCE_CAP_SUPPORTED */
  getMceCapSupported(): bigint {
    return this.readStruct(KVM_X86_GET_MCE_CAP_SUPPORTED).value
  }

  /**
   * A new virtual machine without memory or vCPUs.
   *
   * @param type - one of `KVM_X86_*_VM`; on arm64 the number of address bits. Default: the ordinary kind, with as many
   *   address bits as the host has
   * @throws {@link KvmError} `ioctl` with `EBUSY` (another hypervisor uses the processor), `EINVAL` (type), `ENOMEM`,
   *   `EMFILE`
   * @see KVM_CREATE_VM
   */
  createVm(type = this.#ordinaryType()): VmFd {
    const size = this.getVcpuMmapSize()
    return new VmFd(this.#createVmFd(toU32("type", type)), size)
  }

  #ordinaryType(): number {
    return process.arch === "arm64" ? this.getHostIpaLimit() : 0
  }

  /** A signal in the middle of it makes the kernel give up (EINTR): not a failure. */
  #createVmFd(type: number): number {
    for (let attempt = 1; ; attempt += 1) {
      try {
        return this.call(KVM_CREATE_VM, type)
      } catch (error) {
        if (!isErrno(error, "EINTR") || attempt === MOST_ATTEMPTS) throw error
      }
    }
  }

  #checkVersion(name: string): void {
    let version: number
    try {
      version = this.getApiVersion()
    } catch (cause) {
      throw new KvmError("unavailable", `${name} is not the KVM node`, { cause })
    }
    if (version !== KVM_API_VERSION)
      throw new KvmError("unavailable", `${name} speaks KVM API ${version}, not ${KVM_API_VERSION}`)
  }
}

/** Signals do not come faster than a VM is made. */
const MOST_ATTEMPTS = 5

function openNode(path: string): number {
  try {
    // Node adds O_CLOEXEC.
    return openSync(path, constants.O_RDWR)
  } catch (error) {
    throw openError(path, error as NodeJS.ErrnoException)
  }
}
