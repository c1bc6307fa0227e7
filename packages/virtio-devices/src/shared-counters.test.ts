import { describe, expect, test } from "vitest"
import { countInto, SharedCounters } from "./shared-counters.js"

const NAMES = ["reads", "writes"] as const

/** What a thread does with its cells. */
function threadOf(cells: Float64Array) {
  const counters = { reads: 0, writes: 0 }
  countInto(counters, NAMES, cells)
  return counters
}

describe("counters that threads share", () => {
  test("are the sum of what each thread and the owner itself counted", () => {
    const shared = new SharedCounters({ reads: 5, writes: 0 }, NAMES)
    const [one, two] = [threadOf(shared.grow()), threadOf(shared.grow())]
    one.reads++
    two.reads += 2
    two.writes++
    shared.counters.reads++
    expect({ ...shared.counters }).toEqual({ reads: 9, writes: 1 })
  })

  test("keep what a thread counted that has ended", () => {
    const shared = new SharedCounters({ reads: 0, writes: 0 }, NAMES)
    const cells = shared.grow()
    threadOf(cells).reads = 3
    shared.fold(cells)
    shared.fold(cells)
    cells[0] = 100
    expect(shared.counters.reads).toBe(3)
  })

  test("that are not named stay the owner's own", () => {
    const shared = new SharedCounters({ reads: 0, writes: 0, other: 1 }, NAMES)
    threadOf(shared.grow())
    expect(shared.counters.other++).toBe(1)
  })
})
