import { fstatSync } from "node:fs"
import { describe, expect, test } from "vitest"
import { arrayBufferMemory } from "./array-buffer.js"
import { MemoryError } from "./errors.js"
import { mmapMemory } from "./mmap.js"
import { RegionTable } from "./region-table.js"

const PAGE = 4096
const REGIONS = [
  { start: 0, size: 4 * PAGE },
  { start: 4 * PAGE, size: 4 * PAGE },
  { start: 2 ** 32, size: 4 * PAGE },
]

describe.each([
  { name: "on the heap", make: arrayBufferMemory },
  { name: "mapped", make: mmapMemory },
])("discard of memory $name", ({ make }) => {
  test("makes pages zero, across adjacent regions, and no others", () => {
    using memory = make(REGIONS)
    for (const region of memory.regions) region.bytes.fill(1)
    memory.discard(3 * PAGE, 2 * PAGE)
    memory.discard(2 ** 32, PAGE)
    memory.discard(0, 0)
    const zeroes = memory.regions.flatMap(({ start, bytes }) =>
      [0, 1, 2, 3].filter(page => bytes[page * PAGE] === 0).map(page => start / PAGE + page),
    )
    expect(zeroes).toEqual([3, 4, 2 ** 32 / PAGE])
  })

  test.each([
    [7 * PAGE, 2 * PAGE, "out-of-range"],
    [2 ** 31, PAGE, "out-of-range"],
    [-PAGE, PAGE, "out-of-range"],
    [Number.POSITIVE_INFINITY, PAGE, "misaligned"],
    [1, PAGE, "misaligned"],
    [0, 1, "misaligned"],
  ])("C6: discards nothing for address %d and %d bytes: %s", (at, size, code) => {
    using memory = make(REGIONS)
    for (const region of memory.regions) region.bytes.fill(1)
    expect(() => memory.discard(at, size)).toThrow(expect.objectContaining({ code }))
    expect(memory.regions.every(({ bytes }) => bytes.every(byte => byte === 1))).toBe(true)
  })

  test("Q22: fails cleanly when the memory was closed", () => {
    const memory = make(REGIONS)
    memory.close()
    expect(() => memory.discard(0, PAGE)).toThrow(expect.objectContaining({ code: "closed" }))
  })
})

test("mapped memory goes back to the host", () => {
  using memory = mmapMemory([{ start: 0, size: 64 * PAGE }])
  memory.regions[0]!.bytes.fill(1)
  const blocks = () => fstatSync(memory.mappings[0]!.fd).blocks * 512
  expect(blocks()).toBe(64 * PAGE)
  memory.discard(PAGE, 60 * PAGE)
  expect(blocks()).toBe(4 * PAGE)
})

test("what a provider refuses is an error of the memory's, with the cause", () => {
  const cause = new Error("no holes")
  const discard = () => {
    throw cause
  }
  const memory = new RegionTable([{ start: PAGE, bytes: new Uint8Array(PAGE), discard }])
  expect(() => memory.discard(PAGE, PAGE)).toThrow(MemoryError)
  expect(() => memory.discard(PAGE, PAGE)).toThrow(
    expect.objectContaining({ code: "discard-failed", at: PAGE, cause }),
  )
})
