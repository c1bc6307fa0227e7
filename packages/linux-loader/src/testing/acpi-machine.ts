import type { AcpiMachine } from "../acpi/machine.js"
import { IOAPIC_START } from "../layout.js"

/** A machine with everything that can be described; test/fixtures/machine.asl is its DSDT. */
export const FULL_MACHINE: AcpiMachine = {
  cpus: [{ apicId: 0 }, { apicId: 1 }, { apicId: 300 }],
  ioapic: { id: 3, address: IOAPIC_START, gsiBase: 0 },
  interruptOverrides: [{ irq: 0, gsi: 2 }],
  virtioMmio: [5, 6, 400].map((gsi, i) => ({ base: 0xd000_0000 + i * 4096, size: 4096, gsi })),
  serial: { port: 0x3f8, gsi: 4 },
  resetRegister: { space: "io", address: 0x604, value: 0x77 },
  sleep: { control: { space: "io", address: 0x600 }, status: { space: "memory", address: 0xfe00_0000 } },
  powerButton: { gsi: 9 },
  hasI8042: true,
  hasCmosRtc: true,
}

/** The least there is to describe. */
export const BARE_MACHINE: AcpiMachine = {
  cpus: [{ apicId: 0 }],
  ioapic: { id: 0, address: IOAPIC_START, gsiBase: 0 },
  virtioMmio: [],
}
