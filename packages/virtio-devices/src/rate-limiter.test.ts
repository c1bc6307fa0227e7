import fc from "fast-check"
import { describe, expect, test } from "vitest"
import { type RateLimit, RateLimiter } from "./rate-limiter.js"
import { ManualClock } from "./testing/manual-clock.js"

/** Takes requests of `bytes` as fast as they pass, for `ms` of the clock. @returns how many passed */
function saturate(limiter: RateLimiter, clock: ManualClock, bytes: () => number, ms: number): number {
  const end = clock.now() + ms
  let passed = 0
  let size = bytes()
  while (clock.now() < end) {
    const wait = limiter.take(size)
    if (wait > 0) {
      clock.advance(Math.min(wait, end - clock.now()))
    } else {
      passed++
      size = bytes()
    }
  }
  return passed
}

describe("RateLimiter", () => {
  test.each([100, 4096, 65_536])("lets bytes through at the rate, within 1 %% (requests of %i)", size => {
    const clock = new ManualClock()
    const limiter = new RateLimiter({ bytesPerSecond: 1e6, burstBytes: 50_000 }, clock)
    saturate(limiter, clock, () => size, 1000)
    const bytes = saturate(limiter, clock, () => size, 60_000) * size
    expect(Math.abs(bytes / 60e6 - 1)).toBeLessThan(0.01)
  })

  test.each([0.5, 7, 1000, 33_333])(
    "lets operations through at the rate, within 1 %% (%d a second)",
    rate => {
      const clock = new ManualClock()
      const limiter = new RateLimiter({ operationsPerSecond: rate, burstOperations: 1 }, clock)
      const seconds = 1000 / Math.min(rate, 100)
      limiter.take(0)
      const passed = saturate(limiter, clock, () => 1e9, seconds * 1000)
      expect(Math.abs(passed / (seconds * rate) - 1)).toBeLessThan(0.01)
    },
  )

  test("the stricter of the two decides", () => {
    const clock = new ManualClock()
    const limit = { bytesPerSecond: 1e6, operationsPerSecond: 100, burstBytes: 1, burstOperations: 1 }
    const small = saturate(new RateLimiter(limit, clock), clock, () => 10, 10_000)
    expect(small).toBeGreaterThanOrEqual(995)
    expect(small).toBeLessThanOrEqual(1001)
    const large = saturate(new RateLimiter(limit, clock), clock, () => 100_000, 10_000)
    expect(large).toBeGreaterThanOrEqual(99)
    expect(large).toBeLessThanOrEqual(101)
  })

  test("a burst passes at once and comes back with time, and no more than it", () => {
    const clock = new ManualClock()
    const limiter = new RateLimiter({ operationsPerSecond: 10, burstOperations: 5 }, clock)
    const burst = () => {
      let passed = 0
      while (limiter.take(0) === 0) passed++
      return passed
    }
    expect(burst()).toBe(5)
    clock.advance(200)
    expect(burst()).toBe(2)
    clock.advance(3_600_000)
    expect(burst()).toBe(5)
    expect(limiter.take(0)).toBeCloseTo(100, 3)
  })

  test("a request larger than a burst passes when the bucket is full, and is paid for afterwards", () => {
    const clock = new ManualClock()
    const limiter = new RateLimiter({ bytesPerSecond: 1000, burstBytes: 100 }, clock)
    expect(limiter.take(10_000)).toBe(0)
    expect(limiter.take(50)).toBeCloseTo(9950, 3)
    clock.advance(9950)
    expect(limiter.take(50)).toBe(0)
  })

  test("what has to wait costs nothing, and the wait that is named is enough", () => {
    const rate = fc.double({ min: 1, max: 1e6, noNaN: true })
    const sizes = fc.array(fc.nat(1e6), { minLength: 1, maxLength: 20 })
    fc.assert(
      fc.property(rate, rate, sizes, (bytesPerSecond, burstBytes, requests) => {
        const clock = new ManualClock()
        const limiter = new RateLimiter({ bytesPerSecond, burstBytes }, clock)
        for (const size of requests) {
          const wait = limiter.take(size)
          if (wait === 0) continue
          expect(limiter.take(size)).toBe(wait)
          clock.advance(wait)
          expect(limiter.take(size)).toBe(0)
        }
      }),
    )
  })

  test("several devices on one limiter get no more together than one alone", () => {
    const clock = new ManualClock()
    const limiter = RateLimiter.of(new RateLimiter({ operationsPerSecond: 100, burstOperations: 1 }, clock))
    let passed = 0
    for (let ms = 0; ms < 10_000; ms++) {
      for (let device = 0; device < 3; device++) if (limiter.take(512) === 0) passed++
      clock.advance(1)
    }
    expect(passed).toBe(1000)
  })

  test.each<RateLimit>([
    { bytesPerSecond: 0 },
    { bytesPerSecond: -1 },
    { bytesPerSecond: Number.NaN },
    { operationsPerSecond: Number.POSITIVE_INFINITY },
    { bytesPerSecond: 1, burstBytes: 0 },
    { operationsPerSecond: 1, burstOperations: 0.5 },
  ])("refuses %o", limit => {
    expect(() => new RateLimiter(limit)).toThrow(RangeError)
  })

  test("without a limit everything passes", () => {
    const limiter = new RateLimiter({})
    for (let i = 0; i < 1000; i++) expect(limiter.take(2 ** 32)).toBe(0)
  })
})
