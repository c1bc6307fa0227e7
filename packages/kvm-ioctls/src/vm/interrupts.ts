import { toFd, toU32, toU64 } from "../arguments.js"
import {
  KVM_IOEVENTFD_FLAG_DATAMATCH,
  KVM_IOEVENTFD_FLAG_DEASSIGN,
  KVM_IOEVENTFD_FLAG_PIO,
  KVM_IRQFD_FLAG_DEASSIGN,
  KVM_IRQFD_FLAG_RESAMPLE,
} from "../bindings/common.js"
import { KVM_IRQCHIP_IOAPIC } from "../bindings/x86-64.js"
import { invalidArgument } from "../errors.js"
import {
  KVM_CREATE_IRQCHIP,
  KVM_GET_IRQCHIP,
  KVM_IOEVENTFD,
  KVM_IRQ_LINE,
  KVM_IRQFD,
  KVM_SET_GSI_ROUTING,
  KVM_SET_IRQCHIP,
  KVM_SIGNAL_MSI,
} from "../ioctls/any-arch.js"
import { KVM_CREATE_PIT2, KVM_GET_PIT2, KVM_REINJECT_CONTROL, KVM_SET_PIT2 } from "../ioctls/x86-64.js"
import type { KvmMsi } from "../structs/any-arch.js"
import {
  type KvmIoapicState,
  type KvmPicState,
  type KvmPitState2,
  kvmIoapicState,
  kvmPicState,
  kvmReinjectControl,
} from "../structs/x86-64.js"
import { type IrqRoute, routingEntry } from "./irq-route.js"
import { VmMemory } from "./memory.js"

/** Where a guest writes to signal an eventfd. */
export interface IoEvent {
  readonly space: "mmio" | "pio"
  /** Guest-physical address, or port. */
  readonly address: number
  /**
   * Only writes of this size (and, with `value`, of this value) count. Left out: a write of any size and value, which
   * is also the fastest, as the kernel need not read what was written.
   */
  readonly datamatch?: { readonly size: 1 | 2 | 4 | 8; readonly value?: bigint | number }
}

/** See {@link VmInterrupts.registerIrqfd}. */
export interface IrqfdOptions {
  /** An eventfd that the kernel signals when the guest acknowledges the (level-triggered) interrupt. */
  readonly resampleFd?: number
}

/** State of one interrupt controller in the kernel. */
export type IrqchipState =
  | { readonly chip_id: 0 | 1; readonly pic: KvmPicState }
  | { readonly chip_id: typeof KVM_IRQCHIP_IOAPIC; readonly ioapic: KvmIoapicState }

/** The interrupts of a VM: controllers, eventfds, routes. Methods of {@link VmFd}. */
export abstract class VmInterrupts extends VmMemory {
  /**
   * Creates the interrupt controllers in the kernel: on x86 two PICs, an I/O APIC, and a local APIC for every vCPU
   * made from then on. Before the first vCPU. For the split kind, enable `Cap.SplitIrqchip` instead.
   *
   * @throws {@link KvmError} `ioctl` with `EEXIST`, `EINVAL` (there are vCPUs)
   * @see KVM_CREATE_IRQCHIP
   */
  createIrqChip(): void {
    this.call(KVM_CREATE_IRQCHIP)
  }

  /** @param chipId - `KVM_IRQCHIP_PIC_MASTER`, `_PIC_SLAVE` or `_IOAPIC` @see KVM_GET_IRQCHIP */
  getIrqchip(chipId: number): IrqchipState {
    const { chip } = this.exchangeStruct(KVM_GET_IRQCHIP, { chip_id: chipId, chip: new Uint8Array(512) })
    return chipId === KVM_IRQCHIP_IOAPIC
      ? { chip_id: KVM_IRQCHIP_IOAPIC, ioapic: kvmIoapicState.decode(chip) }
      : { chip_id: chipId as 0 | 1, pic: kvmPicState.decode(chip) }
  }

  /** @see KVM_SET_IRQCHIP */
  setIrqchip(state: IrqchipState): void {
    const chip =
      "ioapic" in state ? kvmIoapicState.toBytes(state.ioapic, 512) : kvmPicState.toBytes(state.pic, 512)
    this.writeStruct(KVM_SET_IRQCHIP, { chip_id: state.chip_id, chip })
  }

  /**
   * Creates an 8254 timer in the kernel.
   * @param flags - `KVM_PIT_SPEAKER_DUMMY`: answer port 0x61 too
   * @throws {@link KvmError} `ioctl` with `EEXIST`, `ENOENT` (no irqchip; older kernels do not mind)
   * @see KVM_CREATE_PIT2
   */
  createPit2(flags = 0): void {
    this.writeStruct(KVM_CREATE_PIT2, { flags: toU32("flags", flags) })
  }

  /** @see KVM_GET_PIT2 */
  getPit2(): KvmPitState2 {
    return this.readStruct(KVM_GET_PIT2)
  }

  /** @see KVM_SET_PIT2 */
  setPit2(state: KvmPitState2): void {
    this.writeStruct(KVM_SET_PIT2, state)
  }

  /** Whether ticks of the timer that the guest missed are given to it later. @see KVM_REINJECT_CONTROL */
  reinjectControl(reinject: boolean): void {
    this.call(KVM_REINJECT_CONTROL, kvmReinjectControl.toBytes({ pit_reinject: reinject ? 1 : 0 }))
  }

  /**
   * Raises or lowers an interrupt line of the controllers in the kernel. For a device use {@link registerIrqfd}.
   * @see KVM_IRQ_LINE
   */
  setIrqLine(irq: number, active: boolean): void {
    this.writeStruct(KVM_IRQ_LINE, { irq: toU32("irq", irq), level: active ? 1 : 0 })
  }

  /** Delivers a message-signalled interrupt. @returns vCPUs that got it; 0 when the guest blocked it @see KVM_SIGNAL_MSI */
  signalMsi(msi: KvmMsi): number {
    return this.writeStruct(KVM_SIGNAL_MSI, msi)
  }

  /**
   * Says where interrupts go, in place of all routes until then. An interrupt (`gsi`) may have several.
   * @param routes - at most 4096
   * @see KVM_SET_GSI_ROUTING
   */
  setGsiRouting(routes: readonly IrqRoute[]): void {
    this.writeArray(KVM_SET_GSI_ROUTING, routes.map(routingEntry))
  }

  /**
   * A guest's write signals `eventFd` and never stops the vCPU.
   *
   * @param eventFd - the caller's; the kernel keeps its own reference
   * @throws {@link KvmError} `ioctl` with `EEXIST` (this address, size and value are taken), `ENOSPC`
   * @see KVM_IOEVENTFD
   *
   * @example
   * ```ts
   * import { eventFd } from "@ts-vmm/native"
   *
   * const kick = eventFd()
   * vm.registerIoevent(kick, { space: "mmio", address: 0xd000_0050, datamatch: { size: 4, value: 0 } })
   * ```
   */
  registerIoevent(eventFd: number, event: IoEvent): void {
    this.writeStruct(KVM_IOEVENTFD, ioeventFields(eventFd, event, 0))
  }

  /** Undoes {@link registerIoevent} with the same arguments. @throws {@link KvmError} `ioctl` with `ENOENT` */
  unregisterIoevent(eventFd: number, event: IoEvent): void {
    this.writeStruct(KVM_IOEVENTFD, ioeventFields(eventFd, event, KVM_IOEVENTFD_FLAG_DEASSIGN))
  }

  /**
   * A signal of `eventFd` raises interrupt `gsi`: an edge, or, with `resampleFd`, a level that stays until the guest
   * acknowledges it and the kernel signals `resampleFd`.
   *
   * @throws {@link KvmError} `ioctl` with `EBUSY` (the eventfd is an irqfd already), `EINVAL` (no irqchip, gsi)
   * @see KVM_IRQFD
   */
  registerIrqfd(eventFd: number, gsi: number, { resampleFd }: IrqfdOptions = {}): void {
    const resample = resampleFd !== undefined
    this.writeStruct(KVM_IRQFD, {
      fd: toFd("eventFd", eventFd),
      gsi: toU32("gsi", gsi),
      flags: resample ? KVM_IRQFD_FLAG_RESAMPLE : 0,
      resamplefd: resample ? toFd("resampleFd", resampleFd) : 0,
    })
  }

  /** Undoes {@link registerIrqfd}. When it returns, no signal of the eventfd is under way. */
  unregisterIrqfd(eventFd: number, gsi: number): void {
    this.writeStruct(KVM_IRQFD, {
      fd: toFd("eventFd", eventFd),
      gsi: toU32("gsi", gsi),
      flags: KVM_IRQFD_FLAG_DEASSIGN,
      resamplefd: 0,
    })
  }
}

function ioeventFields(eventFd: number, { space, address, datamatch }: IoEvent, flags: number) {
  if (datamatch !== undefined && ![1, 2, 4, 8].includes(datamatch.size))
    throw invalidArgument(`datamatch.size must be 1, 2, 4 or 8, not ${datamatch.size}`)
  const match = datamatch?.value === undefined ? 0 : KVM_IOEVENTFD_FLAG_DATAMATCH
  const pio = space === "pio" ? KVM_IOEVENTFD_FLAG_PIO : 0
  return {
    datamatch: BigInt.asUintN(64, BigInt(datamatch?.value ?? 0)),
    addr: toU64("address", address),
    len: datamatch?.size ?? 0,
    fd: toFd("eventFd", eventFd),
    flags: flags | match | pio,
  }
}
