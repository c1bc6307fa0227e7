import { Cap, Kvm, type VcpuFd, type VmFd } from "@ts-vmm/kvm-ioctls"
import { IOAPIC_START } from "@ts-vmm/linux-loader"
import { ExitTable } from "@ts-vmm/native"
import { AdaptivePoll } from "@ts-vmm/virtio-devices"
import { VIRTIO_MMIO_WINDOW_SIZE } from "@ts-vmm/virtio-devices/mmio"
import type { MappedMemory } from "@ts-vmm/vm-memory/mmap"
import { IdAllocator } from "./allocators.js"
import { setUpLongMode, setUpPvh, setUpSecondary } from "./arch/x86-64/boot-state.js"
import { vcpuCpuid } from "./arch/x86-64/cpuid.js"
import { setUpFpu } from "./arch/x86-64/fpu.js"
import { createInterruptController, type InterruptController } from "./arch/x86-64/irqchip.js"
import { setUpLapic } from "./arch/x86-64/lapic.js"
import * as layout from "./arch/x86-64/layout.js"
import { setUpMsrs } from "./arch/x86-64/msrs.js"
import { writeResetVector } from "./arch/x86-64/reset-vector.js"
import { type BootEntry, loadGuest } from "./boot.js"
import { Bus } from "./bus.js"
import type { Cleanup } from "./cleanup.js"
import type { MachinePlan } from "./config.js"
import { placeDeviceMemory, showDeviceMemory } from "./device-memory.js"
import { LegacyDevices } from "./devices/legacy-devices.js"
import { VirtioSlot } from "./devices/virtio-slot.js"
import { type VirtioPlace, VirtioWindow } from "./devices/virtio-window.js"
import { VmmError } from "./errors.js"
import type { MachineEnd } from "./events.js"
import { createGuestRam, ramAtBoot } from "./guest-ram.js"

const MIB = 1024 * 1024
/** Console bytes that vCPU threads collect before a flood makes the guest wait. */
const SINK_SIZE = 64 * 1024
/** Cells of the exit table: the serial port's line status, then one interrupt status a device. */
const LINE_STATUS_CELL = 0

/** Without these the machine would work slowly or not at all; Linux has them since 4.12. */
const NEEDED_CAPS = ["Irqchip", "UserMemory", "Ioeventfd", "Irqfd", "ImmediateExit", "ExtCpuid"] as const

/** Who hears of what the hardware does. */
export interface HardwareHost {
  onConsole(bytes: Uint8Array): void
  onDeviceBroken(error: Error): void
  onEnd(reason: MachineEnd): void
}

/** The machine's parts, all set up for the first instruction. */
export interface Hardware {
  readonly memory: MappedMemory
  readonly vcpus: readonly VcpuFd[]
  readonly table: ExitTable
  readonly ports: Bus
  readonly mmio: Bus
  readonly interrupts: InterruptController
  readonly legacy: LegacyDevices
  /** Those of the machine's own devices first, then empty ones. */
  readonly slots: readonly VirtioSlot[]
}

/**
 * Builds a machine: VM, interrupt controller, RAM, devices, the guest in RAM, vCPUs. Whatever it made, also before
 * it throws, is undone by `cleanup`.
 *
 * @throws KvmError, SysError, LoaderError, VmmError
 */
export function buildHardware(plan: MachinePlan, host: HardwareHost, cleanup: Cleanup): Hardware {
  const kvm = cleanup.add(new Kvm(plan.kvmPath), kvm => kvm.close())
  checkCapabilities(kvm)
  const vm = cleanup.add(kvm.createVm(), vm => vm.close())
  vm.setTssAddress(layout.KVM_TSS_ADDRESS)
  vm.setIdentityMapAddress(layout.KVM_IDENTITY_MAP_ADDRESS)
  const interrupts = createInterruptController(vm, { kind: plan.irqchip })
  const ramSize = plan.memoryMiB * MIB
  const beside = placeDeviceMemory(layout.memoryRegions(ramSize), plan.devices)
  const ram = { shared: plan.sharedMemory, more: beside.ram }
  const memory = cleanup.add(createGuestRam(vm, ramSize, ram), memory => memory.close())
  showDeviceMemory(vm, beside, memory.regions.length)
  const ports = new Bus()
  const mmio = new Bus()
  if (interrupts.ioapicDevice)
    mmio.insert({ base: IOAPIC_START, size: layout.IOAPIC_SIZE }, interrupts.ioapicDevice)

  const places = placeDevices(plan.devices.length + plan.emptySlots)
  const table = createExitTable(places, interrupts, bytes => legacy.serialPort.serial.transmitted(bytes))
  const legacy = cleanup.add(
    new LegacyDevices({ vm, table, ports, memory, host, statusCell: LINE_STATUS_CELL }),
    one => one.close(),
  )
  const poll = new AdaptivePoll()
  const slotHost = { vm, memory, table, poll, onBroken: host.onDeviceBroken }
  const slots = places.map((place, index) => {
    const slot = cleanup.add(new VirtioSlot(place, slotHost), slot => slot.unplug())
    mmio.insert({ base: place.base, size: VIRTIO_MMIO_WINDOW_SIZE }, slot)
    const device = plan.devices[index]
    if (device) slot.plug(device)
    return slot
  })

  const told = ramAtBoot(memory, ramSize)
  const entry = loadGuest(told, plan, places)
  writeResetVector(told)
  const vcpus = createVcpus({ kvm, vm, plan, interrupts, cleanup })
  enterGuest(vcpus, told, entry)
  return { memory, vcpus, table, ports, mmio, interrupts, legacy, slots }
}

function checkCapabilities(kvm: Kvm): void {
  for (const name of NEEDED_CAPS) {
    if (kvm.checkExtension(Cap[name])) continue
    throw new VmmError("capability-missing", `this host's KVM lacks KVM_CAP_${name}`, { capability: name })
  }
}

/** @throws VmmError `exhausted` when there are more devices than interrupts */
function placeDevices(count: number): VirtioPlace[] {
  const gsis = new IdAllocator(layout.VIRTIO_GSI_FIRST, layout.VIRTIO_GSI_LAST)
  return Array.from({ length: count }, (_, index) => ({
    base: layout.VIRTIO_MMIO_BASE + index * layout.VIRTIO_MMIO_STEP,
    gsi: gsis.allocate(),
    cell: LINE_STATUS_CELL + 1 + index,
  }))
}

/** Whole from the start: a slot's rows are the same with and without a device. */
function createExitTable(
  places: readonly VirtioPlace[],
  interrupts: InterruptController,
  onBytes: (bytes: Uint8Array) => void,
): ExitTable {
  const rows = [
    ...LegacyDevices.rows(LINE_STATUS_CELL),
    ...ioapicRows(interrupts),
    ...places.flatMap(place => VirtioWindow.rows(place)),
  ]
  return new ExitTable({ rows, cells: 1 + places.length, sinkSize: SINK_SIZE, onBytes })
}

/** A userspace I/O APIC is JavaScript's; the one in the kernel never exits. */
function ioapicRows({ ioapicDevice }: InterruptController) {
  if (!ioapicDevice) return []
  const start = IOAPIC_START
  return [
    { space: "mmio", start, end: start + layout.IOAPIC_SIZE, read: "deliver", write: "deliver" } as const,
  ]
}

interface VcpuHost {
  readonly kvm: Kvm
  readonly vm: VmFd
  readonly plan: MachinePlan
  readonly interrupts: InterruptController
  readonly cleanup: Cleanup
}

function createVcpus({ kvm, vm, plan, interrupts, cleanup }: VcpuHost): VcpuFd[] {
  const supported = kvm.getSupportedCpuid()
  const tscDeadlineTimer = kvm.checkExtension(Cap.TscDeadlineTimer)
  return Array.from({ length: plan.cpus }, (_, vcpuIndex) => {
    const vcpu = cleanup.add(vm.createVcpu(vcpuIndex), vcpu => vcpu.close())
    const tscKhz = vcpu.getTscKhz()
    vcpu.setCpuid2(vcpuCpuid(supported, { vcpuIndex, vcpuCount: plan.cpus, tscDeadlineTimer, tscKhz }))
    setUpMsrs(vcpu)
    setUpFpu(vcpu)
    setUpLapic(vcpu, interrupts.hasPic)
    return vcpu
  })
}

function enterGuest([boot, ...others]: readonly VcpuFd[], memory: MappedMemory, entry: BootEntry): void {
  if (!boot) throw new VmmError("vcpu-count", "a machine needs a vCPU")
  if (entry.protocol === "pvh") setUpPvh(boot, entry)
  else setUpLongMode(boot, memory, entry)
  for (const vcpu of others) setUpSecondary(vcpu)
}
