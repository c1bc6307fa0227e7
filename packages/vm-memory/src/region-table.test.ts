import fc from "fast-check"
import { describe, expect, test } from "vitest"
import { addAddress, addressFromBigInt, addressFromWords } from "./address.js"
import { arrayBufferMemory } from "./array-buffer.js"
import { MemoryError, type MemoryErrorCode } from "./errors.js"
import { MAX_GUEST_ADDRESS, RegionTable } from "./region-table.js"

const GIB = 2 ** 30
const HIGH = 4 * GIB

/** Two regions that touch at 0x1000, a hole, one above 4 GiB. */
const threeRegions = () =>
  arrayBufferMemory([
    { start: HIGH, size: 0x1000 },
    { start: 0, size: 0x1000 },
    { start: 0x1000, size: 0x800 },
  ])

function codeOf(action: () => unknown): MemoryErrorCode | undefined {
  try {
    action()
    return undefined
  } catch (error) {
    if (error instanceof MemoryError) return error.code
    throw error
  }
}

describe("regions", () => {
  test("are listed by rising address, however they were given", () => {
    expect(threeRegions().regions.map(r => [r.start, r.size])).toEqual([
      [0, 0x1000],
      [0x1000, 0x800],
      [HIGH, 0x1000],
    ])
  })

  test.each([
    { what: "none", regions: [], code: "no-regions" },
    { what: "an empty one", regions: [{ start: 0, size: 0 }], code: "region-size" },
    { what: "one above 4 GiB", regions: [{ start: 0, size: 4 * GIB + 1 }], code: "region-size" },
    { what: "a fractional size", regions: [{ start: 0, size: 1.5 }], code: "region-size" },
    { what: "a negative start", regions: [{ start: -8, size: 8 }], code: "region-address" },
    { what: "one past 2^52", regions: [{ start: MAX_GUEST_ADDRESS - 8, size: 16 }], code: "region-address" },
    {
      what: "a start that is not a number",
      regions: [{ start: Number.NaN, size: 16 }],
      code: "region-address",
    },
    { what: "a start off the 8-byte grid", regions: [{ start: 4, size: 16 }], code: "misaligned" },
    {
      what: "two that share a byte",
      regions: [
        { start: 0, size: 16 },
        { start: 8, size: 16 },
      ],
      code: "region-overlap",
    },
  ])("C8: refuses $what", ({ regions, code }) => {
    expect(codeOf(() => arrayBufferMemory(regions))).toBe(code)
  })

  test("refuses a buffer that would break alignment", () => {
    const bytes = new Uint8Array(new ArrayBuffer(32), 4)
    expect(codeOf(() => new RegionTable([{ start: 0, bytes }]))).toBe("misaligned")
  })
})

describe("find", () => {
  test("gives the region that holds all of a range", () => {
    const memory = threeRegions()
    expect(memory.find(0xfff, 1)?.start).toBe(0)
    expect(memory.find(0x1000, 0x800)?.start).toBe(0x1000)
    expect(memory.find(HIGH + 0xff0, 16)?.start).toBe(HIGH)
  })

  test("gives nothing for a hole, the end, two regions, or a range that is no range", () => {
    const memory = threeRegions()
    for (const [at, size] of [
      [0x1800, 1],
      [HIGH - 1, 1],
      [HIGH - 1, 2],
      [HIGH + 0x1000, 1],
      [0xfff, 2],
      [0, Number.POSITIVE_INFINITY],
      [0, -1],
      [-1, 1],
      [Number.NaN, 1],
      [0, Number.NaN],
      [2 ** 60, 2 ** 60],
    ] as const)
      expect(memory.find(at, size), `${at}+${size}`).toBeUndefined()
  })
})

describe("read, write and slices", () => {
  test("cross adjacent regions", () => {
    const memory = threeRegions()
    const data = Uint8Array.from({ length: 64 }, (_, i) => i + 1)
    memory.write(0x1000 - 20, data)
    const copy = new Uint8Array(64)
    memory.read(0x1000 - 20, copy)
    expect(copy).toEqual(data)
    expect(memory.slices(0x1000 - 20, 64).map(s => s.length)).toEqual([20, 44])
    expect(memory.regions[1]!.bytes[0]).toBe(21)
  })

  test("are all or error: a write that ends in a hole changes nothing", () => {
    const memory = threeRegions()
    const before = memory.regions.map(r => r.bytes.slice())
    expect(codeOf(() => memory.write(0x17f0, new Uint8Array(32).fill(7)))).toBe("out-of-range")
    expect(memory.regions.map(r => r.bytes.slice())).toEqual(before)
  })

  test("accept nothing at all at every address inside, and at an end", () => {
    const memory = threeRegions()
    memory.write(0x1800, new Uint8Array(0))
    expect(memory.slices(10, 0)).toEqual([])
    expect(codeOf(() => memory.slices(0x1801, 0))).toBe("out-of-range")
  })

  test("say where and how much", () => {
    expect(() => threeRegions().read(0x1800, new Uint8Array(16))).toThrow(
      "access is not wholly inside guest memory: 0x1800, 0x10 bytes",
    )
  })

  test("agree with a flat model for any access", () => {
    const sizes = [0x40, 0x18, 0x28]
    const total = sizes.reduce((a, b) => a + b)
    fc.assert(
      fc.property(
        fc.integer({ min: -8, max: total + 8 }),
        fc.integer({ min: 0, max: total + 8 }),
        (at, size) => {
          const memory = arrayBufferMemory([
            { start: 0, size: 0x40 },
            { start: 0x40, size: 0x18 },
            { start: 0x58, size: 0x28 },
          ])
          const flat = new Uint8Array(total)
          const data = Uint8Array.from({ length: size }, (_, i) => (i % 255) + 1)
          const inside = at >= 0 && at + size <= total
          expect(codeOf(() => memory.write(at, data))).toBe(inside ? undefined : "out-of-range")
          if (inside) flat.set(data, at)
          const all = new Uint8Array(total)
          memory.read(0, all)
          expect(all).toEqual(flat)
        },
      ),
      { numRuns: 300 },
    )
  })
})

describe("16-bit loads and stores", () => {
  test("are little-endian and see plain writes", () => {
    const memory = threeRegions()
    memory.write(HIGH + 2, Uint8Array.of(0x34, 0x12))
    expect(memory.loadU16(HIGH + 2)).toBe(0x1234)
    memory.storeU16(HIGH + 4, 0x1_beef)
    expect([...memory.slices(HIGH + 4, 2)[0]!]).toEqual([0xef, 0xbe])
  })

  test("refuse odd addresses and what is not memory", () => {
    const memory = threeRegions()
    expect(codeOf(() => memory.loadU16(1))).toBe("misaligned")
    expect(codeOf(() => memory.storeU16(0.5, 0))).toBe("misaligned")
    expect(codeOf(() => memory.loadU16(0x1800))).toBe("out-of-range")
    expect(codeOf(() => memory.storeU16(HIGH + 0x1000, 0))).toBe("out-of-range")
  })
})

describe("close", () => {
  test("Q22: detaches every view, and each later access fails cleanly", () => {
    const memory = threeRegions()
    const view = memory.slices(0, 16)[0]!
    memory.close()
    memory.close()
    expect(view.length).toBe(0)
    expect(codeOf(() => memory.read(0, new Uint8Array(4)))).toBe("closed")
    expect(codeOf(() => memory.write(0xff0, new Uint8Array(64)))).toBe("closed")
    expect(codeOf(() => memory.slices(HIGH, 1))).toBe("closed")
    expect(codeOf(() => memory.loadU16(2))).toBe("closed")
    expect(codeOf(() => memory.storeU16(2, 1))).toBe("closed")
  })
})

describe("addresses", () => {
  test("Q4: a u64 is taken below 2^53 and refused from there on", () => {
    expect(addressFromWords(0xffff_ffff, 2 ** 21 - 1)).toBe(2 ** 53 - 1)
    expect(codeOf(() => addressFromWords(0, 2 ** 21))).toBe("address-too-large")
    expect(codeOf(() => addressFromWords(0xffff_ffff, 0xffff_ffff))).toBe("address-too-large")
    expect(addressFromBigInt(2n ** 53n - 1n)).toBe(2 ** 53 - 1)
    expect(codeOf(() => addressFromBigInt(2n ** 53n))).toBe("address-too-large")
    expect(codeOf(() => addressFromBigInt(-1n))).toBe("address-too-large")
  })

  test("Q4: sums are checked", () => {
    expect(addAddress(HIGH, 16)).toBe(HIGH + 16)
    for (const [at, offset] of [
      [2 ** 53 - 1, 1],
      [-1, 1],
      [1, -1],
      [0.5, 0.5],
      [Number.NaN, 0],
    ] as const)
      expect(
        codeOf(() => addAddress(at, offset)),
        `${at}+${offset}`,
      ).toBe("address-too-large")
  })
})
