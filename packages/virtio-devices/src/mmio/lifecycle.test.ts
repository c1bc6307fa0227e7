import { setImmediate } from "node:timers/promises"
import { setFlagsFromString } from "node:v8"
import { runInNewContext } from "node:vm"
import { describe, expect, test } from "vitest"
import { VIRTIO_F_RING_PACKED, VIRTIO_F_RING_RESET, VIRTIO_F_VERSION_1 } from "../features.js"
import { type MockDriver, SplitDriver } from "../testing/index.js"
import * as defs from "./defs.js"
import { attach, KeepingDevice } from "./testing.js"

const RUNNING = 15

/** I/O that a test ends by hand. */
class Io {
  running = 0
  #waiters: (() => void)[] = []

  end(): void {
    this.running = 0
    for (const resolve of this.#waiters.splice(0)) resolve()
  }

  idle = (): Promise<void> | undefined =>
    this.running === 0 ? undefined : new Promise(resolve => this.#waiters.push(resolve))
}

const withRingReset = (offered: bigint) => (offered | VIRTIO_F_RING_RESET) & ~VIRTIO_F_RING_PACKED
const packedRingReset = { features: (offered: bigint) => offered, packed: true }

function post(driver: MockDriver, count: number, index = 0): void {
  for (let i = 0; i < count; i++) driver.queue(index).post([driver.writable(8)])
  driver.port.kick(index)
}

/** Bytes that are still reachable. */
async function heapUsed(): Promise<number> {
  setFlagsFromString("--expose-gc")
  const gc = runInNewContext("gc") as () => void
  for (let i = 0; i < 2; i++) {
    await setImmediate()
    gc()
  }
  return process.memoryUsage().heapUsed
}

/** True once `promise` has settled, without waiting for it. */
async function settled(promise: void | Promise<void>): Promise<boolean> {
  let done = false
  void Promise.resolve(promise).then(() => {
    done = true
  })
  await setImmediate()
  return done
}

describe("device reset", () => {
  test("is done at once when nothing is under way", async () => {
    const { device, port, transport } = await attach(new KeepingDevice())
    expect(port.write32(defs.VIRTIO_MMIO_STATUS, 0)).toBeUndefined()
    expect([port.read32(defs.VIRTIO_MMIO_STATUS), device.log]).toEqual([0, ["activate", "reset"]])
    expect(transport.counters.resets).toBe(1)
  })

  test("T8: 100,000 cycles of reset and activation leave nothing behind", { timeout: 120_000 }, async () => {
    const device = new KeepingDevice()
    let listeners = 0
    device.activate = ctx => {
      // Now and then, for a signal costs more than all the rest.
      if (counters.activations % 10 !== 0) return
      listeners++
      ctx.signal.addEventListener("abort", () => listeners--)
    }
    device.reset = () => undefined
    const { driver, port, counters } = await attach(device, {}, { queueSizes: [16, 0] })
    const { config } = driver.queue(0)
    let early = 0
    for (let i = 1; i <= 100_000; i++) {
      port.write32(defs.VIRTIO_MMIO_STATUS, 0)
      port.write32(defs.VIRTIO_MMIO_STATUS, 3)
      port.write32(defs.VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1)
      port.write32(defs.VIRTIO_MMIO_DRIVER_FEATURES, Number(VIRTIO_F_VERSION_1 >> 32n))
      port.write32(defs.VIRTIO_MMIO_STATUS, 11)
      void port.setUpQueue(0, config)
      port.write32(defs.VIRTIO_MMIO_STATUS, RUNNING)
      if (i === 20_000) early = await heapUsed()
    }
    expect((await heapUsed()) - early).toBeLessThan(2 ** 20)
    expect([counters.activations, counters.guestFaults, counters.refusals]).toEqual([100_001, 0, 0])
    await driver.reset()
    expect([port.read32(defs.VIRTIO_MMIO_STATUS), listeners]).toEqual([RUNNING, 0])
  })

  test("T8: a reset while the device is being activated wins", async () => {
    const device = new KeepingDevice()
    const { driver, port, counters } = await attach(device, {}, { holdBack: true })
    device.activate = ctx => {
      device.log.push("activate")
      // Another vCPU is that fast.
      port.write32(defs.VIRTIO_MMIO_STATUS, 0)
      ctx.configChanged()
      device.log.push(`aborted ${ctx.signal.aborted}`)
    }
    await port.driverOk()
    expect(device.log).toEqual(["activate", "reset", "aborted true"])
    expect([port.read32(defs.VIRTIO_MMIO_STATUS), driver.configInterrupts]).toEqual([0, 0])
    expect(counters.deviceErrors).toBe(0)
  })

  test("Q21: it ends when the device's I/O has; until then the registers stand still", async () => {
    const io = new Io()
    const device = new KeepingDevice()
    device.idle = io.idle
    const { driver, port, counters } = await attach(device)
    post(driver, 2)
    io.running = 2
    const chain = device.chains[0]!
    const views = [...chain.writableSlices()]
    const done = port.write32(defs.VIRTIO_MMIO_STATUS, 0)
    expect(done).toBeInstanceOf(Promise)
    const before = counters.refusals
    // What another vCPU tries meanwhile.
    port.write32(defs.VIRTIO_MMIO_QUEUE_SEL, 1)
    port.write32(defs.VIRTIO_MMIO_STATUS, RUNNING | 128)
    expect(counters.refusals).toBe(before + 2)
    expect(port.write32(defs.VIRTIO_MMIO_STATUS, 0)).toBe(done)
    expect(port.read32(defs.VIRTIO_MMIO_STATUS)).toBe(RUNNING)
    expect(await settled(done)).toBe(false)
    views[0]!.fill(0xbb)
    io.end()
    await done
    expect([port.read32(defs.VIRTIO_MMIO_STATUS), device.log]).toEqual([0, ["activate", "reset"]])
    // The memory is the driver's again: nothing that the device does late may reach it.
    expect(chain.write(0, new Uint8Array(8).fill(0xcc))).toBe(0)
    await driver.initialise()
    expect(await port.needsReset()).toBe(false)
  })

  test("Q21: a device that cannot tell is waited for while I/O goes on and it holds a chain", async () => {
    let inFlight = 3
    const { driver, port } = await attach(new KeepingDevice(), { inFlight: () => inFlight })
    // The I/O of others: this device holds nothing.
    expect(port.write32(defs.VIRTIO_MMIO_STATUS, 0)).toBeUndefined()
    await driver.initialise()
    post(driver, 1)
    const done = port.write32(defs.VIRTIO_MMIO_STATUS, 0)
    expect(await settled(done)).toBe(false)
    inFlight = 0
    await done
    expect(port.read32(defs.VIRTIO_MMIO_STATUS)).toBe(0)
  })

  test("a broken device is waited for like any other", async () => {
    const io = new Io()
    const device = new KeepingDevice()
    device.idle = io.idle
    const { driver, port } = await attach(device)
    post(driver, 1)
    io.running = 1
    driver.splitQueue(1).offerRaw(999)
    driver.port.kick(1)
    expect(await port.needsReset()).toBe(true)
    const done = port.write32(defs.VIRTIO_MMIO_STATUS, 0)
    expect(await settled(done)).toBe(false)
    io.end()
    await done
    expect(await port.needsReset()).toBe(false)
  })

  test.each([
    () => {
      throw new Error("bug")
    },
    () => Promise.reject(new Error("bug")),
  ])("a device that fails in `idle` is reset all the same", async idle => {
    const device = new KeepingDevice()
    device.idle = idle
    const { port, counters } = await attach(device)
    await port.reset()
    expect([port.read32(defs.VIRTIO_MMIO_STATUS), counters.deviceErrors]).toEqual([0, 1])
  })
})

describe("queue reset", () => {
  test("is refused unless negotiated, and unless the queue is ready", async () => {
    const { driver, port, counters } = await attach(new KeepingDevice())
    port.write32(defs.VIRTIO_MMIO_QUEUE_RESET, 1)
    expect([port.read32(defs.VIRTIO_MMIO_QUEUE_READY), counters.refusals]).toEqual([1, 1])
    const other = await attach(new KeepingDevice(), {}, { features: withRingReset, queueSizes: [0, 8] })
    for (const [index, value] of [
      [0, 1],
      [1, 0],
      [1, 2],
    ] as const) {
      other.port.write32(defs.VIRTIO_MMIO_QUEUE_SEL, index)
      other.port.write32(defs.VIRTIO_MMIO_QUEUE_RESET, value)
    }
    expect([other.counters.refusals, other.port.read32(defs.VIRTIO_MMIO_QUEUE_READY)]).toEqual([3, 1])
    expect(driver.device).not.toBe(other.device)
  })

  test.each([
    { what: "split", options: { features: withRingReset } },
    { what: "packed", options: packedRingReset },
  ])(
    "a $what queue starts afresh, with another size and place, beside one that runs on",
    async ({ options }) => {
      const { device, driver, port } = await attach(new KeepingDevice(), {}, options)
      post(driver, 3)
      port.write32(defs.VIRTIO_MMIO_QUEUE_SEL, 0)
      expect(port.write32(defs.VIRTIO_MMIO_QUEUE_RESET, 1)).toBeUndefined()
      expect([defs.VIRTIO_MMIO_QUEUE_READY, defs.VIRTIO_MMIO_QUEUE_RESET].map(at => port.read32(at))).toEqual(
        [0, 0],
      )
      const stale = device.chains.splice(0)
      await driver.setUpQueue(0, driver.placeQueue(4))
      expect(port.read32(defs.VIRTIO_MMIO_QUEUE_READY)).toBe(1)
      post(driver, 2)
      post(driver, 1, 1)
      expect(device.chains.length).toBe(3)
      device.ctx?.complete(0, stale[0]!, 8)
      for (const chain of device.chains.slice(0, 2)) device.ctx?.complete(0, chain, 8)
      await setImmediate()
      expect([
        driver.queue(0).poll()?.length,
        driver.queue(0).poll()?.length,
        driver.queue(0).poll(),
      ]).toEqual([8, 8, undefined])
      expect([await port.needsReset(), device.log]).toEqual([false, ["activate"]])
    },
  )

  test("forgets both halves of every address", async () => {
    const { device, driver, port } = await attach(new KeepingDevice(), {}, { features: withRingReset })
    port.write32(defs.VIRTIO_MMIO_QUEUE_SEL, 0)
    port.write32(defs.VIRTIO_MMIO_QUEUE_RESET, 1)
    // Below 4 GiB a driver need not write the upper halves, which were 1.
    const config = { size: 16, desc: 0x1000, driver: 0x2000, device: 0x3000 }
    port.write32(defs.VIRTIO_MMIO_QUEUE_DESC_LOW, config.desc)
    port.write32(defs.VIRTIO_MMIO_QUEUE_AVAIL_LOW, config.driver)
    port.write32(defs.VIRTIO_MMIO_QUEUE_USED_LOW, config.device)
    port.write32(defs.VIRTIO_MMIO_QUEUE_READY, 1)
    new SplitDriver(driver.memory, config, driver.features).post([driver.writable(8)])
    port.kick(0)
    expect(device.chains.length).toBe(1)
  })

  test("Q21: it ends when its chains are back, and 1 is read until then", async () => {
    const io = new Io()
    const device = new KeepingDevice()
    device.idle = io.idle
    const { driver, port, counters } = await attach(device, {}, { features: withRingReset })
    post(driver, 2)
    io.running = 2
    port.write32(defs.VIRTIO_MMIO_QUEUE_SEL, 0)
    const done = port.write32(defs.VIRTIO_MMIO_QUEUE_RESET, 1)
    expect(port.write32(defs.VIRTIO_MMIO_QUEUE_RESET, 1)).toBe(done)
    const before = counters.refusals
    port.write32(defs.VIRTIO_MMIO_QUEUE_NUM, 8)
    port.write32(defs.VIRTIO_MMIO_QUEUE_READY, 1)
    expect(counters.refusals).toBe(before + 2)
    for (const chain of device.chains) {
      expect(await settled(done)).toBe(false)
      expect([defs.VIRTIO_MMIO_QUEUE_READY, defs.VIRTIO_MMIO_QUEUE_RESET].map(at => port.read32(at))).toEqual(
        [1, 1],
      )
      device.ctx?.complete(0, chain, 8)
    }
    await done
    expect([defs.VIRTIO_MMIO_QUEUE_READY, defs.VIRTIO_MMIO_QUEUE_RESET].map(at => port.read32(at))).toEqual([
      0, 0,
    ])
    // What was finished in time is on the ring.
    expect(driver.queue(0).poll()?.length).toBe(8)
    await driver.setUpQueue(0, driver.placeQueue(16))
    post(driver, 1)
    expect(device.chains.length).toBe(3)
  })

  test("a chain that the device keeps without working on it does not hold it up", async () => {
    const io = new Io()
    const device = new KeepingDevice()
    device.idle = io.idle
    const { driver, port, counters } = await attach(device, {}, { features: withRingReset })
    post(driver, 2)
    io.running = 1
    port.write32(defs.VIRTIO_MMIO_QUEUE_SEL, 0)
    const done = port.write32(defs.VIRTIO_MMIO_QUEUE_RESET, 1)
    expect(await settled(done)).toBe(false)
    io.end()
    await done
    expect(port.read32(defs.VIRTIO_MMIO_QUEUE_READY)).toBe(0)
    device.ctx?.complete(0, device.chains[0]!, 8)
    expect(counters.lateCompletions).toBe(1)
  })

  test("Q21: a device reset in the middle takes the waiting over", async () => {
    const io = new Io()
    const device = new KeepingDevice()
    device.idle = io.idle
    const { driver, port } = await attach(device, {}, { features: withRingReset })
    post(driver, 1)
    io.running = 1
    port.write32(defs.VIRTIO_MMIO_QUEUE_SEL, 0)
    const queue = port.write32(defs.VIRTIO_MMIO_QUEUE_RESET, 1)
    const whole = port.write32(defs.VIRTIO_MMIO_STATUS, 0)
    expect([await settled(queue), await settled(whole)]).toEqual([false, false])
    // The driver loses no time: what waits for the queue must not stop the one of the next activation.
    const again = Promise.resolve(whole).then(() => driver.initialise())
    io.end()
    await Promise.all([queue, whole, again])
    await setImmediate()
    port.write32(defs.VIRTIO_MMIO_QUEUE_SEL, 0)
    expect([defs.VIRTIO_MMIO_STATUS, defs.VIRTIO_MMIO_QUEUE_READY].map(at => port.read32(at))).toEqual([
      RUNNING,
      1,
    ])
  })

  test("Q18: a queue that starts again with a ring that cannot be breaks the device", async () => {
    const { driver, port } = await attach(new KeepingDevice(), {}, { features: withRingReset })
    port.write32(defs.VIRTIO_MMIO_QUEUE_SEL, 0)
    port.write32(defs.VIRTIO_MMIO_QUEUE_RESET, 1)
    await port.setUpQueue(0, { size: 16, desc: 8, driver: 0x1000, device: 0x2000 })
    expect([await port.needsReset(), driver.configInterrupts]).toEqual([true, 1])
    // A broken device starts no queue.
    port.write32(defs.VIRTIO_MMIO_QUEUE_RESET, 1)
    port.write32(defs.VIRTIO_MMIO_QUEUE_READY, 1)
    expect(port.read32(defs.VIRTIO_MMIO_QUEUE_READY)).toBe(0)
    await driver.reset()
    expect(await port.needsReset()).toBe(false)
  })
})

describe("queue ready 0", () => {
  test("stops a queue for good without VIRTIO_F_RING_RESET", async () => {
    const { device, driver, port, counters } = await attach(new KeepingDevice())
    post(driver, 1)
    port.write32(defs.VIRTIO_MMIO_QUEUE_SEL, 0)
    port.write32(defs.VIRTIO_MMIO_QUEUE_READY, 0)
    expect([port.read32(defs.VIRTIO_MMIO_QUEUE_READY), counters.refusals]).toEqual([0, 0])
    post(driver, 1)
    port.write32(defs.VIRTIO_MMIO_QUEUE_READY, 1)
    expect([port.read32(defs.VIRTIO_MMIO_QUEUE_READY), counters.refusals]).toEqual([0, 1])
    expect([device.chains.length, counters.notificationsIgnored]).toEqual([1, 1])
    await driver.reset()
    post(driver, 1)
    expect(device.chains.length).toBe(2)
  })

  test("is taken in every state, as Linux writes it when it lets go of a queue", async () => {
    const { driver, port, device, counters } = await attach(new KeepingDevice(), {}, { holdBack: true })
    port.write32(defs.VIRTIO_MMIO_QUEUE_SEL, 0)
    port.write32(defs.VIRTIO_MMIO_QUEUE_READY, 0)
    await driver.setUpQueue(0, driver.placeQueue(8))
    await port.driverOk()
    expect(device.ctx?.hasQueue(0)).toBe(true)
    await port.reset()
    for (const index of [0, 1, 7]) {
      port.write32(defs.VIRTIO_MMIO_QUEUE_SEL, index)
      port.write32(defs.VIRTIO_MMIO_QUEUE_READY, 0)
    }
    expect(counters.refusals).toBe(0)
  })
})

describe("close", () => {
  test("ends the device when its I/O has, and the window is dead", async () => {
    const io = new Io()
    const device = new KeepingDevice()
    device.idle = io.idle
    const { driver, port, transport, counters } = await attach(device)
    post(driver, 1)
    io.running = 1
    const closed = transport.close()
    expect(await settled(closed)).toBe(false)
    io.end()
    await closed
    const { notifications, refusals } = counters
    transport.notify(0)
    transport.write(defs.VIRTIO_MMIO_STATUS, Uint8Array.of(3, 0, 0, 0))
    transport.write(defs.VIRTIO_MMIO_CONFIG, Uint8Array.of(9))
    expect([port.read32(defs.VIRTIO_MMIO_MAGIC_VALUE), port.read32(defs.VIRTIO_MMIO_CONFIG)]).toEqual([0, 0])
    expect([counters.notifications, counters.refusals, device.config[0]]).toEqual([
      notifications,
      refusals,
      0xa0,
    ])
    expect(device.log).toEqual(["activate", "reset"])
    await transport.close()
    expect(device.log).toEqual(["activate", "reset"])
  })
})
