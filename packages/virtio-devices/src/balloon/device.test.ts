import { fstatSync } from "node:fs"
import { mmapMemory } from "@ts-vmm/vm-memory/mmap"
import { afterEach, describe, expect, test, vi } from "vitest"
import {
  deviceConformance,
  direct,
  type FrontDoor,
  MmioPort,
  type MockDriver,
  overMmio,
  overVhostUser,
} from "../testing/index.js"
import * as defs from "./defs.js"
import { BalloonDevice } from "./device.js"
import {
  ALL,
  attach,
  command,
  detachAll,
  field,
  fill,
  le32,
  numbers,
  PAGE,
  pages,
  statistics,
  zeroPages,
} from "./testing.js"

const MIB = 2 ** 20
const { INFLATE_QUEUE, DEFLATE_QUEUE, STATISTICS_QUEUE, FREE_PAGE_QUEUE, REPORTING_QUEUE } = defs
afterEach(detachAll)

describe.each([direct, overVhostUser, overMmio])("balloon over $name", over => {
  test("the target reaches the driver, and what it has reaches the host", async () => {
    const { balloon, driver } = await attach(ALL, over)
    const before = driver.configInterrupts
    balloon.setTarget(3 * MIB + 5)
    await driver.until(() => driver.configInterrupts > before, "the configuration interrupt")
    expect(await field(driver, defs.CONFIG.numPages)).toBe((3 * MIB) / PAGE)
    expect(balloon.target).toBe(3 * MIB)
    await driver.port.writeConfig(defs.CONFIG.actual, le32(17))
    await driver.until(() => balloon.actual === 17 * PAGE, "the driver's word")
  })

  test("inflated pages are zero afterwards, and no others", async () => {
    const { balloon, driver } = await attach(ALL, over)
    fill(driver, 16, 32)
    const { length } = await driver.send(INFLATE_QUEUE, [numbers(driver, 20, 18, 19, 40, 47)])
    expect(length).toBe(0)
    expect(zeroPages(driver, 16, 32)).toEqual([18, 19, 20, 40, 47])
    expect(balloon.counters).toEqual({ freedBytes: 5 * PAGE, deflatedBytes: 0, ignoredBytes: 0, failures: 0 })
    expect((await driver.send(DEFLATE_QUEUE, [numbers(driver, 18, 40)])).length).toBe(0)
    expect(balloon.counters.deflatedBytes).toBe(2 * PAGE)
  })

  test("reported pages are zero afterwards; what is not a whole page stays", async () => {
    const { balloon, driver } = await attach(ALL, over)
    fill(driver, 16, 32)
    const parts = [
      driver.writable(4 * PAGE, 20 * PAGE),
      driver.writable(3 * PAGE, 30 * PAGE + 8),
      driver.writable(PAGE, 40 * PAGE + 1),
      driver.writable(1, 47 * PAGE),
    ]
    parts.forEach((buffer, i) => {
      driver.memory.write(buffer.address, new Uint8Array(buffer.length).fill(i + 1))
    })
    expect((await driver.send(REPORTING_QUEUE, parts)).length).toBe(0)
    expect(zeroPages(driver, 16, 32)).toEqual([20, 21, 22, 23, 31, 32])
    expect(balloon.counters).toMatchObject({ freedBytes: 6 * PAGE, ignoredBytes: 0 })
  })

  test("statistics are polled: the buffer goes back and comes again", async () => {
    const { balloon, driver } = await attach(ALL, over)
    driver.post(STATISTICS_QUEUE, [statistics(driver, [defs.VIRTIO_BALLOON_S_MEMFREE, 1n])])
    await driver.port.settle()
    for (const free of [4096n, 8192n, 2n ** 40n]) {
      // The guest is this process: it answers when that has its turn.
      const answer = balloon.statistics({ timeoutMs: 20_000 })
      await driver.nextUsed(STATISTICS_QUEUE)
      driver.post(STATISTICS_QUEUE, [
        statistics(driver, [defs.VIRTIO_BALLOON_S_MEMFREE, free], [defs.VIRTIO_BALLOON_S_MAJFLT, 7n]),
      ])
      expect(await answer).toEqual({ freeBytes: Number(free), majorFaults: 7 })
    }
  })

  test("a round of hints passes free pages on, and leaves them alone", async () => {
    const { balloon, driver } = await attach(ALL, over)
    fill(driver, 16, 32)
    const hinted: number[][] = []
    const before = driver.configInterrupts
    const round = balloon.hintFreePages({
      onPages: (start, size) => hinted.push([start / PAGE, size / PAGE]),
    })
    await driver.until(() => driver.configInterrupts > before, "the command")
    const id = await field(driver, defs.CONFIG.freePageHintCmdId)
    expect(id).toBeGreaterThanOrEqual(defs.FIRST_COMMAND)
    await driver.send(FREE_PAGE_QUEUE, [command(driver, id)])
    await driver.send(FREE_PAGE_QUEUE, [driver.writable(4 * PAGE, 20 * PAGE)])
    driver.memory.write(20 * PAGE, new Uint8Array(4 * PAGE).fill(1))
    await driver.send(FREE_PAGE_QUEUE, [driver.writable(PAGE, 40 * PAGE)])
    driver.memory.write(40 * PAGE, new Uint8Array(PAGE).fill(1))
    await driver.send(FREE_PAGE_QUEUE, [command(driver, defs.VIRTIO_BALLOON_CMD_ID_STOP)])
    expect(await round).toBe(5 * PAGE)
    expect(hinted).toEqual([
      [20, 4],
      [40, 1],
    ])
    expect(zeroPages(driver, 16, 32)).toEqual([])
    balloon.releaseHints()
    expect(await field(driver, defs.CONFIG.freePageHintCmdId)).toBe(defs.VIRTIO_BALLOON_CMD_ID_DONE)
  })

  const works = async (driver: MockDriver) => {
    fill(driver, 16, 4)
    await driver.send(INFLATE_QUEUE, [numbers(driver, 17)])
    expect(zeroPages(driver, 16, 4)).toEqual([17])
    await driver.send(DEFLATE_QUEUE, [numbers(driver, 17)])
  }
  const makeDevice = () => new BalloonDevice(ALL)
  const requestQueues = [INFLATE_QUEUE, DEFLATE_QUEUE, FREE_PAGE_QUEUE, REPORTING_QUEUE]
  test.each(deviceConformance({ makeDevice, over, works, requestQueues }))("$name", ({ run }) => run())
})

describe("memory", () => {
  /** A guest whose RAM is a file, as on any hypervisor. */
  async function attachMapped(mib: number) {
    const memory = mmapMemory([{ start: 0, size: mib * MIB }])
    const door: FrontDoor = { name: "mmio", open: async device => new MmioPort(device, memory) }
    const attached = await attach(ALL, door, { heapStart: (mib - 2) * MIB })
    const bytes = () => fstatSync(memory.mappings[0]!.fd).blocks * 512
    return { ...attached, bytes }
  }

  test("of what a guest inflates, or reports, all comes back to the host", async () => {
    const { balloon, driver, bytes } = await attachMapped(128)
    for (const give of ["inflate", "report"]) {
      fill(driver, 0, (64 * MIB) / PAGE)
      const full = bytes()
      expect(full).toBeGreaterThanOrEqual(64 * MIB)
      if (give === "inflate") {
        // As Linux does it: 256 a chain, in falling order.
        for (let last = (64 * MIB) / PAGE - 1; last > 0; last -= 256) {
          const falling = Array.from({ length: 256 }, (_, i) => last - i)
          await driver.send(INFLATE_QUEUE, [numbers(driver, ...falling)])
        }
      } else {
        const parts = Array.from({ length: 16 }, (_, i) => pages((i * 4 * MIB) / PAGE, (4 * MIB) / PAGE))
        await driver.send(REPORTING_QUEUE, parts)
      }
      expect(full - bytes()).toBeGreaterThanOrEqual(0.99 * 64 * MIB)
    }
    expect(balloon.counters).toMatchObject({ freedBytes: 128 * MIB, failures: 0 })
  })

  test("what the host does not take back is counted, and the guest goes on", async () => {
    const { balloon, driver } = await attach()
    vi.spyOn(driver.memory, "discard").mockImplementation(() => {
      throw new Error("no holes here")
    })
    await driver.send(INFLATE_QUEUE, [numbers(driver, 16, 18)])
    expect(balloon.counters).toMatchObject({ freedBytes: 0, failures: 2 })
    expect(await driver.port.needsReset()).toBe(false)
  })

  test("neighbours are freed together, in whatever order and however often they come", async () => {
    const { driver } = await attach()
    const discard = vi.spyOn(driver.memory, "discard")
    await driver.send(INFLATE_QUEUE, [numbers(driver, 33, 35, 34, 33, 32, 90, 35), numbers(driver, 91)])
    expect(discard.mock.calls).toEqual([
      [32 * PAGE, 4 * PAGE],
      [90 * PAGE, 2 * PAGE],
    ])
  })
})

describe("features", () => {
  test("reports of a guest that fills free pages with anything but zeroes are ignored (5.5.6.7)", async () => {
    const { balloon, driver } = await attach()
    fill(driver, 16, 4)
    const report = () => driver.send(REPORTING_QUEUE, [pages(17)])
    await driver.port.writeConfig(defs.CONFIG.poisonVal, le32(0xaa))
    await report()
    expect(zeroPages(driver, 16, 4)).toEqual([])
    expect(balloon.counters).toMatchObject({ freedBytes: 0, ignoredBytes: PAGE })
    await driver.port.writeConfig(defs.CONFIG.poisonVal, le32(0))
    await report()
    expect(zeroPages(driver, 16, 4)).toEqual([17])
  })

  test("by default a balloon offers statistics and nothing else", async () => {
    const { balloon } = await attach({})
    expect(balloon.features).toBe(defs.VIRTIO_BALLOON_F_STATS_VQ)
    await expect(balloon.hintFreePages({ onPages: () => undefined })).rejects.toMatchObject({
      code: "unsupported",
    })
  })

  test.each([3, 4])(
    "reports are served on queue %i when there are no hints: drivers number it either way",
    async queue => {
      const { driver } = await attach({ reporting: true })
      fill(driver, 16, 4)
      await driver.send(queue, [pages(17)])
      expect(zeroPages(driver, 16, 4)).toEqual([17])
    },
  )

  test.each([-1, Number.NaN, 2 ** 44, Number.POSITIVE_INFINITY])("a target of %d is refused", bytes => {
    expect(() => new BalloonDevice().setTarget(bytes)).toThrow(RangeError)
  })
})
