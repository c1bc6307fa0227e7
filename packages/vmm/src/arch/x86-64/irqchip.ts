import { Cap, KVM_PIT_SPEAKER_DUMMY, type VmFd } from "@ts-vmm/kvm-ioctls"
import type { BusDevice } from "../../bus.js"
import { IoApic, type IoApicKvm } from "./io-apic.js"
import { IOAPIC_PINS } from "./layout.js"

/** `full`: PIC, I/O APIC, PIT and local APICs in the kernel. `split`: only the local APICs. */
export type InterruptControllerKind = "full" | "split"

/**
 * Where interrupts of the machine go. A device's interrupt is an eventfd that the machine registered with
 * `KVM_IRQFD` for a GSI: that works the same with both kinds.
 */
export interface InterruptController {
  readonly kind: InterruptControllerKind
  /** Whether there are a PIC and a PIT, which decides LINT0 and what ACPI's MADT says. */
  readonly hasPic: boolean
  /** Split only: the I/O APIC's registers, for the memory bus. */
  readonly ioapicDevice?: BusDevice
  /**
   * Interrupt from a device that has no eventfd, as an edge.
   * @param gsi - 0 to 23
   * @throws KvmError `ioctl`
   */
  raise(gsi: number): void
  /** Split only: answers KVM_EXIT_IOAPIC_EOI. @param vector - the vector that a CPU acknowledged */
  onEoi?(vector: number): void
}

/** The part of a VM that interrupt controllers need. */
export type InterruptVm = Pick<VmFd, "createIrqChip" | "createPit2" | "enableCap" | "setIrqLine"> & IoApicKvm

/**
 * Creates the machine's interrupt controller. Has to come before the first vCPU.
 *
 * - `full` is what every guest can use: KVM has PIC, I/O APIC and PIT (with a dummy for port 0x61, so that
 *   reading the speaker does not leave the kernel).
 * - `split` keeps interrupt delivery in the kernel and takes PIC, I/O APIC and PIT out of it: less kernel
 *   surface for the guest. The I/O APIC is {@link IoApic}; there is no PIC and no PIT, which a guest learns
 *   from ACPI (hardware-reduced, no PCAT_COMPAT in the MADT). Its clock is the local APIC timer with kvmclock.
 *
 * @throws KvmError `ioctl`
 * @see KVM API, "KVM_CREATE_IRQCHIP", "KVM_CREATE_PIT2", "KVM_CAP_SPLIT_IRQCHIP"
 *
 * @example
 * ```ts
 * import { IOAPIC_START } from "@ts-vmm/linux-loader"
 * import { createInterruptController, IOAPIC_SIZE } from "@ts-vmm/vmm"
 *
 * const interrupts = createInterruptController(vm, { kind: "split" })
 * memoryBus.insert({ base: IOAPIC_START, size: IOAPIC_SIZE }, interrupts.ioapicDevice!)
 * ```
 */
export function createInterruptController(
  vm: InterruptVm,
  { kind }: { readonly kind: InterruptControllerKind },
): InterruptController {
  return kind === "full" ? createFull(vm) : createSplit(vm)
}

function createFull(vm: InterruptVm): InterruptController {
  vm.createIrqChip()
  vm.createPit2(KVM_PIT_SPEAKER_DUMMY)
  return {
    kind: "full",
    hasPic: true,
    raise: gsi => {
      vm.setIrqLine(gsi, true)
      vm.setIrqLine(gsi, false)
    },
  }
}

function createSplit(vm: InterruptVm): InterruptController {
  vm.enableCap(Cap.SplitIrqchip, [IOAPIC_PINS])
  const ioapic = new IoApic(vm)
  return {
    kind: "split",
    hasPic: false,
    ioapicDevice: ioapic,
    raise: gsi => ioapic.raise(gsi),
    onEoi: vector => ioapic.endOfInterrupt(vector),
  }
}
