import type { VirtioDevice } from "@ts-vmm/virtio-devices"

/** The hypervisors a sandbox can ask for; `auto` takes the best one that works on this host. */
export type HypervisorName = "uml" | "kvm"

/** How UML keeps guest programs apart from the guest kernel; see docs/threat-model.md before choosing `seccomp`. */
export type UmlMode = "ptrace" | "seccomp"

/** Whether a hypervisor works here, found out by running a guest and not by looking at device nodes. */
export interface HypervisorProbe {
  readonly usable: boolean
  /** One line for a person: what works, or what does not and what to do about it. */
  readonly reason: string
}

/** Everything a hypervisor needs to start one machine. */
export interface MachineSpec {
  /** The sandbox's private folder: the only place where the machine makes files and sockets. */
  readonly directory: string
  /** Path of the initramfs, whose /init is the agent. */
  readonly initramfs: string
  /** RAM in MiB. */
  readonly memoryMiB: number
  /** Number of virtual CPUs. */
  readonly cpus: number
  /** RAM that other processes can map. Default: as the hypervisor likes. */
  readonly sharedMemory?: boolean
  /** In the order in which the guest shall find them. */
  readonly devices: readonly VirtioDevice[]
  /** Places for devices that come while the machine runs, if the hypervisor can do that; it may make fewer. Default 0. */
  readonly emptySlots?: number
  /** More kernel command line, already checked: one option an element, no white space. */
  readonly kernelArguments: readonly string[]
  /** A device stopped because the guest broke its protocol, or its server cannot go on. */
  readonly onDeviceError: (error: Error) => void
}

/** How a machine ended. */
export interface MachineExit {
  /** In a few words for a person: "code 1", "SIGKILL", "the guest powered off". */
  readonly how: string
}

/** Devices that come to a running machine, and go. */
export interface DeviceSlots {
  /**
   * Gives the machine one device more; it is the machine's until `unplug`, or the machine's end.
   * @returns guest address of its registers, by which the agent knows it
   * @throws SandboxError `invalid-argument` when there is no slot left
   */
  plug(device: VirtioDevice): number
  /** Takes a device away. Nothing touches guest memory for it once this resolves. */
  unplug(device: VirtioDevice): Promise<void>
}

/** A running machine. */
export interface Machine {
  /** Undefined where the hypervisor has no way to do that. */
  readonly slots?: DeviceSlots
  /** Host process id of the machine's outermost process; this one where the machine has none of its own. */
  readonly pid: number
  /** Settles once, when the machine has ended and nothing of it runs any more. Never rejects. */
  readonly exited: Promise<MachineExit>
  /** Called with every piece of the guest kernel's console output. */
  onConsole(listener: (chunk: Buffer) => void): void
  /** Ends the machine at once, whatever state it is in, and resolves when it has ended. */
  kill(): Promise<void>
}

/**
 * One way of running a guest kernel. A driver turns a {@link MachineSpec} into processes and device front
 * doors; it knows nothing of containers, images or the agent.
 */
export interface Hypervisor {
  readonly name: HypervisorName
  /** Runs a throw-away guest to see whether this works here. */
  probe(): Promise<HypervisorProbe>
  /**
   * Checks what this driver, or this host, cannot do, before anything is made.
   * @throws SandboxError `invalid-argument`, `hypervisor-unavailable`
   */
  check(spec: Pick<MachineSpec, "memoryMiB" | "cpus">): void
  /** Starts a machine. @throws SandboxError `hypervisor-unavailable`, `no-space` or `boot-failed` */
  start(spec: MachineSpec): Promise<Machine>
}
