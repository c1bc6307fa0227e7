import { afterEach, describe, expect, test } from "vitest"
import { type RateLimit, RateLimiter } from "../rate-limiter.js"
import {
  deviceConformance,
  direct,
  ManualClock,
  MockDriver,
  overMmio,
  overVhostUser,
} from "../testing/index.js"
import { MAX_REQUEST_SIZE, RNG_QUEUE, RngDevice } from "./index.js"

const pattern = (): RngDevice => new RngDevice({ fill: into => into.fill(0xa5) })
const drivers: MockDriver[] = []
afterEach(async () => {
  for (const driver of drivers.splice(0)) await driver[Symbol.asyncDispose]()
})

describe.each([{ packed: false }, { packed: true }])("entropy device, packed: $packed", ({ packed }) => {
  async function attach(device = pattern(), queueSizes = [16]): Promise<MockDriver> {
    const driver = await MockDriver.attach(device, direct, { packed, queueSizes })
    drivers.push(driver)
    return driver
  }

  test("fills every writable byte, reports the length, interrupts once", async () => {
    const driver = await attach()
    const buffer = driver.writable(48)
    const used = await driver.send(RNG_QUEUE, [buffer])
    expect(used.length).toBe(48)
    expect(buffer.bytes()).toEqual(new Uint8Array(48).fill(0xa5))
    expect(driver.interrupts(RNG_QUEUE)).toBe(1)
  })

  test("serves many requests over several rounds of the ring", async () => {
    const driver = await attach()
    for (let i = 0; i < 100; i++) {
      const parts = [driver.writable(3), driver.writable(5), driver.writable(i + 1)]
      expect((await driver.send(RNG_QUEUE, parts)).length).toBe(9 + i)
      expect(parts.every(part => part.bytes().every(byte => byte === 0xa5))).toBe(true)
    }
  })

  test("C5: a chain of 1 GiB gets no more than one request's share", async () => {
    const driver = await attach()
    const indirectTable = driver.alloc(1024 * 16)
    const whole = Array.from({ length: 1024 }, () => driver.writable(2 ** 20, 0))
    const { length } = await driver.send(RNG_QUEUE, whole, { indirectTable })
    expect(length).toBe(MAX_REQUEST_SIZE)
  })

  test("C5: a flood of large requests is spread over turns of the event loop", async () => {
    let filled = 0
    const fill = (into: Uint8Array) => {
      filled += into.length
    }
    const driver = await attach(new RngDevice({ fill }), [64])
    const big = driver.writable(MAX_REQUEST_SIZE)
    for (let i = 0; i < 40; i++) driver.queue(RNG_QUEUE).post([big])
    driver.port.kick(RNG_QUEUE)
    expect(filled).toBe(2 ** 20)
    driver.port.kick(RNG_QUEUE)
    expect(filled).toBe(2 ** 20)
    await driver.until(() => filled === 40 * MAX_REQUEST_SIZE, "the whole flood")
    for (let i = 0; i < 40; i++) expect(driver.queue(RNG_QUEUE).poll()?.length).toBe(MAX_REQUEST_SIZE)
  })

  test("uses nothing of a device-readable chain", async () => {
    const driver = await attach()
    const buffer = driver.readable(Uint8Array.of(1, 2, 3))
    expect((await driver.send(RNG_QUEUE, [buffer])).length).toBe(0)
    expect(buffer.bytes()).toEqual(Uint8Array.of(1, 2, 3))
  })
})

describe.each([direct, overVhostUser, overMmio])("entropy device over $name", over => {
  const works = async (driver: MockDriver) => {
    const buffer = driver.writable(7)
    expect((await driver.send(RNG_QUEUE, [buffer])).length).toBe(7)
    expect(buffer.bytes()).toEqual(new Uint8Array(7).fill(0xa5))
  }
  test.each(deviceConformance({ makeDevice: pattern, over, works }))("$name", ({ run }) => run())
})

describe("entropy device with a rate limit", () => {
  const limited = (limit: RateLimit, clock: ManualClock) =>
    new RngDevice({ fill: into => into.fill(0xa5), rateLimit: new RateLimiter(limit, clock) })

  test("C5: gives no more bytes than its rate, whatever is asked for", async () => {
    const clock = new ManualClock()
    const driver = await MockDriver.attach(limited({ bytesPerSecond: 1000, burstBytes: 100 }, clock))
    drivers.push(driver)
    let bytes = 0
    for (let ms = 0; ms < 20_000; ms += 50) {
      while (driver.queue(RNG_QUEUE).free > 0) driver.post(RNG_QUEUE, [driver.writable(10)])
      clock.advance(50)
      await driver.port.settle()
      for (let used = driver.queue(RNG_QUEUE).poll(); used; used = driver.queue(RNG_QUEUE).poll())
        bytes += used.length
    }
    expect(Math.abs(bytes / 20_000 - 1)).toBeLessThan(0.01)
  })

  test("Q21: a reset drops the requests that wait", async () => {
    const clock = new ManualClock()
    const driver = await MockDriver.attach(limited({ bytesPerSecond: 10, burstBytes: 10 }, clock))
    drivers.push(driver)
    await driver.send(RNG_QUEUE, [driver.writable(10)])
    const late = driver.writable(10)
    driver.post(RNG_QUEUE, [late])
    expect(clock.pending).toBe(1)
    await driver.reset()
    clock.advance(5000)
    expect(late.bytes()).toEqual(new Uint8Array(10))
    expect((await driver.send(RNG_QUEUE, [driver.writable(10)])).length).toBe(10)
  })
})
