import { guestArtifacts } from "@ts-vmm/guest/artifacts"
import type { MachineConfig, MicroVm } from "@ts-vmm/vmm"
import { SandboxError } from "../../errors.js"
import type { Hypervisor, HypervisorProbe, Machine, MachineSpec } from "../hypervisor.js"
import { kvmCommandLine } from "./command-line.js"
import { asSandboxError } from "./errors.js"
import { KvmMachine } from "./kvm-machine.js"
import { probeKvm } from "./probe.js"

/** Below this the guest kernel and the agent do not fit. */
const MIN_MEMORY_MIB = 64
const MAX_CPUS = 32
/** One pin of the I/O APIC each. */
const MAX_DEVICES = 19
const KERNEL = "linux-kvm-x86_64"

/** Options of {@link KvmHypervisor}. */
export interface KvmOptions {
  /** Path of an x86-64 kernel (vmlinux or bzImage); default is the one in `@ts-vmm/guest`. */
  readonly kernel?: string
}

/**
 * Runs the guest in a microVM of this process, on KVM. Hardware keeps the guest in; the devices that it talks
 * to are this process's.
 */
export class KvmHypervisor implements Hypervisor {
  readonly name = "kvm"
  readonly #givenKernel: string | undefined

  constructor(options: KvmOptions = {}) {
    this.#givenKernel = options.kernel
  }

  probe(): Promise<HypervisorProbe> {
    return probeKvm()
  }

  check({ memoryMiB, cpus }: Pick<MachineSpec, "memoryMiB" | "cpus">): void {
    if (memoryMiB < MIN_MEMORY_MIB)
      throw new SandboxError(
        "invalid-argument",
        `memory of ${memoryMiB} MiB is too small: a guest needs at least ${MIN_MEMORY_MIB} MiB`,
      )
    if (cpus > MAX_CPUS)
      throw new SandboxError(
        "invalid-argument",
        `the kvm hypervisor runs at most ${MAX_CPUS} virtual CPUs, not ${cpus}`,
      )
  }

  async start(spec: MachineSpec): Promise<Machine> {
    this.check(spec)
    // Loaded when a machine is made: programs that run on another hypervisor do not pay for it.
    const { MicroVm } = await import("@ts-vmm/vmm")
    try {
      const vm = await MicroVm.create(this.#config(spec))
      vm.on("deviceBroken", spec.onDeviceError)
      return launch(vm)
    } catch (error) {
      throw asSandboxError(error as Error)
    }
  }

  #config(spec: MachineSpec): MachineConfig {
    const { initramfs, memoryMiB, sharedMemory = false, cpus, devices } = spec
    const kernel = this.#givenKernel ?? guestArtifacts().kernel(KERNEL)
    const emptySlots = Math.max(0, Math.min(spec.emptySlots ?? 0, MAX_DEVICES - devices.length))
    const cmdline = kvmCommandLine(spec)
    return { kernel, initramfs, memoryMiB, sharedMemory, cpus, devices, emptySlots, cmdline }
  }
}

/** The caller listens for console output before the first instruction runs. */
function launch(vm: MicroVm): Machine {
  const machine = new KvmMachine(vm)
  setImmediate(() => vm.state === "created" && vm.start())
  return machine
}
