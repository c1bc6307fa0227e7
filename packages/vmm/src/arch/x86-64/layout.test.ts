import { IOAPIC_START, LAPIC_START } from "@ts-vmm/linux-loader"
import { describe, expect, test } from "vitest"
import { VmmError } from "../../errors.js"
import * as layout from "./layout.js"

const MIB = 2 ** 20
const GIB = 2 ** 30

describe("RAM", () => {
  test.each([
    [64 * MIB, [[0, 64 * MIB]]],
    [128 * MIB, [[0, 128 * MIB]]],
    [3 * GIB, [[0, 3 * GIB]]],
    [
      3 * GIB + 4096,
      [
        [0, 3 * GIB],
        [4 * GIB, 4096],
      ],
    ],
    [
      6 * GIB,
      [
        [0, 3 * GIB],
        [4 * GIB, 3 * GIB],
      ],
    ],
    [
      12 * GIB,
      [
        [0, 3 * GIB],
        [4 * GIB, 4 * GIB],
        [8 * GIB, 4 * GIB],
        [12 * GIB, 1 * GIB],
      ],
    ],
  ])("of %d bytes", (size, expected) => {
    expect(layout.memoryRegions(size).map(r => [r.start, r.size])).toEqual(expected)
  })

  test("of any size adds up, in regions that an ArrayBuffer can hold and that leave the gap free", () => {
    for (let size = 64 * MIB; size <= layout.MAX_MEMORY_SIZE; size = size * 2 + 4096 * 3) {
      const regions = layout.memoryRegions(size)
      expect(regions.reduce((sum, r) => sum + r.size, 0)).toBe(size)
      expect(Math.max(...regions.map(r => r.size))).toBeLessThanOrEqual(4 * GIB)
      for (const { start, size } of regions)
        expect(start + size <= layout.LOW_RAM_END || start >= layout.HIGH_RAM_START).toBe(true)
    }
  })

  test.each([0, -4096, 32 * MIB, 64 * MIB + 1, 2 ** 41, Number.NaN])("of %d bytes is refused", size => {
    expect(() => layout.memoryRegions(size)).toThrow(VmmError)
  })
})

test("nothing in the gap overlaps", () => {
  const windows = [
    [layout.VIRTIO_MMIO_BASE, layout.VIRTIO_MMIO_END],
    [IOAPIC_START, IOAPIC_START + layout.IOAPIC_SIZE],
    [LAPIC_START, LAPIC_START + 0x1000],
    [layout.KVM_IDENTITY_MAP_ADDRESS, layout.KVM_IDENTITY_MAP_ADDRESS + 0x1000],
    [layout.KVM_TSS_ADDRESS, layout.KVM_TSS_ADDRESS + 0x3000],
  ] as const
  let end: number = layout.LOW_RAM_END
  for (const [start, windowEnd] of windows) {
    expect(start).toBeGreaterThanOrEqual(end)
    end = windowEnd
  }
  expect(end).toBeLessThanOrEqual(layout.HIGH_RAM_START)
})
