import { type ArrayBufferMemory, arrayBufferMemory } from "@ts-vmm/vm-memory"
import { describe, expect, test } from "vitest"
import { MIB } from "../testing/memory.js"
import { refusedWith } from "../testing/refused.js"
import { checkMemoryMap, defaultMemoryMap, type MemoryMapEntry } from "./memory-map.js"

const LOW = [
  { start: 0, size: 0x9fc00, type: 1 },
  { start: 0x9fc00, size: 0x40400, type: 2 },
  { start: 0xe0000, size: 0x20000, type: 3 },
]
const memoryOf = (...regions: { start: number; size: number }[]) =>
  ({
    regions: regions.map(region => ({ ...region, bytes: new Uint8Array() })),
  }) as unknown as ArrayBufferMemory

describe("defaultMemoryMap", () => {
  test("keeps the BIOS area and marks the ACPI tables", () => {
    expect(defaultMemoryMap(arrayBufferMemory([{ start: 0, size: 4 * MIB }]))).toEqual([
      ...LOW,
      { start: MIB, size: 3 * MIB, type: 1 },
    ])
  })

  test("has the gap below 4 GiB and one entry for regions that touch", () => {
    const map = defaultMemoryMap(
      memoryOf(
        { start: 0, size: 0xd000_0000 },
        { start: 2 ** 32, size: 2 ** 32 },
        { start: 2 ** 33, size: MIB },
      ),
    )
    expect(map).toEqual([
      ...LOW,
      { start: MIB, size: 0xd000_0000 - MIB, type: 1 },
      { start: 2 ** 32, size: 2 ** 32 + MIB, type: 1 },
    ])
  })

  test.each([
    ["that does not begin at 0", { start: 4096, size: 4 * MIB }],
    ["of the low megabyte only", { start: 0, size: MIB }],
  ])("refuses RAM %s", (_, region) => {
    refusedWith("memory-map", () => defaultMemoryMap(memoryOf(region)))
  })
})

describe("checkMemoryMap", () => {
  const entry = (start: number, size: number): MemoryMapEntry => ({ start, size, type: 1 })

  test("takes 128 entries and no more", () => {
    checkMemoryMap(Array.from({ length: 128 }, (_, i) => entry(i * 4096, 4096)))
    refusedWith("memory-map", () => checkMemoryMap(Array.from({ length: 129 }, (_, i) => entry(i, 1))))
    refusedWith("memory-map", () => checkMemoryMap([]))
  })

  test.each([
    [-1, 1],
    [0, 0],
    [0.5, 1],
    [0, Number.NaN],
    [2 ** 53 - 1, 1],
  ])("refuses the range %d, %d", (start, size) => {
    refusedWith("memory-map", () => checkMemoryMap([entry(start, size)]))
  })
})
