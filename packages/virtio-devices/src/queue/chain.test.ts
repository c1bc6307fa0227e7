import { arrayBufferMemory } from "@ts-vmm/vm-memory"
import { describe, expect, test } from "vitest"
import { VIRTIO_F_VERSION_1 } from "../features.js"
import { DEFAULT_REGIONS, SplitDriver } from "../testing/index.js"
import type { DescriptorChain } from "./chain.js"
import { SplitQueue } from "./split-queue.js"

const BASE = 2 ** 32
const RING = { size: 8, desc: BASE, driver: BASE + 0x1000, device: BASE + 0x2000 }
const LOW = 0x100
const HIGH = BASE + 0x4000

/** Readable: 4 bytes low, 40 high; writable: 5 bytes high, 3 low. */
function twoByTwo() {
  const memory = arrayBufferMemory(DEFAULT_REGIONS)
  const driver = new SplitDriver(memory, RING, VIRTIO_F_VERSION_1)
  memory.write(LOW, Uint8Array.of(1, 2, 3, 4))
  memory.write(
    HIGH,
    Uint8Array.from({ length: 40 }, (_, i) => 5 + i),
  )
  const part = (address: number, length: number, writable: boolean) => ({
    address,
    length,
    writable,
    bytes: () => new Uint8Array(),
  })
  driver.post([part(LOW, 4, false), part(HIGH, 40, false), part(HIGH + 64, 5, true), part(LOW + 64, 3, true)])
  const chain = new SplitQueue(memory, RING, VIRTIO_F_VERSION_1).pop() as DescriptorChain
  return { memory, chain }
}

describe("DescriptorChain", () => {
  test("reads across segments from any offset, and says how much there was", () => {
    const { chain } = twoByTwo()
    const into = new Uint8Array(6)
    expect(chain.read(2, into)).toBe(6)
    expect([...into]).toEqual([3, 4, 5, 6, 7, 8])
    expect(chain.read(41, into)).toBe(3)
    expect([...into.subarray(0, 3)]).toEqual([42, 43, 44])
    expect(chain.read(44, into)).toBe(0)
    expect(chain.read(1000, into)).toBe(0)
    const all = new Uint8Array(100)
    expect(chain.read(0, all)).toBe(44)
    expect([...all.subarray(0, 44)]).toEqual(Array.from({ length: 44 }, (_, i) => i + 1))
  })

  test("writes only its writable part, and says how much fitted", () => {
    const { memory, chain } = twoByTwo()
    expect(chain.write(3, Uint8Array.of(11, 12, 13, 14, 15, 16, 17))).toBe(5)
    expect([...memory.slices(HIGH + 64, 5)[0]!]).toEqual([0, 0, 0, 11, 12])
    expect([...memory.slices(LOW + 64, 4)[0]!]).toEqual([13, 14, 15, 0])
    expect(chain.write(8, Uint8Array.of(1))).toBe(0)
    expect([...memory.slices(LOW, 4)[0]!]).toEqual([1, 2, 3, 4])
  })

  test("gives zero-copy slices of either part, cut where asked", () => {
    const { memory, chain } = twoByTwo()
    expect(chain.readableSlices().map(s => s.length)).toEqual([4, 40])
    expect(chain.readableSlices(3, 4).map(s => [...s])).toEqual([[4], [5, 6, 7]])
    const [first] = chain.writableSlices(1, 2)
    first!.fill(9)
    expect([...memory.slices(HIGH + 64, 5)[0]!]).toEqual([0, 9, 9, 0, 0])
    expect(chain.writableSlices(8)).toEqual([])
    expect(chain.segmentBytes(3).length).toBe(3)
  })

  test("gives (region, offset, length) triples for native I/O", () => {
    const { chain } = twoByTwo()
    const out: number[] = []
    expect(chain.readableTriples(2, 10, out)).toBe(2)
    expect(chain.writableTriples(4, 100, out)).toBe(2)
    expect(out).toEqual([0, LOW + 2, 2, 2, 0x4000, 8, 2, 0x4044, 1, 0, LOW + 64, 3])
    expect([0, 1, 2, 3].map(i => chain.segmentAddress(i))).toEqual([LOW, HIGH, HIGH + 64, LOW + 64])
  })
})
