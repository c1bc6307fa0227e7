import { describe, expect, test } from "vitest"
import { QueueError } from "../queue/errors.js"
import { SplitQueue } from "../queue/split-queue.js"
import { BROKEN_CHAINS, direct, MockDriver, ODD_CHAINS } from "./index.js"

const nothing = () => undefined
/** Leaves its ring to the test. */
const idle = { type: 0, queueSizes: [16], features: 0n, activate: nothing, notify: nothing, reset: nothing }

describe("hostile chains", () => {
  test.each(BROKEN_CHAINS)("$name is refused as $code", async chain => {
    await using driver = await MockDriver.attach(idle, direct)
    const queue = new SplitQueue(driver.memory, driver.queue(0).config, driver.features)
    chain.plant(driver, 0)
    let thrown: unknown
    try {
      while (queue.pop());
    } catch (error) {
      thrown = error
    }
    expect(thrown).toBeInstanceOf(QueueError)
    expect((thrown as QueueError).code).toBe(chain.code)
  })

  test.each(ODD_CHAINS)("$name: the queue takes it", async chain => {
    await using driver = await MockDriver.attach(idle, direct)
    const queue = new SplitQueue(driver.memory, driver.queue(0).config, driver.features)
    chain.plant(driver, 0)
    expect(queue.pop()).toBeDefined()
    expect(queue.pop()).toBeUndefined()
  })
})
