import { describe, expect, test } from "vitest"
import { Pace } from "./pace.js"

const WINDOW = 64

/** Moves windows of packets through `pace`, at a cost per packet for each of the two ways. @returns share of early ones */
function run(
  pace: Pace,
  windows: number,
  cost: { early: number; whole: number },
  from = { now: 0, sent: 0 },
) {
  let early = 0
  for (let window = 0; window < windows; window++) {
    const limit = pace.share(from.now, from.sent)
    const packets = Math.min(limit, WINDOW)
    if (packets < WINDOW) early++
    from.sent += packets
    from.now += packets * (packets < WINDOW ? cost.early : cost.whole)
  }
  return early / windows
}

describe("Pace", () => {
  test("everything is sent before the guest is shown it until there is a measurement", () => {
    const pace = new Pace()

    const first = pace.share(0, 0)

    expect(first).toBe(Number.POSITIVE_INFINITY)
  })

  test("shares are kept where they are faster", () => {
    const pace = new Pace()
    const at = { now: 0, sent: 0 }
    run(pace, 2_000, { early: 0.001, whole: 0.002 }, at)

    const early = run(pace, 100_000, { early: 0.001, whole: 0.002 }, at)

    expect(early).toBeGreaterThan(0.95)
  })

  test("shares are tried ever more rarely where they are slower", () => {
    const pace = new Pace()
    const at = { now: 0, sent: 0 }
    run(pace, 100_000, { early: 0.002, whole: 0.001 }, at)

    const early = run(pace, 100_000, { early: 0.002, whole: 0.001 }, at)

    expect(early).toBeGreaterThan(0)
    expect(early).toBeLessThan(0.05)
  })

  test("it changes over when the guest moves to another CPU", () => {
    const pace = new Pace()
    const at = { now: 0, sent: 0 }
    run(pace, 20_000, { early: 0.002, whole: 0.001 }, at)
    run(pace, 20_000, { early: 0.001, whole: 0.002 }, at)

    const early = run(pace, 20_000, { early: 0.001, whole: 0.002 }, at)

    expect(early).toBeGreaterThan(0.9)
  })

  test("pauses are no measurement", () => {
    const pace = new Pace()
    const limits = new Set<number>()

    for (let n = 0; n < 100_000; n++) limits.add(pace.share(n * 5, n * WINDOW))

    expect([...limits]).toEqual([Number.POSITIVE_INFINITY])
  })
})
