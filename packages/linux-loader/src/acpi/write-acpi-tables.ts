import type { GuestAddress, GuestMemory } from "@ts-vmm/vm-memory"
import { LoaderError } from "../errors.js"
import { ACPI_END, ACPI_START, LOW_RAM_LIMIT } from "../layout.js"
import { alignUp, writeTable } from "../placement.js"
import { sum8 } from "./checksum.js"
import { dsdt } from "./dsdt.js"
import { fadt } from "./fadt.js"
import type { AcpiMachine } from "./machine.js"
import { madt } from "./madt.js"
import { acpiTable, ascii, type OemIds } from "./table.js"

const RSDP_SIZE = 36
const RSDP_V1_SIZE = 20
const RSDP_REVISION = 2
const XSDT_REVISION = 1
/** Kernels look for the RSDP at multiples of this; the other tables may lie anywhere. */
const ALIGNMENT = 16

/** What to describe, and where to. */
export interface AcpiTables extends AcpiMachine {
  /** First address, a multiple of 16. Default `ACPI_START`, where kernels find the RSDP without being told. */
  readonly at?: GuestAddress
}

/**
 * Writes the ACPI tables of a hardware-reduced machine: RSDP, DSDT, FADT, MADT, XSDT, in one block. Kernels
 * without `virtio_mmio.device=` find their virtio devices by the DSDT.
 *
 * @returns `rsdpAddress` for `writeBootParams` or `writePvhStartInfo`; `end` of the block
 * @throws LoaderError `invalid-argument` (what the tables cannot express), `table-no-room`
 * @see ACPI 6.3
 *
 * @example
 * ```ts
 * const { rsdpAddress } = writeAcpiTables(memory, {
 *   cpus: [{ apicId: 0 }],
 *   ioapic: { id: 0, address: IOAPIC_START, gsiBase: 0 },
 *   virtioMmio: [{ base: 0xd000_0000, size: 4096, gsi: 5 }],
 *   serial: { port: 0x3f8, gsi: 4 },
 * })
 * ```
 */
export function writeAcpiTables(
  memory: GuestMemory,
  tables: AcpiTables,
): { rsdpAddress: GuestAddress; end: GuestAddress } {
  const { at = ACPI_START, oemId = "TSVMM", oemTableId = "MICROVM" } = tables
  if (at % ALIGNMENT !== 0) throw new LoaderError("invalid-argument", { at }, "address of the RSDP")
  if (tables.cpus.length === 0) throw new LoaderError("invalid-argument", {}, "no CPU")
  const block = encodeAcpiTables(tables, at, { oemId, oemTableId })
  writeTable(memory, at, at < ACPI_END ? ACPI_END : LOW_RAM_LIMIT, block)
  return { rsdpAddress: at, end: at + block.length }
}

/** All tables as they lie from `at` on. The RSDP, which comes first, names the XSDT, which comes last. */
function encodeAcpiTables(machine: AcpiMachine, at: GuestAddress, oem: OemIds): Uint8Array {
  const dsdtTable = dsdt(machine, oem)
  const dsdtAddress = at + alignUp(RSDP_SIZE, ALIGNMENT)
  const fadtAddress = alignUp(dsdtAddress + dsdtTable.length, ALIGNMENT)
  const fadtTable = fadt(machine, oem, dsdtAddress)
  const madtAddress = alignUp(fadtAddress + fadtTable.length, ALIGNMENT)
  const madtTable = madt(machine, oem)
  const xsdtAddress = alignUp(madtAddress + madtTable.length, ALIGNMENT)
  const xsdtTable = acpiTable("XSDT", XSDT_REVISION, oem, addresses([fadtAddress, madtAddress]))
  const block = new Uint8Array(xsdtAddress + xsdtTable.length - at)
  block.set(rsdp(xsdtAddress, oem))
  block.set(dsdtTable, dsdtAddress - at)
  block.set(fadtTable, fadtAddress - at)
  block.set(madtTable, madtAddress - at)
  block.set(xsdtTable, xsdtAddress - at)
  return block
}

/** ACPI 6.3, 5.2.5.3. Its first 20 bytes have a checksum of their own, as in ACPI 1.0. */
function rsdp(xsdtAddress: GuestAddress, { oemId }: OemIds): Uint8Array {
  const bytes = new Uint8Array(RSDP_SIZE)
  const view = new DataView(bytes.buffer)
  bytes.set(ascii("RSD PTR ", 8))
  bytes.set(ascii(oemId, 6), 9)
  bytes[15] = RSDP_REVISION
  bytes[8] = sum8(bytes.subarray(0, RSDP_V1_SIZE))
  view.setUint32(20, RSDP_SIZE, true)
  view.setBigUint64(24, BigInt(xsdtAddress), true)
  bytes[32] = sum8(bytes)
  return bytes
}

function addresses(list: readonly GuestAddress[]): Uint8Array {
  const bytes = new Uint8Array(list.length * 8)
  const view = new DataView(bytes.buffer)
  list.forEach((address, i) => {
    view.setBigUint64(i * 8, BigInt(address), true)
  })
  return bytes
}
