import { expect, test } from "vitest"
import * as layout from "./layout.js"

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
    layout.IOAPIC_START,
    layout.LAPIC_START,
    layout.LOW_RAM_LIMIT,
  ]
  expect(bounds).toEqual([...bounds].sort((a, b) => a - b))
})
