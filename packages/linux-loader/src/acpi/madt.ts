import { LAPIC_START } from "../layout.js"
import type { AcpiMachine } from "./machine.js"
import { acpiTable, type OemIds, requireUnsigned } from "./table.js"

/** ACPI 6.3, 5.2.12 */
const MADT_REVISION = 5
const ENABLED = 1
/** Local APIC ids from here on, and processor ids of 255, need the x2APIC structure. */
const FIRST_X2APIC_ID = 255
const ALL_PROCESSORS = 0xff
const ISA_BUS = 0
/** Polarity 01 (active high), trigger mode 01 (edge). */
const EDGE_ACTIVE_HIGH = 0b0101
const TYPE = {
  localApic: 0,
  ioApic: 1,
  interruptOverride: 2,
  localApicNmi: 4,
  localX2Apic: 9,
  localX2ApicNmi: 10,
}

/** Processors and interrupt controllers. */
export function madt(machine: AcpiMachine, oem: OemIds): Uint8Array {
  const { cpus, ioapic, interruptOverrides = [] } = machine
  const structures = [
    ...cpus.map(({ apicId }, uid) => processor(apicId, uid)),
    structure(TYPE.ioApic, [8, ioapic.id], [8, 0], [32, ioapic.address], [32, ioapic.gsiBase]),
    ...interruptOverrides.map(({ irq, gsi }) =>
      structure(TYPE.interruptOverride, [8, ISA_BUS], [8, irq], [32, gsi], [16, EDGE_ACTIVE_HIGH]),
    ),
    structure(TYPE.localApicNmi, [8, ALL_PROCESSORS], [16, EDGE_ACTIVE_HIGH], [8, 1]),
    ...(cpus.some(({ apicId }) => apicId >= FIRST_X2APIC_ID)
      ? [structure(TYPE.localX2ApicNmi, [16, EDGE_ACTIVE_HIGH], [32, 0xffff_ffff], [8, 1], [8, 0], [16, 0])]
      : []),
  ]
  // Flags 0: no pair of 8259s that would have to be masked.
  return acpiTable(
    "APIC",
    MADT_REVISION,
    oem,
    Buffer.concat([fields([32, LAPIC_START], [32, 0]), ...structures]),
  )
}

function processor(apicId: number, uid: number): Uint8Array {
  return apicId < FIRST_X2APIC_ID && uid < ALL_PROCESSORS
    ? structure(TYPE.localApic, [8, uid], [8, apicId], [32, ENABLED])
    : structure(TYPE.localX2Apic, [16, 0], [32, apicId], [32, ENABLED], [32, uid])
}

type Field = readonly [bits: 8 | 16 | 32, value: number]

function structure(type: number, ...content: Field[]): Uint8Array {
  const bytes = fields(...content)
  return Buffer.concat([Uint8Array.of(type, bytes.length + 2), bytes])
}

function fields(...content: Field[]): Uint8Array {
  return Buffer.concat(
    content.map(([bits, value]) => {
      requireUnsigned(value, bits, "MADT field")
      const bytes = Buffer.alloc(bits / 8)
      bytes.writeUIntLE(value, 0, bits / 8)
      return bytes
    }),
  )
}
