import type { GuestAddress, GuestMemory } from "@ts-vmm/vm-memory"
import { LoaderError } from "../errors.js"
import { ACPI_END, ACPI_START, EBDA_START, HIMEM_START } from "../layout.js"
import { ramSpans, type Span } from "../placement.js"

/** arch/x86/include/uapi/asm/e820.h; PVH's memory map has the same numbers. */
export const E820_TYPE_RAM = 1
export const E820_TYPE_RESERVED = 2
export const E820_TYPE_ACPI = 3
export const E820_TYPE_NVS = 4
/** Entries that the zero page and kernels have room for. */
export const E820_MAX_ENTRIES_ZEROPAGE = 128

/** Kind of an entry, as the kernel numbers it. */
export type E820Type =
  | typeof E820_TYPE_RAM
  | typeof E820_TYPE_RESERVED
  | typeof E820_TYPE_ACPI
  | typeof E820_TYPE_NVS

/** A range of guest addresses and what it is. */
export interface MemoryMapEntry {
  readonly start: GuestAddress
  readonly size: number
  readonly type: E820Type
}

const LOW_MEGABYTE: readonly MemoryMapEntry[] = [
  { start: 0, size: EBDA_START, type: E820_TYPE_RAM },
  { start: EBDA_START, size: ACPI_START - EBDA_START, type: E820_TYPE_RESERVED },
  { start: ACPI_START, size: ACPI_END - ACPI_START, type: E820_TYPE_ACPI },
]

/**
 * The memory map of a PC with this RAM: usable up to 639 KiB, the BIOS area reserved, its last 128 KiB for
 * ACPI, everything else of the regions usable. Regions that touch become one entry.
 *
 * @throws LoaderError `memory-map` when RAM does not begin with the whole low megabyte
 *
 * @example
 * ```ts
 * writeBootParams(memory, { kernel, cmdline, memoryMap: defaultMemoryMap(memory) })
 * ```
 */
export function defaultMemoryMap(memory: GuestMemory): MemoryMapEntry[] {
  const [low, ...others] = ramSpans(memory)
  if (low === undefined || low.start !== 0 || low.end <= HIMEM_START)
    throw new LoaderError("memory-map", { at: low?.start ?? 0, need: HIMEM_START, have: low?.end ?? 0 })
  return [...LOW_MEGABYTE, usable({ start: HIMEM_START, end: low.end }), ...others.map(usable)]
}

/** @throws LoaderError `memory-map` unless every entry is a range of addresses and there are 1 to 128 */
export function checkMemoryMap(map: readonly MemoryMapEntry[]): void {
  if (map.length === 0 || map.length > E820_MAX_ENTRIES_ZEROPAGE)
    throw new LoaderError("memory-map", { need: map.length, have: E820_MAX_ENTRIES_ZEROPAGE }, "entries")
  for (const { start, size } of map)
    if (!(Number.isSafeInteger(start) && start >= 0 && size > 0 && Number.isSafeInteger(start + size)))
      throw new LoaderError("memory-map", { at: start, need: size })
}

function usable({ start, end }: Span): MemoryMapEntry {
  return { start, size: end - start, type: E820_TYPE_RAM }
}
