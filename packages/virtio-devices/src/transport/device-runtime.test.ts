import { setImmediate } from "node:timers/promises"
import { afterEach, describe, expect, test, vi } from "vitest"
import type { DeviceContext } from "../device.js"
import type { DescriptorChain } from "../queue/chain.js"
import { QueueError } from "../queue/errors.js"
import { attach, attachDriver, detachAll, fill, TestDevice } from "./runtime-under-test.js"

afterEach(detachAll)

describe.each([{ packed: false }, { packed: true }])("drain, packed: $packed", ({ packed }) => {
  test("hands out every chain and interrupts once at the end", async () => {
    const { device, driver, counters } = await attach({ packed })
    device.onNotify = (index, ctx) => ctx.drain(index, chain => chain.writableLength)
    fill(driver, 10)
    driver.port.kick(0)
    expect([driver.interrupts(0), counters.interrupts]).toEqual([1, 1])
    expect(Array.from({ length: 10 }, () => driver.queue(0).poll()?.length)).toEqual(new Array(10).fill(8))
  })

  test("looks once more after it enabled notifications", async () => {
    const { device, driver } = await attach({ packed })
    let late = 0
    device.onNotify = (index, ctx) =>
      ctx.drain(index, () => {
        // Comes while notifications are off, so nobody will tell.
        if (late++ === 0) fill(driver, 1)
        return 0
      })
    fill(driver, 1)
    driver.port.kick(0)
    expect(late).toBe(2)
  })

  test("gives other work a turn after one ring's worth", async () => {
    const { device, driver } = await attach({ packed, queueSizes: [16, 0] })
    let served = 0
    device.onNotify = (index, ctx) =>
      ctx.drain(index, () => {
        served++
        queueMicrotask(() => undefined)
        return 0
      })
    const queue = driver.queue(0)
    device.onNotify = (index, ctx) =>
      ctx.drain(index, () => {
        served++
        if (served < 100) {
          // A second CPU that refills the ring as fast as it is emptied.
          if (queue.free > 0) fill(driver, 1)
          else while (queue.poll());
        }
        return 0
      })
    fill(driver, 1)
    driver.port.kick(0)
    expect(served).toBe(16)
  })

  test("ends when the handler gives the chain back", async () => {
    const { device, driver } = await attach({ packed })
    let calls = 0
    device.onNotify = (index, ctx) =>
      ctx.drain(index, chain => {
        calls++
        if (calls === 1) return 0
        ctx.unpop(index, chain)
        return undefined
      })
    const ids = fill(driver, 3)
    driver.port.kick(0)
    expect(calls).toBe(2)
    expect(device.ctx!.pop(0)?.head).toBe(ids[1])
  })

  test("does nothing for a queue that is not there", async () => {
    const { ctx, device } = await attach({ packed })
    expect([ctx.hasQueue(0), ctx.hasQueue(2)]).toEqual([true, false])
    ctx.drain(7, () => {
      throw new Error("never called")
    })
    expect(ctx.pop(7)).toBeUndefined()
    expect(device.log).toEqual(["activate"])
  })
})

describe("complete", () => {
  test("outside a drain interrupts once for all of a turn", async () => {
    const { driver, ctx, counters } = await attach()
    fill(driver, 3)
    const chains = [ctx.pop(0)!, ctx.pop(0)!, ctx.pop(0)!]
    for (const chain of chains) ctx.complete(0, chain, 8)
    expect(driver.queue(0).poll()).toBeUndefined()
    await Promise.resolve()
    expect(counters.interrupts).toBe(1)
    expect(driver.queue(0).poll()?.length).toBe(8)
  })

  test("twice is misuse and throws", async () => {
    const { driver, ctx } = await attach()
    fill(driver, 1)
    const chain = ctx.pop(0)!
    ctx.complete(0, chain, 0)
    expect(() => ctx.complete(0, chain, 0)).toThrow(QueueError)
  })

  test("an empty queue asks for the next notification, with EVENT_IDX too", async () => {
    const { driver, ctx, device } = await attach()
    const notified = vi.fn()
    device.onNotify = notified
    for (let i = 1; i <= 5; i++) {
      expect(ctx.pop(0)).toBeUndefined()
      driver.post(0, [driver.writable(8)])
      expect(notified).toHaveBeenCalledTimes(i)
      ctx.complete(0, ctx.pop(0)!, 0)
    }
  })
})

describe("reset", () => {
  test("Q21: aborts first; late completions and late writes do nothing", async () => {
    const { device, driver, ctx, counters } = await attach()
    const buffer = driver.writable(8)
    driver.queue(0).post([buffer])
    const chain = ctx.pop(0)!
    await driver.port.reset()
    expect(device.log).toEqual(["activate", "abort", "reset"])
    expect(chain.write(0, new Uint8Array(8).fill(1))).toBe(0)
    ctx.complete(0, chain, 8)
    ctx.unpop(0, chain)
    ctx.configChanged()
    ctx.fail(new Error("late"))
    await setImmediate()
    expect(counters.lateCompletions).toBe(1)
    expect([driver.interrupts(0), driver.configInterrupts, counters.deviceErrors]).toEqual([0, 0, 0])
    expect(buffer.bytes()).toEqual(new Uint8Array(8))
    expect(await driver.port.needsReset()).toBe(false)
  })

  test("Q21: a chain of the activation before is not one of the next", async () => {
    const { device, driver, ctx } = await attach()
    fill(driver, 1)
    const old = ctx.pop(0)!
    await driver.reset()
    fill(driver, 1)
    const next = device.ctx!
    next.complete(0, old, 0)
    expect(next.pop(0)?.writableLength).toBe(8)
    expect(device.log).toEqual(["activate", "abort", "reset", "activate"])
  })

  test("a signal that is first asked for after the reset says so at once", async () => {
    const device = new TestDevice()
    let ctx: DeviceContext | undefined
    device.activate = one => {
      ctx = one
    }
    const driver = await attachDriver(device)
    await driver.port.reset()
    expect(ctx?.signal.aborted).toBe(true)
  })

  test("says what the device holds, of one queue and of all", async () => {
    const { driver, runtime, ctx } = await attach()
    fill(driver, 3)
    fill(driver, 1, 1)
    const chains = [ctx.pop(0)!, ctx.pop(0)!, ctx.pop(1)!]
    expect([runtime.inFlight(0), runtime.inFlight(1), runtime.inFlight(7), runtime.inFlight()]).toEqual([
      2, 1, 0, 3,
    ])
    ctx.complete(0, chains[0]!, 0)
    ctx.unpop(0, chains[1]!)
    expect(runtime.inFlight()).toBe(1)
    runtime.reset()
    expect(runtime.inFlight()).toBe(0)
  })

  test("Q18: the runtime takes no second activation without a reset", async () => {
    const { device, port, runtime, counters } = await attach()
    runtime.activate(port.memory, 0n)
    expect(counters.refusals).toBe(1)
    expect(device.log).toEqual(["activate"])
  })

  test("T8: 10,000 cycles leave nothing behind that grows", async () => {
    const { driver, port, runtime, device } = await attach()
    const features = port.negotiation.features
    const queues = port.negotiation.readyQueues()
    for (let i = 0; i < 10_000; i++) {
      runtime.reset()
      runtime.activate(driver.memory, features, queues)
    }
    expect(runtime.counters.activations).toBe(10_001)
    expect(device.log.length).toBe(30_001)
  })
})

describe("fault policy", () => {
  test("a broken chain stops the device, says so once, and reset recovers", async () => {
    const { device, driver, runtime, counters } = await attach()
    device.onNotify = (index, ctx) => ctx.drain(index, () => 0)
    driver.splitQueue(0).offerRaw(999)
    driver.port.kick(0)
    expect(await driver.port.needsReset()).toBe(true)
    expect((runtime.broken as QueueError).code).toBe("head-index")
    driver.port.kick(0)
    driver.port.kick(1)
    expect([counters.guestFaults, driver.configInterrupts, counters.notificationsIgnored]).toEqual([1, 1, 2])
    await driver.reset()
    fill(driver, 1)
    driver.port.kick(0)
    expect(driver.queue(0).poll()).toBeDefined()
    expect(await driver.port.needsReset()).toBe(false)
  })

  test("T4: a ring that cannot be made breaks the device without activating it", async () => {
    const device = new TestDevice()
    const driver = await attachDriver(device, { holdBack: true, queueSizes: [0, 0] })
    await driver.setUpQueue(0, { ...driver.placeQueue(16), desc: 0x3000_0000 }).catch(() => undefined)
    await driver.port.driverOk()
    expect(await driver.port.needsReset()).toBe(true)
    expect(device.log).toEqual([])
    await driver.reset()
    await driver.port.driverOk()
    expect(device.log).toEqual(["activate"])
  })

  test("what a device throws is caught and counted apart from the guest's faults", async () => {
    const { device, driver, counters, runtime } = await attach()
    device.onNotify = () => {
      throw new TypeError("bug in the device")
    }
    driver.port.kick(0)
    expect([counters.guestFaults, counters.deviceErrors]).toEqual([0, 1])
    expect(runtime.broken).toBeInstanceOf(TypeError)
    await driver.reset()
    device.onNotify = (index, ctx) =>
      ctx.drain(index, () => {
        throw new Error("in the handler")
      })
    fill(driver, 1)
    driver.port.kick(0)
    expect([counters.guestFaults, counters.deviceErrors]).toEqual([0, 2])
  })

  test("a device breaks itself with fail", async () => {
    const { driver, ctx } = await attach()
    ctx.fail(new Error("unusable request"))
    expect(await driver.port.needsReset()).toBe(true)
    fill(driver, 1)
    expect(ctx.pop(0)).toBeUndefined()
  })

  test("Q19: notifications of missing queues, and before or after activity, are counted and ignored", async () => {
    const { device, driver, runtime, counters } = await attach({ queueSizes: [16, 0] })
    const notified = vi.fn()
    device.onNotify = notified
    for (const index of [1, 2, -1, 65535, Number.NaN]) driver.port.kick(index)
    await driver.port.reset()
    driver.port.kick(0)
    expect(notified).not.toHaveBeenCalled()
    expect(counters.notificationsIgnored).toBe(6)
    expect(runtime.active).toBe(false)
  })

  test("Q20: a million notifications of an empty queue cost no interrupt and no fault", async () => {
    const { device, driver, counters } = await attach()
    device.onNotify = (index, ctx) => ctx.drain(index, () => 0)
    for (let i = 0; i < 1_000_000; i++) driver.port.kick(0)
    expect([counters.notifications, counters.interrupts, counters.guestFaults]).toEqual([1_000_000, 0, 0])
  })

  test("Q22: memory that is gone breaks the device instead of the process", async () => {
    const { device, driver, port, counters } = await attach()
    device.onNotify = (index, ctx) => ctx.drain(index, chain => chain.write(0, new Uint8Array(8)))
    fill(driver, 1)
    port.memory.close()
    driver.port.kick(0)
    expect(await driver.port.needsReset()).toBe(true)
    expect(counters.guestFaults).toBe(1)
    await driver.port.reset()
  })
})

describe("queues one by one", () => {
  async function bare() {
    const { device, driver, port, runtime } = await attach({ queueSizes: [0, 0] })
    return { device, driver, port, runtime, place: () => driver.placeQueue(16) }
  }

  test("start while the device is active, and it looks at them", async () => {
    const { device, runtime, place } = await bare()
    const notified: number[] = []
    device.onNotify = index => void notified.push(index)
    const config = place()
    expect(runtime.startQueue(1, config)).toBe(true)
    expect(runtime.startQueue(1, config)).toBe(false)
    expect([notified, runtime.hasQueue(1), runtime.hasQueue(0)]).toEqual([[1], true, false])
  })

  test.each([
    { what: "no such queue", index: 2, over: {}, code: "queue-index" },
    { what: "larger than offered", index: 0, over: { size: 128 }, code: "queue-size" },
    { what: "of size 0", index: 0, over: { size: 0 }, code: "queue-size" },
    { what: "outside memory", index: 0, over: { desc: 2 ** 50 }, code: "ring-address" },
  ])("Q18: $what breaks the device", async ({ index, over, code }) => {
    const { runtime, place } = await bare()
    expect(runtime.startQueue(index, { ...place(), ...over })).toBe(false)
    expect((runtime.broken as QueueError).code).toBe(code)
  })

  test("stop gives the position, publishes what was complete, revokes the rest", async () => {
    const { driver, runtime, ctx, counters } = await attach()
    fill(driver, 3)
    const chains: DescriptorChain[] = [ctx.pop(0)!, ctx.pop(0)!]
    ctx.complete(0, chains[0]!, 4)
    expect(runtime.stopQueue(0)).toMatchObject({ availIndex: 2, usedIndex: 1 })
    expect(driver.queue(0).poll()?.length).toBe(4)
    ctx.complete(0, chains[1]!, 4)
    expect(counters.lateCompletions).toBe(1)
    expect(runtime.stopQueue(0)).toBeUndefined()
  })

  test("suspend lets the device finish what it took and nothing more", async () => {
    const { device, driver, runtime, ctx } = await attach()
    fill(driver, 2)
    const chain = ctx.pop(0)!
    let idle = false
    const suspended = runtime.suspend(0).then(() => {
      idle = true
    })
    expect(ctx.pop(0)).toBeUndefined()
    await setImmediate()
    expect(idle).toBe(false)
    ctx.complete(0, chain, 0)
    await suspended
    expect(runtime.queueState(0)?.availIndex).toBe(1)
    const seen: number[] = []
    device.onNotify = index => void seen.push(index)
    driver.port.kick(0)
    runtime.resume(0)
    expect(seen).toEqual([0])
    expect(ctx.pop(0)).toBeDefined()
  })

  test("suspend ends with a reset too", async () => {
    const { driver, runtime, ctx } = await attach()
    fill(driver, 1)
    ctx.pop(0)
    const suspended = runtime.suspend(0)
    runtime.reset()
    await suspended
    await runtime.suspend(0)
    expect(runtime.active).toBe(false)
  })
})

describe.each([{ packed: false }, { packed: true }])(
  "a driver on another CPU, packed: $packed",
  ({ packed }) => {
    /** Eight interrupts after which the driver had done nothing yet. */
    async function beside() {
      const attached = await attach({ packed })
      const { device, driver } = attached
      device.onNotify = (index, ctx) => ctx.drain(index, () => 0)
      for (let i = 0; i < 8; i++) {
        fill(driver, 1)
        driver.port.kick(0)
        driver.queue(0).poll()
        driver.queue(0).setInterrupts(true)
      }
      return attached
    }

    test("is told of the first completions while the rest are still to be served", async () => {
      const { device, driver } = await beside()
      const before = driver.interrupts(0)
      const told: number[] = []
      device.onNotify = (index, ctx) =>
        ctx.drain(index, () => {
          told.push(driver.interrupts(0) - before)
          return 0
        })
      fill(driver, 14)
      driver.port.kick(0)
      expect(told).toEqual([...new Array(12).fill(0), 1, 1])
      expect(driver.queue(0).poll()).toBeDefined()
    })
  },
)
