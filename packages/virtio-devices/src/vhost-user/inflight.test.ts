import { describe, expect, test } from "vitest"
import { InflightQueueLog, inflightRegionSize } from "./inflight.js"

const SIZE = 8
const region = () => new Uint8Array(inflightRegionSize(SIZE))

describe("in-flight log, split layout", () => {
  test("an unused region is initialised and has nothing to do again", () => {
    const bytes = region()
    expect(new InflightQueueLog(bytes, SIZE).recover(5)).toEqual({ resubmit: [] })
    const view = new DataView(bytes.buffer)
    expect(view.getUint16(8, true)).toBe(1)
    expect(view.getUint16(10, true)).toBe(SIZE)
    expect(view.getUint16(14, true)).toBe(5)
  })

  test("what was taken and not returned comes back in the order it was taken", () => {
    const bytes = region()
    const log = new InflightQueueLog(bytes, SIZE)
    log.recover(0)
    for (const head of [6, 2, 4, 0]) log.popped(head)
    log.completing(2)
    log.published(1)
    log.unpopped(0)
    expect(new InflightQueueLog(bytes, SIZE).recover(1).resubmit).toEqual([6, 4])
  })

  test("a crash between the used index and the flags does not repeat what was returned", () => {
    const bytes = region()
    const log = new InflightQueueLog(bytes, SIZE)
    log.recover(0)
    for (const head of [1, 2, 3]) log.popped(head)
    log.completing(1)
    log.completing(3)
    // The used ring shows both; `published` never ran.
    expect(new InflightQueueLog(bytes, SIZE).recover(2).resubmit).toEqual([2])
  })

  test("a crash before the used index repeats what was only about to be returned", () => {
    const bytes = region()
    const log = new InflightQueueLog(bytes, SIZE)
    log.recover(0)
    for (const head of [1, 2]) log.popped(head)
    log.completing(1)
    expect(new InflightQueueLog(bytes, SIZE).recover(0).resubmit).toEqual([1, 2])
  })

  test("later requests come after those of before the reconnect", () => {
    const bytes = region()
    const log = new InflightQueueLog(bytes, SIZE)
    log.recover(0)
    log.popped(5)
    const next = new InflightQueueLog(bytes, SIZE)
    next.recover(0)
    next.popped(1)
    expect(new InflightQueueLog(bytes, SIZE).recover(0).resubmit).toEqual([5, 1])
  })

  test("H8: a corrupt region gives heads inside the ring only, and ends", () => {
    for (let seed = 0; seed < 200; seed++) {
      const bytes = region()
      new InflightQueueLog(bytes, SIZE).recover(0)
      for (let i = 12; i < bytes.length; i++) bytes[i] = (i * 31 + seed * 17 + ((seed * i) >> 3)) & 0xff
      const { resubmit } = new InflightQueueLog(bytes, SIZE).recover(seed)
      expect(resubmit.length).toBeLessThanOrEqual(SIZE)
      expect(resubmit.every(head => head < SIZE)).toBe(true)
      expect(new Set(resubmit).size).toBe(resubmit.length)
    }
  })

  test("H8: a region of another size is initialised anew, one too small is refused", () => {
    const bytes = region()
    const log = new InflightQueueLog(bytes, SIZE)
    log.recover(0)
    log.popped(3)
    new DataView(bytes.buffer).setUint16(10, 4, true)
    expect(new InflightQueueLog(bytes, SIZE).recover(0).resubmit).toEqual([])
    expect(() => new InflightQueueLog(bytes.subarray(0, 64), SIZE)).toThrow(
      expect.objectContaining({ code: "protocol" }),
    )
  })
})
