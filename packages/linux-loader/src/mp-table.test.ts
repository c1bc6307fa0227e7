import { describe, expect, test } from "vitest"
import { type MpTable, writeMpTable } from "./mp-table.js"
import { bytesAt, dirtyMemory, expectUntouched, MIB } from "./testing/memory.js"
import { refusedWith } from "./testing/refused.js"

const cpus = (count: number) => Array.from({ length: count }, (_, apicId) => ({ apicId }))
const sum = (bytes: Uint8Array) => bytes.reduce((total, byte) => (total + byte) & 0xff, 0)

function written(table: MpTable) {
  const memory = dirtyMemory(MIB)
  const { address, end } = writeMpTable(memory, table)
  const bytes = bytesAt(memory, address, end - address)
  expect(bytesAt(memory, end, 1)).toEqual(Uint8Array.of(0xee))
  return { address, end, floating: bytes.subarray(0, 16), table: bytes.slice(16) }
}

/** Entries by type, walked as a kernel does. */
function entriesOf(table: Uint8Array): Map<number, Uint8Array[]> {
  const count = new DataView(table.buffer).getUint16(34, true)
  const entries = new Map<number, Uint8Array[]>()
  let at = 44
  for (let i = 0; i < count; i++) {
    const type = table[at]!
    const size = type === 0 ? 20 : 8
    entries.set(type, [...(entries.get(type) ?? []), table.subarray(at, at + size)])
    at += size
  }
  expect(at).toBe(table.length)
  return entries
}

describe("writeMpTable", () => {
  test("has a floating pointer in the last KiB of base memory, and both checksums", () => {
    const { address, floating, table } = written({ cpus: cpus(2), ioapic: { id: 2 } })
    expect(address).toBe(0x9fc00)
    expect(Buffer.from(floating.subarray(0, 4)).toString()).toBe("_MP_")
    expect(new DataView(floating.slice().buffer).getUint32(4, true)).toBe(address + 16)
    expect(floating.subarray(8, 10)).toEqual(Uint8Array.of(1, 4))
    expect(sum(floating)).toBe(0)
    expect(Buffer.from(table.subarray(0, 4)).toString()).toBe("PCMP")
    expect(new DataView(table.buffer).getUint16(4, true)).toBe(table.length)
    expect(new DataView(table.buffer).getUint32(36, true)).toBe(0xfee00000)
    expect(sum(table)).toBe(0)
  })

  test("lists CPUs, the first of them the boot processor", () => {
    const processors = entriesOf(
      written({ cpus: [{ apicId: 4 }, { apicId: 6 }], ioapic: { id: 2 } }).table,
    ).get(0)!
    expect(processors.map(entry => [entry[1], entry[3]])).toEqual([
      [4, 3],
      [6, 1],
    ])
  })

  test("wires each ISA interrupt to the input of its number", () => {
    const entries = entriesOf(written({ cpus: cpus(1), ioapic: { id: 9, pins: 32 } }).table)
    expect(entries.get(1)).toEqual([Uint8Array.from([1, 0, ...Buffer.from("ISA   ")])])
    expect(entries.get(2)).toEqual([Uint8Array.of(2, 9, 0x11, 1, 0, 0, 0xc0, 0xfe)])
    expect(entries.get(3)).toEqual(
      Array.from({ length: 32 }, (_, n) => Uint8Array.of(3, 0, 0, 0, 0, n, 9, n)),
    )
    expect(entries.get(4)).toEqual([
      Uint8Array.of(4, 3, 0, 0, 0, 0, 0, 0),
      Uint8Array.of(4, 1, 0, 0, 0, 0, 0xff, 1),
    ])
  })

  test("fits for 254 CPUs", () => {
    expect(entriesOf(written({ cpus: cpus(254), ioapic: { id: 254 } }).table).get(0)).toHaveLength(254)
  })

  test.each<[string, MpTable]>([
    ["no CPU", { cpus: [], ioapic: { id: 0 } }],
    ["a CPU with the id of the I/O APIC", { cpus: cpus(2), ioapic: { id: 1 } }],
    ["a CPU id of 255", { cpus: [{ apicId: 255 }], ioapic: { id: 0 } }],
    ["a fractional id", { cpus: cpus(1), ioapic: { id: 1.5 } }],
    ["no inputs", { cpus: cpus(1), ioapic: { id: 1, pins: 0 } }],
  ])("refuses %s", (_, table) => {
    const memory = dirtyMemory(MIB)
    refusedWith("invalid-argument", () => writeMpTable(memory, table))
    expectUntouched(memory)
  })

  test("refuses memory that has no room for it", () => {
    refusedWith("table-no-room", () =>
      writeMpTable(dirtyMemory(0x9fc00), { cpus: cpus(1), ioapic: { id: 1 } }),
    )
  })
})
