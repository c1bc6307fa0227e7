import { describe, expect, test } from "vitest"
import { BARE_MACHINE, FULL_MACHINE } from "../testing/acpi-machine.js"
import { fixture } from "../testing/fixture.js"
import { bytesAt, dirtyMemory, expectUntouched, MIB } from "../testing/memory.js"
import { refusedWith } from "../testing/refused.js"
import type { AcpiMachine } from "./machine.js"
import { type AcpiTables, writeAcpiTables } from "./write-acpi-tables.js"

const sum = (bytes: Uint8Array) => bytes.reduce((total, byte) => (total + byte) & 0xff, 0)
const viewOf = (bytes: Uint8Array) => new DataView(bytes.buffer, bytes.byteOffset, bytes.length)

/** Tables by signature, found as a kernel finds them: from the RSDP on. */
function tablesOf(machine: AcpiTables): Map<string, Uint8Array> {
  const memory = dirtyMemory(2 * MIB)
  const { rsdpAddress, end } = writeAcpiTables(memory, machine)
  const read = (at: number) => {
    const table = bytesAt(memory, at, viewOf(bytesAt(memory, at + 4, 4)).getUint32(0, true))
    expect(at + table.length).toBeLessThanOrEqual(end)
    expect(sum(table)).toBe(0)
    return table
  }
  const rsdp = bytesAt(memory, rsdpAddress, 36)
  const xsdt = read(Number(viewOf(rsdp).getBigUint64(24, true)))
  const addresses = Array.from({ length: (xsdt.length - 36) / 8 }, (_, i) =>
    Number(viewOf(xsdt).getBigUint64(36 + i * 8, true)),
  )
  const tables = [xsdt, ...addresses.map(read)]
  const fadt = tables.find(table => signature(table) === "FACP")!
  tables.push(read(Number(viewOf(fadt).getBigUint64(140, true))))
  expect(bytesAt(memory, end, 1)).toEqual(Uint8Array.of(0xee))
  return new Map([["RSDP", rsdp], ...tables.map(table => [signature(table), table] as const)])
}

const signature = (table: Uint8Array) => Buffer.from(table.subarray(0, 4)).toString()

describe("writeAcpiTables", () => {
  test("lays out RSDP, XSDT, FADT, MADT and DSDT, every checksum right", () => {
    const tables = tablesOf(FULL_MACHINE)
    expect([...tables.keys()].sort()).toEqual(["APIC", "DSDT", "FACP", "RSDP", "XSDT"])
    const rsdp = tables.get("RSDP")!
    expect(Buffer.from(rsdp.subarray(0, 8)).toString()).toBe("RSD PTR ")
    expect(rsdp[15]).toBe(2)
    expect(sum(rsdp.subarray(0, 20))).toBe(0)
    expect(sum(rsdp)).toBe(0)
  })

  test("the RSDP lies where kernels search for it, or where it is told to", () => {
    const memory = dirtyMemory(4 * MIB)
    expect(writeAcpiTables(memory, BARE_MACHINE).rsdpAddress).toBe(0xe0000)
    expect(writeAcpiTables(memory, { ...BARE_MACHINE, at: 2 * MIB }).rsdpAddress).toBe(2 * MIB)
    expect(tablesOf({ ...FULL_MACHINE, at: MIB }).get("DSDT")).toEqual(tablesOf(FULL_MACHINE).get("DSDT"))
  })

  test("the DSDT is what Intel's compiler makes of its source (machine.asl)", () => {
    const compiled = fixture("machine.aml")
    const ours = tablesOf(FULL_MACHINE).get("DSDT")!
    expect(Buffer.from(ours.subarray(36)).toString("hex")).toBe(
      Buffer.from(compiled.subarray(36)).toString("hex"),
    )
    expect(ours.subarray(0, 9)).toEqual(Uint8Array.from(compiled.subarray(0, 9)))
  })

  test("names who made the tables", () => {
    const fadt = tablesOf({ ...BARE_MACHINE, oemId: "ACME", oemTableId: "ROCKET" }).get("FACP")!
    expect(Buffer.from(fadt.subarray(10, 24)).toString()).toBe("ACME  ROCKET  ")
  })
})

describe("FADT", () => {
  const fadtOf = (machine: AcpiMachine) => tablesOf(machine).get("FACP")!
  const register = (fadt: Uint8Array, at: number) => [
    ...fadt.subarray(at, at + 4),
    viewOf(fadt).getBigUint64(at + 4, true),
  ]

  test("is of ACPI 6.3 and hardware-reduced", () => {
    const fadt = fadtOf(BARE_MACHINE)
    expect([fadt.length, fadt[8], fadt[131]]).toEqual([276, 6, 3])
    expect(viewOf(fadt).getUint32(112, true) & (1 << 20)).not.toBe(0)
    expect(viewOf(fadt).getUint32(40, true)).toBe(Number(viewOf(fadt).getBigUint64(140, true)))
  })

  test("has the reset and sleep registers", () => {
    const fadt = fadtOf(FULL_MACHINE)
    expect(viewOf(fadt).getUint32(112, true) & (1 << 10)).not.toBe(0)
    expect(register(fadt, 116)).toEqual([1, 8, 0, 1, 0x604n])
    expect(fadt[128]).toBe(0x77)
    expect(register(fadt, 244)).toEqual([1, 8, 0, 1, 0x600n])
    expect(register(fadt, 256)).toEqual([0, 8, 0, 1, 0xfe00_0000n])
  })

  test("says that there is no reset register", () => {
    const fadt = fadtOf(BARE_MACHINE)
    expect(viewOf(fadt).getUint32(112, true) & (1 << 10)).toBe(0)
    expect(register(fadt, 116)).toEqual([0, 0, 0, 0, 0n])
  })

  test.each<[string, AcpiMachine, number]>([
    ["nothing old", BARE_MACHINE, 0b100100],
    ["a serial port", { ...BARE_MACHINE, serial: { port: 0x3f8, gsi: 4 } }, 0b100101],
    ["an i8042", { ...BARE_MACHINE, hasI8042: true }, 0b100111],
    ["a CMOS clock", { ...BARE_MACHINE, hasCmosRtc: true }, 0b000100],
  ])("boot architecture flags of a machine with %s", (_, machine, flags) => {
    expect(viewOf(fadtOf(machine)).getUint16(109, true)).toBe(flags)
  })
})

describe("MADT", () => {
  test("lists CPUs, I/O APIC, overrides and NMIs", () => {
    const madt = tablesOf(FULL_MACHINE).get("APIC")!
    expect(viewOf(madt).getUint32(36, true)).toBe(0xfee0_0000)
    const structures: string[] = []
    for (let at = 44; at < madt.length; at += madt[at + 1]!)
      structures.push(Buffer.from(madt.subarray(at, at + madt[at + 1]!)).toString("hex"))
    expect(structures).toEqual([
      "0008000001000000",
      "0008010101000000",
      "091000002c0100000100000002000000",
      "010c03000000c0fe00000000",
      "020a0000020000000500",
      "0406ff050001",
      "0a0c0500ffffffff01000000",
    ])
  })

  test("uses x2APIC structures from processor 255 on", () => {
    const cpus = Array.from({ length: 256 }, (_, i) => ({ apicId: i % 255 }))
    const madt = tablesOf({ ...BARE_MACHINE, cpus }).get("APIC")!
    expect(madt[44 + 254 * 8]).toBe(0)
    expect(madt[44 + 255 * 8]).toBe(9)
  })
})

describe("writeAcpiTables writes nothing when it refuses", () => {
  const memory = dirtyMemory(2 * MIB)

  test.each<[string, AcpiTables]>([
    ["no CPU", { ...BARE_MACHINE, cpus: [] }],
    ["an address that is no multiple of 16", { ...BARE_MACHINE, at: 0xe0008 }],
    ["an OEM id of seven characters", { ...BARE_MACHINE, oemId: "1234567" }],
    ["an OEM id that is no ASCII", { ...BARE_MACHINE, oemId: "é" }],
    ["a window across 4 GiB", { ...BARE_MACHINE, virtioMmio: [{ base: 0xffff_f000, size: 8192, gsi: 5 }] }],
    ["a window above 4 GiB", { ...BARE_MACHINE, virtioMmio: [{ base: 2 ** 32, size: 4096, gsi: 5 }] }],
    ["a negative interrupt", { ...BARE_MACHINE, serial: { port: 0x3f8, gsi: -1 } }],
    ["a serial port across the last port", { ...BARE_MACHINE, serial: { port: 0xfffc, gsi: 4 } }],
    [
      "a reset value of nine bits",
      { ...BARE_MACHINE, resetRegister: { space: "io", address: 1, value: 256 } },
    ],
    [
      "a register at port 2^16",
      { ...BARE_MACHINE, resetRegister: { space: "io", address: 2 ** 16, value: 1 } },
    ],
    ["an I/O APIC with id 256", { ...BARE_MACHINE, ioapic: { id: 256, address: 0, gsiBase: 0 } }],
    [
      "4097 windows",
      {
        ...BARE_MACHINE,
        virtioMmio: Array.from({ length: 4097 }, (_, i) => ({ base: i * 512, size: 512, gsi: 5 })),
      },
    ],
  ])("%s", (_, tables) => {
    refusedWith("invalid-argument", () => writeAcpiTables(memory, tables))
    expectUntouched(memory)
  })

  test("more tables than the area takes", () => {
    const virtioMmio = Array.from({ length: 2000 }, (_, i) => ({ base: i * 512, size: 512, gsi: 5 }))
    refusedWith("table-no-room", () => writeAcpiTables(memory, { ...BARE_MACHINE, virtioMmio }))
    refusedWith("table-no-room", () => writeAcpiTables(memory, { ...BARE_MACHINE, at: 2 * MIB }))
    expectUntouched(memory)
  })
})
