import type { GuestAddress } from "@ts-vmm/vm-memory"
import type { AcpiRegister } from "./generic-address.js"

/** The machine that ACPI tables describe. Interrupts are global system interrupts (GSIs). */
export interface AcpiMachine {
  /** The first one is the boot processor. Ids from 255 on are described as x2APICs. */
  readonly cpus: readonly { readonly apicId: number }[]
  readonly ioapic: {
    readonly id: number
    readonly address: GuestAddress
    /** GSI of its first input. */
    readonly gsiBase: number
  }
  /** Where an ISA interrupt is not the GSI of its own number; edge, active high. */
  readonly interruptOverrides?: readonly { readonly irq: number; readonly gsi: number }[]
  /** Windows of virtio-mmio devices below 4 GiB. */
  readonly virtioMmio: readonly AcpiWindow[]
  /** A 16550 at 8 ports. */
  readonly serial?: { readonly port: number; readonly gsi: number }
  /** Writing `value` there restarts the machine. */
  readonly resetRegister?: AcpiRegister & { readonly value: number }
  /** Registers of the hardware-reduced sleep protocol; power off needs them. */
  readonly sleep?: { readonly control: AcpiRegister; readonly status: AcpiRegister }
  /** An edge on this GSI is a press of the power button, after which an orderly guest shuts down. */
  readonly powerButton?: { readonly gsi: number }
  /** There is an i8042. Default false. */
  readonly hasI8042?: boolean
  /** There is a CMOS clock at ports 0x70 and 0x71. Default false. */
  readonly hasCmosRtc?: boolean
  /** Up to 6 characters. Default "TSVMM". */
  readonly oemId?: string
  /** Up to 8 characters. Default "MICROVM". */
  readonly oemTableId?: string
}

/** Registers of a memory-mapped device and its interrupt. */
export interface AcpiWindow {
  readonly base: GuestAddress
  readonly size: number
  readonly gsi: number
}

/** First value that the hardware-reduced sleep control register gets for S5: `SLP_TYP` of `\_S5`. */
export const SLEEP_TYPE_S5 = 5
