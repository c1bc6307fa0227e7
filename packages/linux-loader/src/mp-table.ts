import type { GuestAddress, GuestMemory } from "@ts-vmm/vm-memory"
import { sum8 } from "./acpi/checksum.js"
import { LoaderError } from "./errors.js"
import { IOAPIC_START, LAPIC_START, MP_TABLE_END, MP_TABLE_START } from "./layout.js"
import { writeTable } from "./placement.js"

/** MultiProcessor Specification 1.4, chapter 4 */
const FLOATING_POINTER_SIZE = 16
const HEADER_SIZE = 44
const PROCESSOR_SIZE = 20
const ENTRY_SIZE = 8
const ENTRY = { processor: 0, bus: 1, ioapic: 2, ioInterrupt: 3, localInterrupt: 4 } as const
const INTERRUPT = { int: 0, nmi: 1, extInt: 3 } as const
const SPEC_REVISION = 4
const CPU_ENABLED = 1
const CPU_BOOTSTRAP = 2
const LAPIC_VERSION = 0x14
const IOAPIC_VERSION = 0x11
const IOAPIC_ENABLED = 1
const CPU_FEATURE_FPU_AND_APIC = 0x201
const CPU_SIGNATURE = 0x600
const ISA_BUS = 0
const ALL_LOCAL_APICS = 0xff
const DEFAULT_PINS = 24

/** Processors and interrupt controllers of a machine whose kernel has no ACPI. */
export interface MpTable {
  /** The first one is the boot processor. */
  readonly cpus: readonly { readonly apicId: number }[]
  readonly ioapic: {
    /** Differs from every CPU's id. */
    readonly id: number
    /** Default `IOAPIC_START`. */
    readonly address?: GuestAddress
    /** Inputs, each an ISA interrupt of the same number. Default 24. */
    readonly pins?: number
  }
}

/**
 * Writes the MP floating pointer and configuration table where kernels look for them: the CPUs, one I/O APIC,
 * and an ISA bus whose interrupt n (edge, active high) is the I/O APIC's input n. Virtio-mmio devices of the
 * command line get their interrupts through it.
 *
 * @returns `address` of the floating pointer, `end` of the table
 * @throws LoaderError `invalid-argument` (a number that does not fit 8 bits, no CPU), `table-no-room`
 * @see MultiProcessor Specification 1.4
 *
 * @example
 * ```ts
 * writeMpTable(memory, { cpus: [{ apicId: 0 }, { apicId: 1 }], ioapic: { id: 2 } })
 * ```
 */
export function writeMpTable(
  memory: GuestMemory,
  table: MpTable,
): { address: GuestAddress; end: GuestAddress } {
  const bytes = encodeMpTable(table)
  writeTable(memory, MP_TABLE_START, MP_TABLE_END, bytes)
  return { address: MP_TABLE_START, end: MP_TABLE_START + bytes.length }
}

/** Floating pointer and table as they lie at `MP_TABLE_START`. */
function encodeMpTable({ cpus, ioapic }: MpTable): Uint8Array {
  const { id, address = IOAPIC_START, pins = DEFAULT_PINS } = ioapic
  requireBytes([id, pins - 1, ...cpus.map(({ apicId }) => apicId)])
  if (cpus.length === 0 || cpus.some(({ apicId }) => apicId === id))
    throw new LoaderError("invalid-argument", { need: id }, "no CPU, or one with the id of the I/O APIC")
  const entries = [
    ...cpus.map(({ apicId }, i) => processor(apicId, i === 0)),
    Uint8Array.of(ENTRY.bus, ISA_BUS, ...Buffer.from("ISA   ")),
    Uint8Array.of(ENTRY.ioapic, id, IOAPIC_VERSION, IOAPIC_ENABLED, ...u32(address)),
    // Flags 0: polarity and trigger as on the bus, which for ISA is active high and edge.
    ...Array.from({ length: pins }, (_, pin) =>
      Uint8Array.of(ENTRY.ioInterrupt, INTERRUPT.int, 0, 0, ISA_BUS, pin, id, pin),
    ),
    Uint8Array.of(ENTRY.localInterrupt, INTERRUPT.extInt, 0, 0, ISA_BUS, 0, cpus[0]!.apicId, 0),
    Uint8Array.of(ENTRY.localInterrupt, INTERRUPT.nmi, 0, 0, ISA_BUS, 0, ALL_LOCAL_APICS, 1),
  ]
  const size = HEADER_SIZE + cpus.length * PROCESSOR_SIZE + (entries.length - cpus.length) * ENTRY_SIZE
  return Buffer.concat([floatingPointer(), header(size, entries), ...entries])
}

function floatingPointer(): Uint8Array {
  const bytes = new Uint8Array(FLOATING_POINTER_SIZE)
  bytes.set(Buffer.from("_MP_"))
  bytes.set(u32(MP_TABLE_START + FLOATING_POINTER_SIZE), 4)
  bytes[8] = FLOATING_POINTER_SIZE / 16
  bytes[9] = SPEC_REVISION
  bytes[10] = sum8(bytes)
  return bytes
}

function header(size: number, entries: readonly Uint8Array[]): Uint8Array {
  const bytes = new Uint8Array(HEADER_SIZE)
  const view = new DataView(bytes.buffer)
  bytes.set(Buffer.from("PCMP"))
  view.setUint16(4, size, true)
  bytes[6] = SPEC_REVISION
  bytes.set(Buffer.from("TS-VMM  MICROVM     "), 8)
  view.setUint16(34, entries.length, true)
  view.setUint32(36, LAPIC_START, true)
  bytes[7] = sum8(bytes, ...entries)
  return bytes
}

function processor(apicId: number, isBoot: boolean): Uint8Array {
  const bytes = new Uint8Array(PROCESSOR_SIZE)
  bytes.set([ENTRY.processor, apicId, LAPIC_VERSION, CPU_ENABLED | (isBoot ? CPU_BOOTSTRAP : 0)])
  bytes.set(u32(CPU_SIGNATURE), 4)
  bytes.set(u32(CPU_FEATURE_FPU_AND_APIC), 8)
  return bytes
}

function requireBytes(values: readonly number[]): void {
  const wrong = values.find(value => !(Number.isInteger(value) && value >= 0 && value < ALL_LOCAL_APICS))
  if (wrong !== undefined)
    throw new LoaderError("invalid-argument", { need: wrong, have: ALL_LOCAL_APICS }, "MP table")
}

function u32(value: number): Uint8Array {
  const bytes = new Uint8Array(4)
  new DataView(bytes.buffer).setUint32(0, value, true)
  return bytes
}
