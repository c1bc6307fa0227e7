import { afterEach, describe, expect, test } from "vitest"
import { VIRTIO_F_EVENT_IDX } from "../features.js"
import { QueueError } from "../queue/errors.js"
import { attach, detachAll, fill } from "./runtime-under-test.js"

afterEach(detachAll)

describe.each([
  { packed: false, eventIdx: false },
  { packed: false, eventIdx: true },
  { packed: true, eventIdx: true },
])("watched rings, packed: $packed, EVENT_IDX: $eventIdx", ({ packed, eventIdx }) => {
  async function watched() {
    const features = (offered: bigint) => (eventIdx ? offered : offered & ~VIRTIO_F_EVENT_IDX)
    const attached = await attach({ packed, features })
    const { device, driver, runtime } = attached
    let served = 0
    device.onNotify = (index, ctx) =>
      ctx.drain(index, () => {
        served++
        return 0
      })
    runtime.watch()
    fill(driver, 1)
    driver.queue(0).needsKick()
    driver.port.kick(0)
    return { ...attached, served: () => served }
  }

  test("are served without a notification, which the driver is not asked for", async () => {
    const { driver, runtime, served } = await watched()
    expect(runtime.look()).toBe(false)
    fill(driver, 2)
    expect(driver.queue(0).needsKick()).toBe(false)
    expect(runtime.look()).toBe(true)
    expect(served()).toBe(3)
  })

  test("ask for notifications again in the end, and lose nothing that came until then", async () => {
    const { driver, runtime, served } = await watched()
    fill(driver, 2)
    runtime.unwatch()
    expect(served()).toBe(3)
    expect(runtime.look()).toBe(false)
    fill(driver, 1)
    expect(driver.queue(0).needsKick()).toBe(true)
  })

  test("that were suspended, or whose device was reset, are not looked at", async () => {
    const { driver, runtime, served } = await watched()
    await runtime.suspend(0)
    fill(driver, 1)
    expect([runtime.look(), served()]).toEqual([false, 1])
    runtime.resume(0)
    expect(served()).toBe(2)
    runtime.reset()
    expect(runtime.look()).toBe(false)
    runtime.unwatch()
  })
})

test("a watched ring whose driver breaks it breaks the device, and nothing is thrown", async () => {
  const { device, driver, runtime } = await attach()
  device.onNotify = (index, ctx) => ctx.drain(index, () => 0)
  runtime.watch()
  driver.port.kick(0)
  // More than the ring has: the index of the available ring lies after the flags.
  driver.memory.storeU16(driver.splitQueue(0).config.driver + 2, 0x7fff)
  expect(runtime.look()).toBe(false)
  expect(runtime.broken).toBeInstanceOf(QueueError)
})
