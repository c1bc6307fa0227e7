import { setImmediate, setTimeout } from "node:timers/promises"
import { afterEach, beforeEach, expect, test, vi } from "vitest"
import { AdaptivePoll, type WatchedRings } from "./adaptive-poll.js"

/** Rings of which a test says what comes without a notification. */
class TestRings implements WatchedRings {
  /** Requests that come as soon as it is looked. */
  waiting = 0
  served = 0
  watched = false
  looks = 0

  notify(): void {
    this.served++
  }
  watch(): void {
    this.watched = true
  }
  look(): boolean {
    this.looks++
    if (this.waiting === 0) return false
    this.waiting--
    this.served++
    return true
  }
  unwatch(): void {
    this.watched = false
  }
}

/** A look at the clock takes 10 us, and nothing else does: windows of microseconds do not go by with what else runs here. */
let now: number
/** How often this process had to give the CPU away. */
let switches: number
beforeEach(() => {
  now = 0
  switches = 0
  const usage = process.resourceUsage()
  vi.spyOn(process, "resourceUsage").mockImplementation(() => ({
    ...usage,
    involuntaryContextSwitches: switches,
  }))
  vi.spyOn(performance, "now").mockImplementation(() => {
    now += 0.01
    return now
  })
})
afterEach(() => void vi.restoreAllMocks())

const until = async (condition: () => boolean) => {
  while (!condition()) await setImmediate()
}

test("what follows a request by itself is served with it", () => {
  const poll = new AdaptivePoll()
  const rings = new TestRings()
  rings.waiting = 3
  poll.kicked(rings, 0)
  expect(rings.served).toBe(4)
})

test("rings are looked at for a while, and ask for notifications again when nothing comes", async () => {
  const poll = new AdaptivePoll()
  const rings = new TestRings()
  poll.kicked(rings, 0)
  expect(rings.watched).toBe(true)
  await until(() => !rings.watched)
  const { looks } = rings
  await setTimeout(2)
  expect(rings.looks).toBe(looks)
})

test("a driver that never stops does not keep the event loop from others", async () => {
  const poll = new AdaptivePoll()
  const rings = new TestRings()
  rings.waiting = Number.POSITIVE_INFINITY
  poll.kicked(rings, 0)
  await setTimeout(1)
  expect(rings.served).toBeGreaterThan(1)
  rings.waiting = 0
  await until(() => !rings.watched)
})

test("where nothing ever comes it is tried ever more rarely", async () => {
  const poll = new AdaptivePoll()
  const rings = new TestRings()
  let windows = 0
  for (let kick = 0; kick < 100; kick++) {
    poll.kicked(rings, 0)
    if (rings.watched) windows++
    await until(() => !rings.watched)
  }
  expect(windows).toBeLessThan(15)
  expect(rings.served).toBe(100)
})

test("one poll serves the rings of several devices", async () => {
  const poll = new AdaptivePoll()
  const [disk, net] = [new TestRings(), new TestRings()]
  poll.kicked(disk, 0)
  poll.kicked(net, 1)
  await until(() => !disk.watched && !net.watched)
  expect([disk.served, net.served]).toEqual([1, 1])
})

test("where others had the CPU some kicks pass without looking, and more when that comes again soon", async () => {
  const poll = new AdaptivePoll()
  const rings = new TestRings()
  /** Kicks until there is a window again, which is one in which others have the CPU. */
  const kicksUntilCrowded = async () => {
    let kicks = 0
    do {
      kicks++
      poll.kicked(rings, 0)
    } while (!rings.watched)
    now += 3
    switches++
    await until(() => !rings.watched)
    return kicks
  }
  const kicks = []
  for (let i = 0; i < 6; i++) kicks.push(await kicksUntilCrowded())
  expect(kicks).toEqual([1, 17, 33, 65, 129, 257])
  now += 100
  expect(await kicksUntilCrowded()).toBe(257)
  expect(await kicksUntilCrowded()).toBe(17)
})

test("a turn that is long because of this thread's own work changes nothing", async () => {
  const poll = new AdaptivePoll()
  const rings = new TestRings()
  for (let kick = 0; kick < 3; kick++) {
    switches++ // somebody else had the CPU while nothing was watched
    poll.kicked(rings, 0)
    expect(rings.watched).toBe(true)
    now += 30
    rings.waiting = 1
    await until(() => !rings.watched)
    now += 10
  }
  expect(rings.served).toBe(6)
})
