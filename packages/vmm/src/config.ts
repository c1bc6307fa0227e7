import type { KernelImage } from "@ts-vmm/linux-loader"
import { isExternalDevice, type VirtioDevice } from "@ts-vmm/virtio-devices"
import type { InterruptControllerKind } from "./arch/x86-64/irqchip.js"
import { MAX_MEMORY_SIZE, MAX_VCPUS, MIN_MEMORY_SIZE } from "./arch/x86-64/layout.js"
import { VmmError } from "./errors.js"

/**
 * How the boot CPU enters the kernel: `linux` is the 64-bit boot protocol, which every image has that this
 * package loads; `pvh` the 32-bit entry of an ELF image with a PVH note.
 */
export type BootProtocol = "linux" | "pvh"

/**
 * How the kernel learns of CPUs, interrupts and virtio-mmio devices: `cmdline` an MP table and
 * `virtio_mmio.device=` options, for kernels with CONFIG_X86_MPPARSE and CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES;
 * `acpi` hardware-reduced ACPI tables, which distribution kernels understand.
 */
export type DeviceDescription = "cmdline" | "acpi"

/** What a machine is made of. */
export interface MachineConfig {
  /** The kernel: path of a file, or an image. */
  readonly kernel: string | KernelImage
  /** The initial RAM disk: path of a file, or an image. */
  readonly initramfs?: string | KernelImage
  /** Kernel command line. The machine adds only what describes its devices. Default empty. */
  readonly cmdline?: string
  /** RAM in MiB, 64 to 1,048,576. Pages take host memory when the guest first touches them. */
  readonly memoryMiB: number
  /**
   * RAM in memfds that other processes, such as vhost-user back ends, can map. Default: only if one of `devices` is served
   * by another process, and memory of this process alone otherwise.
   */
  readonly sharedMemory?: boolean
  /** Number of vCPUs, 1 to 32. Default 1. */
  readonly cpus?: number
  /** In the order in which the guest shall find them; at most 19. They are the machine's from here on. */
  readonly devices?: readonly VirtioDevice[]
  /**
   * Places for devices that come later (`MicroVm.plug`), behind those of `devices`; 19 at most, both together. The guest
   * is told of them at boot and finds them empty. Default 0.
   */
  readonly emptySlots?: number
  /** Default `linux`. */
  readonly protocol?: BootProtocol
  /** Default `acpi`: every kernel that this machine can boot at all understands it. */
  readonly description?: DeviceDescription
  /** Default `full`. `split` takes the PIC, the I/O APIC and the PIT out of the host kernel; it needs `acpi`. */
  readonly irqchip?: InterruptControllerKind
  /** Path of the KVM node. Default /dev/kvm. */
  readonly kvmPath?: string
}

/** {@link MachineConfig} with every default filled in, checked. */
export type MachinePlan = Required<Omit<MachineConfig, "initramfs" | "kvmPath">> &
  Pick<MachineConfig, "initramfs" | "kvmPath">

const MIB = 1024 * 1024

/** @throws VmmError `memory-size`, `vcpu-count`, `config-invalid` */
export function checkConfig(config: MachineConfig): MachinePlan {
  const { memoryMiB, cpus = 1, description = "acpi", irqchip = "full", protocol = "linux" } = config
  if (
    !(Number.isInteger(memoryMiB) && memoryMiB * MIB >= MIN_MEMORY_SIZE && memoryMiB * MIB <= MAX_MEMORY_SIZE)
  )
    throw new VmmError(
      "memory-size",
      `guest memory of ${memoryMiB} MiB is not supported: ${MIN_MEMORY_SIZE / MIB} to ${MAX_MEMORY_SIZE / MIB}`,
      { memoryMiB },
    )
  if (!(Number.isInteger(cpus) && cpus >= 1 && cpus <= MAX_VCPUS))
    throw new VmmError("vcpu-count", `${cpus} vCPUs are not supported: 1 to ${MAX_VCPUS}`, { cpus })
  checkWord("protocol", protocol, ["linux", "pvh"])
  checkWord("description", description, ["cmdline", "acpi"])
  checkWord("irqchip", irqchip, ["full", "split"])
  if (irqchip === "split" && description !== "acpi")
    throw new VmmError(
      "config-invalid",
      "a split interrupt controller has no PIC, which only ACPI can tell a kernel: use description acpi",
    )
  const { devices = [], cmdline = "", emptySlots = 0 } = config
  const { sharedMemory = devices.some(isServedByProcess) } = config
  if (!(Number.isInteger(emptySlots) && emptySlots >= 0))
    throw new VmmError("config-invalid", `emptySlots is ${emptySlots}: use a whole number`, { emptySlots })
  return { ...config, cpus, description, irqchip, protocol, devices, cmdline, emptySlots, sharedMemory }
}

function isServedByProcess(device: VirtioDevice): boolean {
  return isExternalDevice(device) && device.servedBy === "process"
}

function checkWord(option: string, value: string, allowed: readonly string[]): void {
  if (allowed.includes(value)) return
  throw new VmmError("config-invalid", `${option} is "${value}": use ${allowed.join(" or ")}`)
}
