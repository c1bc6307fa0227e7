import { afterEach, describe, expect, test, vi } from "vitest"
import { type DirectPort, direct, overMmio } from "../testing/index.js"
import * as defs from "./defs.js"
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
/** In the hole of `DEFAULT_REGIONS`. */
const HOLE = 0x8000_0000
afterEach(detachAll)

describe("balloon and a hostile guest", () => {
  test("C6: page numbers outside RAM are ignored, and a run that leaves it is cut", async () => {
    const { balloon, driver } = await attach()
    fill(driver, 510, 2)
    const outside = [512, 513, HOLE / PAGE, 0xffff_ffff, (2 ** 32 + 4 * MIB) / PAGE]
    await driver.send(INFLATE_QUEUE, [numbers(driver, 510, 511, ...outside)])
    expect(zeroPages(driver, 510, 2)).toEqual([510, 511])
    expect(balloon.counters).toMatchObject({ freedBytes: 2 * PAGE, ignoredBytes: 5 * PAGE, failures: 0 })
  })

  test("C6: odd lengths, empty and wrong-way chains free nothing more than they name", async () => {
    const { balloon, driver } = await attach()
    fill(driver, 16, 8)
    for (const size of [1, 3, 4, 5, 7]) {
      const bytes = new Uint8Array(Uint32Array.of(16, 17).buffer).subarray(0, size)
      expect((await driver.send(INFLATE_QUEUE, [driver.readable(bytes)])).length).toBe(0)
      expect((await driver.send(DEFLATE_QUEUE, [driver.readable(bytes)])).length).toBe(0)
    }
    expect(zeroPages(driver, 16, 8)).toEqual([16])
    for (const queue of [INFLATE_QUEUE, DEFLATE_QUEUE]) await driver.send(queue, [driver.writable(64)])
    await driver.send(REPORTING_QUEUE, [numbers(driver, 18)])
    expect(balloon.counters.freedBytes).toBe(3 * PAGE)
    expect(await driver.port.needsReset()).toBe(false)
  })

  test("C6: pages of the rings themselves harm the guest alone, and a reset recovers", async () => {
    const { driver } = await attach(ALL, overMmio)
    const { desc } = driver.queue(INFLATE_QUEUE).config
    const first = Math.floor(desc / PAGE)
    driver.post(INFLATE_QUEUE, [numbers(driver, first, first + 1, first + 2, first + 3)])
    await driver.port.settle()
    await driver.reset()
    fill(driver, 16, 2)
    await driver.send(INFLATE_QUEUE, [numbers(driver, 16)])
    expect(zeroPages(driver, 16, 2)).toEqual([16])
  })

  test("C6: one page 2^20 times over costs a bounded part of each turn", async () => {
    const { balloon, driver } = await attach()
    const discard = vi.spyOn(driver.memory, "discard")
    const same = driver.readable(new Uint8Array(MIB))
    driver.memory.write(same.address, new Uint8Array(new Uint32Array(MIB / 4).fill(16).buffer))
    const id = driver.queue(INFLATE_QUEUE).post([same, same, same, same])
    driver.port.kick(INFLATE_QUEUE)
    // 2^20 numbers are 1024 blocks, of which a turn does two.
    expect(discard.mock.calls.length).toBeLessThanOrEqual(2)
    for (let i = 0; i < 20; i++) driver.port.kick(INFLATE_QUEUE)
    expect(discard.mock.calls.length).toBeLessThanOrEqual(2)
    expect((await driver.nextUsed(INFLATE_QUEUE)).id).toBe(id)
    expect(balloon.counters.freedBytes).toBe(1024 * PAGE)
  })

  test("C6: scattered pages are spread over turns, and chains come back in order", async () => {
    const { driver } = await attach(ALL, direct, { queueSizes: [64, 16, 16, 16, 16] })
    const discard = vi.spyOn(driver.memory, "discard")
    const scattered = Array.from({ length: 128 }, (_, i) => 2 * i + 16)
    const ids = Array.from({ length: 40 }, () =>
      driver.queue(INFLATE_QUEUE).post([numbers(driver, ...scattered)]),
    )
    driver.port.kick(INFLATE_QUEUE)
    expect(discard.mock.calls.length).toBeLessThan(125)
    for (const id of ids) expect((await driver.nextUsed(INFLATE_QUEUE)).id).toBe(id)
    expect(discard.mock.calls.length).toBe(40 * 128)
  })

  test("Q21: a reset in the middle of a long chain ends it, and frees nothing afterwards", async () => {
    const { balloon, driver } = await attach()
    const scattered = Array.from({ length: 5000 }, (_, i) => 2 * (i % 200) + 16)
    driver.queue(INFLATE_QUEUE).post([numbers(driver, ...scattered), numbers(driver, ...scattered)])
    driver.port.kick(INFLATE_QUEUE)
    await driver.reset()
    const { freedBytes } = balloon.counters
    await driver.port.settle()
    await driver.port.settle()
    expect(balloon.counters.freedBytes).toBe(freedBytes)
    fill(driver, 16, 2)
    await driver.send(INFLATE_QUEUE, [numbers(driver, 16)])
    expect(zeroPages(driver, 16, 2)).toEqual([16])
  })

  test("a queue that is stopped in the middle of a long chain ends that one first, and goes on later", async () => {
    const { driver } = await attach()
    const { runtime } = driver.port as DirectPort
    const scattered = Array.from({ length: 1000 }, (_, i) => 2 * (i % 200) + 16)
    const post = () => driver.queue(INFLATE_QUEUE).post([numbers(driver, ...scattered)])
    const [first, second] = [post(), post()]
    driver.port.kick(INFLATE_QUEUE)
    await runtime.suspend(INFLATE_QUEUE)
    await driver.port.settle()
    expect(driver.queue(INFLATE_QUEUE).poll()?.id).toBe(first)
    expect(driver.queue(INFLATE_QUEUE).poll()).toBeUndefined()
    runtime.resume(INFLATE_QUEUE)
    expect((await driver.nextUsed(INFLATE_QUEUE)).id).toBe(second)
  })

  test("Q21: a queue that is taken away in the middle of a long chain has nothing freed afterwards", async () => {
    const { balloon, driver } = await attach()
    const { runtime } = driver.port as DirectPort
    const scattered = Array.from({ length: 240 }, (_, i) => 2 * i + 16)
    driver.queue(INFLATE_QUEUE).post([numbers(driver, ...scattered)])
    driver.port.kick(INFLATE_QUEUE)
    const { freedBytes } = balloon.counters
    expect(freedBytes).toBeLessThan(240 * PAGE)
    runtime.stopQueue(INFLATE_QUEUE)
    await driver.port.settle()
    expect(balloon.counters.freedBytes).toBe(freedBytes)
    expect(runtime.counters.lateCompletions).toBe(1)
  })

  test("C6: a statistics buffer with unknown tags, absurd values and no end is read as far as it makes sense", async () => {
    const { balloon, driver } = await attach()
    driver.post(STATISTICS_QUEUE, [
      statistics(
        driver,
        [10, 1n],
        [0xffff, 2n],
        [defs.VIRTIO_BALLOON_S_MEMTOT, 2n ** 64n - 1n],
        [defs.VIRTIO_BALLOON_S_MEMFREE, 2n ** 53n - 1n],
        [defs.VIRTIO_BALLOON_S_CACHES, 1n],
        [defs.VIRTIO_BALLOON_S_CACHES, 2n],
      ),
      driver.readable(new Uint8Array(MIB)),
    ])
    driver.post(STATISTICS_QUEUE, [driver.readable(new Uint8Array(3))])
    const first = balloon.statistics()
    expect(await first).toEqual({})
    driver.post(STATISTICS_QUEUE, [
      statistics(
        driver,
        [10, 1n],
        [0xffff, 2n],
        [defs.VIRTIO_BALLOON_S_MEMTOT, 2n ** 64n - 1n],
        [defs.VIRTIO_BALLOON_S_MEMFREE, 2n ** 53n - 1n],
        [defs.VIRTIO_BALLOON_S_CACHES, 1n],
        [defs.VIRTIO_BALLOON_S_CACHES, 2n],
      ),
      driver.readable(new Uint8Array(MIB).fill(0xff)),
    ])
    expect(await balloon.statistics()).toEqual({ freeBytes: Number.MAX_SAFE_INTEGER, cacheBytes: 2 })
  })

  test("C7: a guest that never answers costs a time-out and nothing else", async () => {
    const { balloon, driver } = await attach()
    const asked = [balloon.statistics({ timeoutMs: 5 }), balloon.statistics({ timeoutMs: 10 })]
    const results = await Promise.allSettled(asked)
    expect(results.map(one => one.status === "rejected" && one.reason.code)).toEqual(["timeout", "timeout"])
    const hints = balloon.hintFreePages({ onPages: () => undefined, timeoutMs: 5 })
    await expect(hints).rejects.toMatchObject({ code: "timeout" })
    expect(await field(driver, defs.CONFIG.freePageHintCmdId)).toBe(defs.VIRTIO_BALLOON_CMD_ID_DONE)
    const late = balloon.statistics()
    driver.post(STATISTICS_QUEUE, [statistics(driver, [defs.VIRTIO_BALLOON_S_MEMFREE, 1n])])
    expect(await late).toEqual({ freeBytes: 1 })
  })

  test("Q21: a reset ends every question with an error", async () => {
    const { balloon, driver } = await attach()
    const asked = [balloon.statistics(), balloon.hintFreePages({ onPages: () => undefined })]
    const results = Promise.allSettled(asked)
    await driver.reset({ initialise: false })
    expect((await results).map(one => one.status === "rejected" && one.reason.code)).toEqual([
      "reset",
      "reset",
    ])
    await expect(balloon.statistics()).rejects.toMatchObject({ code: "inactive" })
  })

  test("C6: hints with a stale, reserved or malformed command, or none, are ignored", async () => {
    const { balloon, driver } = await attach()
    const onPages = vi.fn()
    const hint = (...buffers: Parameters<typeof driver.send>[1]) => driver.send(FREE_PAGE_QUEUE, buffers)
    const four = pages(20, 4)
    await hint(four)
    const round = balloon.hintFreePages({ onPages })
    const id = await field(driver, defs.CONFIG.freePageHintCmdId)
    await hint(four)
    for (const wrong of [id - 1, id + 1, defs.VIRTIO_BALLOON_CMD_ID_STOP, defs.VIRTIO_BALLOON_CMD_ID_DONE]) {
      await hint(command(driver, wrong), four)
    }
    await hint(driver.readable(le32(id).subarray(0, 3)), four)
    await hint(numbers(driver, id, id), four)
    expect(onPages).not.toHaveBeenCalled()
    await expect(balloon.hintFreePages({ onPages })).rejects.toMatchObject({ code: "busy" })
    await hint(command(driver, id), four)
    await hint(command(driver, defs.VIRTIO_BALLOON_CMD_ID_STOP))
    expect(await round).toBe(4 * PAGE)
    await hint(four)
    expect(onPages.mock.calls).toEqual([[20 * PAGE, 4 * PAGE]])
  })

  test("what the caller's function throws ends the round, not the device", async () => {
    const { balloon, driver } = await attach()
    const round = balloon.hintFreePages({
      onPages: () => {
        throw new Error("no room")
      },
    })
    const id = await field(driver, defs.CONFIG.freePageHintCmdId)
    driver.post(FREE_PAGE_QUEUE, [command(driver, id)])
    driver.post(FREE_PAGE_QUEUE, [driver.writable(PAGE, 20 * PAGE)])
    await expect(round).rejects.toThrow("no room")
    expect(await driver.port.needsReset()).toBe(false)
  })

  test("T7: only the driver's own fields of config space can be written, and only inside it", async () => {
    const { balloon, driver } = await attach()
    await driver.port.writeConfig(0, new Uint8Array(64).fill(0xff))
    expect(await driver.port.readConfig(0, 20)).toEqual(
      Uint8Array.from({ length: 20 }, (_, at) => ([4, 12].includes(at - (at % 4)) ? 0xff : 0)),
    )
    expect(balloon.actual).toBe(0xffff_ffff * PAGE)
    await driver.reset()
    expect(balloon.actual).toBe(0)
  })
})
