import { MAX_REGION_SIZE } from "@ts-vmm/vm-memory"
import { describe, expect, test } from "vitest"
import * as layout from "./layout.js"
import { refusedWith } from "./testing/refused.js"

const GIB = 2 ** 30

describe("ramRegions", () => {
  test("leaves the gap for devices below 4 GiB", () => {
    expect(layout.ramRegions(128 * 2 ** 20)).toEqual([{ start: 0, size: 128 * 2 ** 20 }])
    expect(layout.ramRegions(layout.MMIO_GAP_START)).toEqual([{ start: 0, size: layout.MMIO_GAP_START }])
    expect(layout.ramRegions(6 * GIB)).toEqual([
      { start: 0, size: 3.25 * GIB },
      { start: 4 * GIB, size: 2.75 * GIB },
    ])
  })

  test("cuts what is above 4 GiB into regions that vm-memory takes", () => {
    const regions = layout.ramRegions(16 * GIB)
    expect(regions.every(({ size }) => size <= MAX_REGION_SIZE)).toBe(true)
    expect(regions.reduce((sum, { size }) => sum + size, 0)).toBe(16 * GIB)
    expect(regions.slice(1).map(({ start }) => start)).toEqual([4, 8, 12, 16].map(n => n * GIB))
  })

  test.each([0, -4096, 2 ** 21 - 4096, 2 ** 21 + 1, Number.NaN])("refuses %d bytes", size => {
    refusedWith("invalid-argument", () => layout.ramRegions(size))
  })
})

test("the areas of the layout do not overlap and lie as its picture says", () => {
  const { BOOT_GDT_START, BOOT_IDT_START, PVH_INFO_START, PVH_INFO_END, ZERO_PAGE_START } = layout
  const bounds = [
    BOOT_GDT_START,
    BOOT_IDT_START,
    PVH_INFO_START,
    PVH_INFO_END,
    ZERO_PAGE_START,
    ZERO_PAGE_START + 4096,
    layout.BOOT_STACK_POINTER,
    layout.BOOT_PAGE_TABLES_START,
    layout.BOOT_PAGE_TABLES_END,
    layout.CMDLINE_START,
    layout.SETUP_DATA_START,
    layout.SETUP_DATA_END,
    layout.EBDA_START,
    layout.MP_TABLE_START,
    layout.MP_TABLE_END,
    layout.ACPI_START,
    layout.ACPI_END,
    layout.HIMEM_START,
    layout.MMIO_GAP_START,
    layout.IOAPIC_START,
    layout.LAPIC_START,
    layout.MMIO_GAP_END,
  ]
  expect(bounds).toEqual([...bounds].sort((a, b) => a - b))
})
