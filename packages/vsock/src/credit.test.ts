import fc from "fast-check"
import { expect, test } from "vitest"
import { advance, distance, ReceiveWindow, SendWindow } from "./credit.js"

const u32 = () => fc.integer({ min: 0, max: 0xffff_ffff })

test("counters wrap: distance undoes advance", () => {
  fc.assert(
    fc.property(u32(), u32(), (a, n) => {
      expect(distance(advance(a, n), a)).toBe(n)
    }),
  )
})

/** A window whose counters stand at `start`, with nothing under way. */
function sendWindowAt(start: number, bufAlloc: number): SendWindow {
  const window = new SendWindow()
  window.sent(start)
  window.update(bufAlloc, start)
  return window
}

test("V3: free space is exact wherever the counters stand, also across the wrap", () => {
  const steps = fc.array(fc.tuple(fc.integer({ min: 0, max: 5000 }), fc.integer({ min: 0, max: 5000 })))
  fc.assert(
    fc.property(u32(), fc.integer({ min: 0, max: 10_000 }), steps, (start, bufAlloc, moves) => {
      const window = sendWindowAt(start, bufAlloc)
      let tx = 0
      let fwd = 0
      for (const [send, consume] of moves) {
        const sent = Math.min(send, window.free)
        window.sent(sent)
        tx += sent
        fwd = Math.min(tx, fwd + consume)
        expect(window.update(bufAlloc, advance(start, fwd))).toBe(true)
        expect(window.free).toBe(bufAlloc - (tx - fwd))
      }
    }),
  )
})

test("V3: fwd_cnt ahead of what was sent is refused and gives no credit", () => {
  fc.assert(
    fc.property(u32(), fc.integer({ min: 1, max: 0x7fff_0000 }), (start, ahead) => {
      const window = sendWindowAt(start, 1000)
      window.sent(600)

      expect(window.update(1000, advance(start, 600 + ahead))).toBe(false)
      expect(window.free).toBe(400)
    }),
  )
})

test("V3: buf_alloc that shrinks below what is under way leaves no room, and never a negative one", () => {
  const window = sendWindowAt(0xffff_ff00, 4096)
  window.sent(4000)

  expect(window.update(0, 0xffff_ff00)).toBe(true)
  expect(window.free).toBe(0)
  expect(window.update(100, advance(0xffff_ff00, 3950))).toBe(true)
  expect(window.free).toBe(50)
})

test("an old fwd_cnt changes nothing", () => {
  const window = sendWindowAt(0, 4096)
  window.sent(2000)
  window.update(4096, 1500)

  expect(window.update(4096, 1000)).toBe(true)
  expect(window.free).toBe(4096 - 500)
})

test("V3: a guest that sends beyond its credit is caught at the first byte", () => {
  fc.assert(
    fc.property(fc.array(fc.tuple(fc.integer({ min: 0, max: 300 }), fc.boolean())), packets => {
      const window = new ReceiveWindow(1000)
      let used = 0
      for (const [length, read] of packets) {
        const fits = used + length <= 1000
        expect(window.received(length)).toBe(fits)
        if (fits) used += length
        if (read) {
          used = Math.floor(used / 2)
          window.readUpTo(used)
        }
        expect(window.used).toBe(used)
      }
    }),
  )
})

test("credit is announced when half of the buffer became free and the guest does not know it", () => {
  const window = new ReceiveWindow(1000)
  window.received(1000)

  expect(window.readUpTo(501)).toBe(false)
  expect(window.readUpTo(500)).toBe(true)
  window.announced()
  expect(window.readUpTo(500)).toBe(false)
  expect(window.readUpTo(0)).toBe(true)
})

test("bytes put back into a stream take no announced credit back", () => {
  const window = new ReceiveWindow(1000)
  window.received(800)
  window.readUpTo(200)

  window.readUpTo(700)

  expect(window.fwdCnt).toBe(600)
})
