import { afterEach, describe, expect, test } from "vitest"
import { type RateLimit, RateLimiter } from "../rate-limiter.js"
import {
  type DirectPort,
  deviceConformance,
  direct,
  ManualClock,
  MockDriver,
  overMmio,
  overVhostUser,
} from "../testing/index.js"
import * as defs from "./defs.js"
import { BlockDevice } from "./device.js"
import { memoryBackend } from "./memory-backend.js"
import type { BlockDeviceOptions } from "./options.js"
import { BlockDriver, requestHeader } from "./testing.js"

const closers: (() => Promise<void> | void)[] = []
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close()
})

function makeDevice(options: BlockDeviceOptions): BlockDevice {
  const disk = memoryBackend(1024 * 512)
  closers.push(() => disk.close())
  return new BlockDevice(disk, options)
}

async function attach(limit: RateLimit, options: BlockDeviceOptions = {}, over = direct) {
  const clock = new ManualClock()
  const device = makeDevice({ ...options, rateLimit: new RateLimiter(limit, clock) })
  const queueSizes = device.queueSizes.map(() => 256)
  const driver = await MockDriver.attach(device, over, { queueSizes })
  closers.push(() => driver[Symbol.asyncDispose]())
  return { clock, device, driver }
}

/** Makes `count` reads of `bytes` available on `queue`, of rising sectors, and notifies. @returns their ids, in order */
function postReads(driver: MockDriver, queue: number, count: number, bytes = 512): number[] {
  const ids: number[] = []
  for (let i = 0; i < count; i++) {
    const header = driver.readable(requestHeader(defs.VIRTIO_BLK_T_IN, i))
    ids.push(driver.queue(queue).post([header, driver.writable(bytes), driver.writable(1)]))
  }
  driver.port.kick(queue)
  return ids
}

async function takeUsed(driver: MockDriver, queue: number): Promise<number[]> {
  await driver.port.settle()
  const ids: number[] = []
  for (let used = driver.queue(queue).poll(); used; used = driver.queue(queue).poll()) ids.push(used.id)
  return ids
}

describe("a disk with a rate limit", () => {
  test("serves a burst at once, and the rest in order as time goes by", async () => {
    const { clock, driver } = await attach({ operationsPerSecond: 10, burstOperations: 4 })
    const ids = postReads(driver, 0, 20)
    expect(await takeUsed(driver, 0)).toEqual(ids.slice(0, 4))
    clock.advance(99)
    expect(await takeUsed(driver, 0)).toEqual([])
    clock.advance(1)
    expect(await takeUsed(driver, 0)).toEqual(ids.slice(4, 5))
    clock.advance(1500)
    expect(await takeUsed(driver, 0)).toEqual(ids.slice(5))
  })

  test("counts the bytes of the data: totals are exact within 1 %", async () => {
    const { clock, driver, device } = await attach({ bytesPerSecond: 512_000, burstBytes: 4096 })
    let ms = 0
    for (; ms < 4000; ms += 20) {
      postReads(driver, 0, driver.queue(0).free / 3 > 20 ? 20 : 0, 4096)
      clock.advance(20)
      await takeUsed(driver, 0)
    }
    expect(Math.abs(device.counters.bytesRead / (512 * ms) - 1)).toBeLessThan(0.01)
  })

  test("asks for notifications again when nothing waits any more", async () => {
    const { clock, driver } = await attach({ operationsPerSecond: 10, burstOperations: 1 })
    for (let round = 0; round < 5; round++) {
      postReads(driver, 0, 3)
      clock.advance(300)
      expect(await takeUsed(driver, 0)).toHaveLength(3)
      expect(clock.pending).toBe(0)
      clock.advance(100)
      driver.post(0, [
        driver.readable(requestHeader(defs.VIRTIO_BLK_T_IN)),
        driver.writable(512),
        driver.writable(1),
      ])
      expect(await takeUsed(driver, 0)).toHaveLength(1)
      clock.advance(100)
    }
  })

  test("serves several queues by turns, however full one of them is", async () => {
    const { clock, driver } = await attach({ operationsPerSecond: 100, burstOperations: 1 }, { queues: 3 })
    postReads(driver, 0, 80)
    postReads(driver, 1, 20)
    postReads(driver, 2, 20)
    clock.advance(299.9)
    const shares = [0, 1, 2].map(queue => takeUsed(driver, queue))
    // The first one had a request served before the others came.
    expect((await Promise.all(shares)).map(ids => ids.length)).toEqual([11, 10, 9])
    clock.advance(900)
    const rest = [0, 1, 2].map(queue => takeUsed(driver, queue))
    expect((await Promise.all(rest)).map(ids => ids.length)).toEqual([69, 10, 11])
  })

  test("Q21: a reset drops what waits, calls the timer off, and gives no fresh burst", async () => {
    const { clock, driver, device } = await attach({ operationsPerSecond: 10, burstOperations: 2 })
    postReads(driver, 0, 10)
    expect(clock.pending).toBe(1)
    await driver.reset()
    expect(clock.pending).toBe(0)
    expect(device.counters.reads).toBe(2)
    const ids = postReads(driver, 0, 3)
    expect(await takeUsed(driver, 0)).toEqual([])
    clock.advance(300)
    expect(await takeUsed(driver, 0)).toEqual(ids)
    expect(device.counters.reads).toBe(5)
  })

  test("a queue is stopped at once while its requests wait, and goes on where it stopped", async () => {
    const { clock, driver, device } = await attach({ operationsPerSecond: 10, burstOperations: 1 })
    const { runtime } = driver.port as DirectPort
    const ids = postReads(driver, 0, 3)
    await runtime.suspend(0)
    clock.advance(1000)
    expect(device.counters.reads).toBe(1)
    runtime.resume(0)
    clock.advance(1000)
    expect(await takeUsed(driver, 0)).toEqual(ids)
  })

  test("B2: requests that are refused count, and a flood of them leaves the event loop to others", async () => {
    const { clock, driver, device } = await attach({ bytesPerSecond: 1000, burstBytes: 1000 }, { queues: 2 })
    postReads(driver, 0, 1, 4096)
    for (const queue of [0, 1]) {
      for (let i = 0; i < 200; i++) driver.queue(queue).post([driver.writable(1)])
      driver.port.kick(queue)
    }
    expect(device.counters.failed).toBe(0)
    clock.advance(4000)
    // One turn's worth, and then others.
    expect(device.counters.failed).toBe(256)
    await driver.port.settle()
    expect(device.counters.failed).toBe(400)
  })
})

describe.each([direct, overVhostUser, overMmio])("a disk with a high rate limit over $name", over => {
  const works = async (driver: MockDriver) => {
    const request = { writable: [512, 512] }
    const { status } = await new BlockDriver(driver).request(defs.VIRTIO_BLK_T_IN, 2, request)
    expect(status).toBe(defs.VIRTIO_BLK_S_OK)
  }
  const limited = () => makeDevice({ rateLimit: { bytesPerSecond: 1e15, operationsPerSecond: 1e9 } })
  test.each(deviceConformance({ makeDevice: limited, over, works }))("$name", ({ run }) => run())
})
