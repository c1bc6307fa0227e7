import fc from "fast-check"
import { describe, expect, test } from "vitest"
import { AddressAllocator, IdAllocator } from "./allocators.js"
import { VmmError } from "./errors.js"

function codeOf(action: () => unknown): string | undefined {
  try {
    action()
    return undefined
  } catch (error) {
    if (error instanceof VmmError) return error.code
    throw error
  }
}

const windows = () => new AddressAllocator({ base: 0xd000_0000, size: 0x4000 })

describe("addresses", () => {
  test("come from the bottom, from the top, or from where one asks", () => {
    const allocator = windows()
    expect(allocator.allocate({ size: 0x1000 }).base).toBe(0xd000_0000)
    expect(allocator.allocate({ size: 0x1000, place: "last" }).base).toBe(0xd000_3000)
    expect(allocator.allocate({ size: 0x1000, place: { base: 0xd000_2000 } }).base).toBe(0xd000_2000)
    expect(allocator.allocated.map(a => a.base)).toEqual([0xd000_0000, 0xd000_2000, 0xd000_3000])
  })

  test("respect alignment, also above 32 bits", () => {
    const allocator = new AddressAllocator({ base: 0x1_0000_0001, size: 0x1_0000_0000 })
    expect(allocator.allocate({ size: 1, alignment: 0x1000 }).base).toBe(0x1_0000_1000)
    expect(allocator.allocate({ size: 0x1000, alignment: 0x1000, place: "last" }).base).toBe(0x1_ffff_f000)
  })

  test("skip a gap that is large enough only before alignment", () => {
    const allocator = windows()
    allocator.allocate({ size: 0x800 })
    allocator.allocate({ size: 0x1000, place: { base: 0xd000_1800 } })
    expect(allocator.allocate({ size: 0x1000, alignment: 0x1000 }).base).toBe(0xd000_3000)
    expect(allocator.allocate({ size: 0x1000 }).base).toBe(0xd000_0800)
  })

  test("run out, and can be had again after they are freed", () => {
    const allocator = windows()
    const all = allocator.allocate({ size: 0x4000 })
    expect(codeOf(() => allocator.allocate({ size: 1 }))).toBe("exhausted")
    expect(codeOf(() => allocator.allocate({ size: 1, place: { base: 0xd000_0000 } }))).toBe("exhausted")
    allocator.free(all.base)
    expect(codeOf(() => allocator.free(all.base))).toBe("not-found")
    expect(allocator.allocate({ size: 0x4000 })).toEqual(all)
  })

  test("outside the range are not given", () => {
    const allocator = windows()
    expect(codeOf(() => allocator.allocate({ size: 1, place: { base: 0xcfff_ffff } }))).toBe("exhausted")
    expect(codeOf(() => allocator.allocate({ size: 2, place: { base: 0xd000_3fff } }))).toBe("exhausted")
  })

  test.each([
    { size: 0 },
    { size: 1.5 },
    { size: -1 },
    { size: 1, alignment: 3 },
    { size: 1, alignment: 0 },
    { size: 1, alignment: 16, place: { base: 0xd000_0008 } },
  ])("refuse a request that makes no sense: %j", request => {
    expect(codeOf(() => windows().allocate(request))).toBe("allocation-invalid")
  })

  test("never overlap and never leave the range", () => {
    const request = fc.record({
      size: fc.integer({ min: 1, max: 40 }),
      alignment: fc.constantFrom(1, 2, 4, 16),
      place: fc.constantFrom("first" as const, "last" as const),
    })
    fc.assert(
      fc.property(fc.array(request, { maxLength: 60 }), fc.array(fc.nat(20)), (requests, frees) => {
        const allocator = new AddressAllocator({ base: 100, size: 256 })
        for (const r of requests) {
          const code = codeOf(() => expect(allocator.allocate(r).base % r.alignment).toBe(0))
          expect([undefined, "exhausted"]).toContain(code)
          const free = allocator.allocated[frees.pop() ?? 99]
          if (free) allocator.free(free.base)
        }
        let end = 100
        for (const piece of allocator.allocated) {
          expect(piece.base).toBeGreaterThanOrEqual(end)
          end = piece.base + piece.size
        }
        expect(end).toBeLessThanOrEqual(356)
      }),
      { numRuns: 100 },
    )
  })
})

describe("ids", () => {
  test("come lowest first, without the reserved ones", () => {
    const gsis = new IdAllocator(5, 9)
    gsis.reserve(6)
    expect([gsis.allocate(), gsis.allocate(), gsis.allocate()]).toEqual([5, 7, 8])
    expect(gsis.available).toBe(1)
    gsis.free(6)
    expect([gsis.allocate(), gsis.allocate()]).toEqual([6, 9])
  })

  test("run out, and can be had again after they are freed", () => {
    const ids = new IdAllocator(0, 0)
    ids.allocate()
    expect(codeOf(() => ids.allocate())).toBe("exhausted")
    expect(codeOf(() => ids.reserve(0))).toBe("exhausted")
    ids.free(0)
    expect(codeOf(() => ids.free(0))).toBe("not-found")
    expect(ids.allocate()).toBe(0)
  })

  test("outside the range are refused", () => {
    const ids = new IdAllocator(5, 23)
    for (const id of [4, 24, 5.5, Number.NaN])
      expect(codeOf(() => ids.reserve(id))).toBe("allocation-invalid")
    expect(codeOf(() => new IdAllocator(5, 4))).toBe("range-invalid")
  })
})
