import fc from "fast-check"
import { describe, expect, test } from "vitest"
import { Bus, type BusDevice } from "./bus.js"
import { VmmError } from "./errors.js"

/** Answers each byte of a read with its offset plus `base`, and keeps writes. */
class Recorder implements BusDevice {
  readonly writes: [offset: number, bytes: number[]][] = []
  readonly base: number

  constructor(base = 0) {
    this.base = base
  }

  read(offset: number, into: Uint8Array): void {
    into.forEach((_, i) => {
      into[i] = this.base + offset + i
    })
  }

  write(offset: number, from: Uint8Array): void {
    this.writes.push([offset, [...from]])
  }
}

function codeOf(action: () => unknown): string | undefined {
  try {
    action()
    return undefined
  } catch (error) {
    if (error instanceof VmmError) return error.code
    throw error
  }
}

function read(bus: Bus, address: number, width: number): number[] {
  const into = new Uint8Array(width)
  bus.read(address, into)
  return [...into]
}

describe("dispatch", () => {
  test("gives a device the offset in its range", () => {
    const serial = new Recorder()
    const bus = new Bus().insert({ base: 0x3f8, size: 8 }, serial)
    bus.write(0x3f9, Uint8Array.of(7))
    expect(serial.writes).toEqual([[1, [7]]])
    expect(read(bus, 0x3fc, 4)).toEqual([4, 5, 6, 7])
    expect(bus.counters).toEqual({ unclaimedReads: 0, unclaimedWrites: 0 })
  })

  test("hands a device's promise on, so that the vCPU waits", async () => {
    let done = false
    const slow: BusDevice = {
      read: () => undefined,
      write: async () => {
        await Promise.resolve()
        done = true
      },
    }
    const pending = new Bus().insert({ base: 0, size: 4 }, slow).write(0, Uint8Array.of(1))
    expect(done).toBe(false)
    await pending
    expect(done).toBe(true)
  })

  test("T5: an access to nothing, or over the end of a range, reads ones and writes nowhere", () => {
    const low = new Recorder()
    const high = new Recorder(100)
    const bus = new Bus().insert({ base: 0x10, size: 4 }, low).insert({ base: 0x14, size: 4 }, high)
    for (const [address, width] of [
      [0x0f, 1],
      [0x0f, 2],
      [0x12, 4], // over the seam of two devices
      [0x16, 4],
      [0x18, 1],
      [2 ** 52, 8],
    ] as const) {
      expect(read(bus, address, width), `${address}`).toEqual(new Array(width).fill(0xff))
      bus.write(address, new Uint8Array(width))
    }
    expect(low.writes).toEqual([])
    expect(high.writes).toEqual([])
    expect(bus.counters).toEqual({ unclaimedReads: 6, unclaimedWrites: 6 })
  })
})

describe("insert and remove", () => {
  test.each([
    [0x0f, 2],
    [0x13, 1],
    [0x10, 4],
    [0x11, 1],
    [0x00, 0x100],
  ])("refuse an overlap: base 0x%s", (base, size) => {
    const bus = new Bus().insert({ base: 0x10, size: 4 }, new Recorder())
    expect(codeOf(() => bus.insert({ base, size }, new Recorder()))).toBe("range-overlap")
    expect(bus.entries).toHaveLength(1)
  })

  test.each([
    [0, 0],
    [-1, 4],
    [0, 1.5],
    [Number.NaN, 1],
    [2 ** 53 - 1, 2],
  ])("refuse what is no range: %s, %s", (base, size) => {
    expect(codeOf(() => new Bus().insert({ base, size }, new Recorder()))).toBe("range-invalid")
  })

  test("a removed device is gone, and its place free", () => {
    const device = new Recorder()
    const bus = new Bus().insert({ base: 0x10, size: 4 }, device)
    expect(codeOf(() => bus.remove(0x11))).toBe("not-found")
    expect(bus.remove(0x10)).toBe(device)
    expect(bus.find(0x10)).toBeUndefined()
    expect(codeOf(() => bus.remove(0x10))).toBe("not-found")
    bus.insert({ base: 0x0e, size: 4 }, new Recorder())
  })
})

test("find agrees with a linear search, in any order of insertion", () => {
  const slot = fc.record({ slot: fc.integer({ min: 0, max: 63 }), size: fc.integer({ min: 1, max: 16 }) })
  fc.assert(
    fc.property(fc.uniqueArray(slot, { selector: s => s.slot, maxLength: 40 }), slots => {
      const bus = new Bus()
      for (const { slot, size } of slots) bus.insert({ base: slot * 16, size }, new Recorder())
      for (let address = 0; address < 64 * 16; address++) {
        const expected = slots.find(s => address >= s.slot * 16 && address < s.slot * 16 + s.size)
        expect(bus.find(address)?.base).toBe(expected && expected.slot * 16)
      }
    }),
    { numRuns: 25 },
  )
})
