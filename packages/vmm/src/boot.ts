import { randomBytes } from "node:crypto"
import { closeSync, openSync } from "node:fs"
import {
  Cmdline,
  defaultMemoryMap,
  fileImage,
  IOAPIC_START,
  type KernelImage,
  type LoadedInitrd,
  type LoadedKernel,
  loadInitrd,
  loadKernel,
  rngSeed,
  writeAcpiTables,
  writeBootParams,
  writeMpTable,
  writePvhStartInfo,
} from "@ts-vmm/linux-loader"
import { VIRTIO_MMIO_WINDOW_SIZE } from "@ts-vmm/virtio-devices/mmio"
import type { GuestAddress, GuestMemory } from "@ts-vmm/vm-memory"
import { ACPI_POWER_PORT, COM1_GSI, COM1_PORT } from "./arch/x86-64/layout.js"
import type { MachinePlan } from "./config.js"
import type { VirtioPlace } from "./devices/virtio-window.js"
import { VmmError } from "./errors.js"
import {
  ACPI_RESET_VALUE,
  RESET_OFFSET,
  SLEEP_CONTROL_OFFSET,
  SLEEP_STATUS_OFFSET,
} from "./superio/acpi-power.js"

/** Bytes of entropy that the kernel gets at boot: what its generator takes as a full seed. */
const SEED_SIZE = 64

/** Where the boot CPU starts, and with what. */
export type BootEntry =
  | { readonly protocol: "linux"; readonly entry: GuestAddress; readonly bootParams: GuestAddress }
  | { readonly protocol: "pvh"; readonly entry: GuestAddress; readonly startInfo: GuestAddress }

/**
 * Loads the kernel and the initial RAM disk, and writes everything that the kernel is told.
 *
 * @throws LoaderError for an image or a command line that is refused; VmmError `config-invalid` for a file that
 * cannot be opened, or a kernel without the entry asked for
 */
export function loadGuest(memory: GuestMemory, plan: MachinePlan, places: readonly VirtioPlace[]): BootEntry {
  const kernel = withImage(plan.kernel, "kernel", image => loadKernel(memory, image))
  const initrd =
    plan.initramfs === undefined
      ? undefined
      : withImage(plan.initramfs, "initramfs", image => loadInitrd(memory, image, kernel))
  return enterKernel(memory, plan, { kernel, initrd, places })
}

interface Loaded {
  readonly kernel: LoadedKernel
  readonly initrd: LoadedInitrd | undefined
  readonly places: readonly VirtioPlace[]
}

function enterKernel(memory: GuestMemory, plan: MachinePlan, { kernel, initrd, places }: Loaded): BootEntry {
  const { cmdline, rsdpAddress } = describeDevices(memory, plan, places)
  const told = {
    cmdline,
    memoryMap: defaultMemoryMap(memory),
    ...(initrd ? { initrd } : {}),
    ...(rsdpAddress === undefined ? {} : { rsdpAddress }),
  }
  if (plan.protocol === "linux") {
    const setupData = [rngSeed(randomBytes(SEED_SIZE))]
    const bootParams = writeBootParams(memory, { ...told, kernel, setupData })
    return { protocol: "linux", entry: kernel.entry, bootParams }
  }
  if (kernel.pvhEntry === undefined)
    throw new VmmError("config-invalid", `the ${kernel.format} kernel has no PVH entry: use protocol linux`)
  return { protocol: "pvh", entry: kernel.pvhEntry, startInfo: writePvhStartInfo(memory, told) }
}

/** What the kernel is told of CPUs, interrupts and devices. */
function describeDevices(
  memory: GuestMemory,
  plan: MachinePlan,
  places: readonly VirtioPlace[],
): { cmdline: Cmdline; rsdpAddress?: GuestAddress } {
  const cmdline = new Cmdline(plan.cmdline)
  const cpus = Array.from({ length: plan.cpus }, (_, apicId) => ({ apicId }))
  // Ids of I/O APICs and local APICs share one space.
  const ioapic = { id: plan.cpus, address: IOAPIC_START, gsiBase: 0 }
  if (plan.description === "cmdline") {
    writeMpTable(memory, { cpus, ioapic })
    for (const { base, gsi } of places)
      cmdline.addVirtioMmioDevice({ size: VIRTIO_MMIO_WINDOW_SIZE, base, irq: gsi })
    return { cmdline }
  }
  const register = (offset: number) => ({ space: "io" as const, address: ACPI_POWER_PORT + offset })
  const { rsdpAddress } = writeAcpiTables(memory, {
    cpus,
    ioapic,
    virtioMmio: places.map(({ base, gsi }) => ({ base, size: VIRTIO_MMIO_WINDOW_SIZE, gsi })),
    serial: { port: COM1_PORT, gsi: COM1_GSI },
    resetRegister: { ...register(RESET_OFFSET), value: ACPI_RESET_VALUE },
    sleep: { control: register(SLEEP_CONTROL_OFFSET), status: register(SLEEP_STATUS_OFFSET) },
    hasI8042: true,
    hasCmosRtc: true,
  })
  return { cmdline, rsdpAddress }
}

function withImage<T>(image: string | KernelImage, what: string, use: (image: KernelImage) => T): T {
  if (typeof image !== "string") return use(image)
  const fd = openImage(image, what)
  try {
    return use(fileImage(fd))
  } finally {
    closeSync(fd)
  }
}

function openImage(path: string, what: string): number {
  try {
    return openSync(path, "r")
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException
    throw new VmmError("config-invalid", `the ${what} ${path} cannot be opened (${code})`, {}, { cause })
  }
}
