import { type ArrayBufferMemory, arrayBufferMemory } from "@ts-vmm/vm-memory"
import { describe, expect, test } from "vitest"
import { VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC, VIRTIO_F_VERSION_1 } from "../features.js"
import { DEFAULT_REGIONS, type DriverBuffer, SplitDriver } from "../testing/index.js"
import type { DescriptorChain } from "./chain.js"
import { VIRTQ_DESC_F_INDIRECT, VIRTQ_DESC_F_NEXT, VIRTQ_DESC_F_WRITE } from "./defs.js"
import { QueueError, type QueueErrorCode } from "./errors.js"
import { SplitQueue } from "./split-queue.js"
import type { QueueConfig } from "./virt-queue.js"

const BASE = 2 ** 32
const HEAP = BASE + 0x10000
const PLAIN = VIRTIO_F_VERSION_1 | VIRTIO_F_INDIRECT_DESC
const CONFIG: QueueConfig = { size: 8, desc: BASE, driver: BASE + 0x1000, device: BASE + 0x2000 }

interface Rig {
  memory: ArrayBufferMemory
  driver: SplitDriver
  queue: SplitQueue
}

function rig(features = PLAIN, config: Partial<QueueConfig> = {}): Rig {
  const memory = arrayBufferMemory(DEFAULT_REGIONS)
  const whole = { ...CONFIG, ...config }
  const queue = new SplitQueue(memory, config.size === undefined ? whole : (config as QueueConfig), features)
  return { memory, driver: new SplitDriver(memory, { ...whole }, features), queue }
}

function buffer(address: number, length: number, writable = false): DriverBuffer {
  return { address, length, writable, bytes: () => new Uint8Array() }
}

function codeOf(action: () => unknown): QueueErrorCode | undefined {
  try {
    action()
    return undefined
  } catch (error) {
    if (error instanceof QueueError) return error.code
    throw error
  }
}

function popped(queue: SplitQueue): DescriptorChain {
  const chain = queue.pop()
  if (!chain) throw new Error("queue is empty")
  return chain
}

describe("set-up", () => {
  test.each([0, 3, 65536, -8, 1.5, Number.NaN])("T3/Q18: refuses a size of %s", size => {
    expect(codeOf(() => new SplitQueue(arrayBufferMemory(DEFAULT_REGIONS), { ...CONFIG, size }, PLAIN))).toBe(
      "queue-size",
    )
  })

  test.each([
    { what: "a misaligned descriptor table", over: { desc: BASE + 8 }, code: "ring-alignment" },
    { what: "a misaligned available ring", over: { driver: BASE + 0x1001 }, code: "ring-alignment" },
    { what: "a misaligned used ring", over: { device: BASE + 0x2002 }, code: "ring-alignment" },
    { what: "a ring in a hole", over: { device: 0x8000_0000 }, code: "ring-address" },
    {
      what: "a ring that ends past its region",
      over: { desc: BASE + 4 * 2 ** 20 - 64 },
      code: "ring-address",
    },
    { what: "a ring across two regions", over: { desc: 2 ** 20 - 64 }, code: "ring-address" },
    { what: "an address past 2^53", over: { desc: 2 ** 60 }, code: "ring-address" },
    { what: "rings that overlap", over: { driver: BASE + 64 }, code: "ring-overlap" },
  ])("T4: refuses $what", ({ over, code }) => {
    const memory = arrayBufferMemory(DEFAULT_REGIONS)
    expect(codeOf(() => new SplitQueue(memory, { ...CONFIG, ...over }, PLAIN))).toBe(code)
  })
})

describe("pop", () => {
  test("gives segments in order, readable before writable", () => {
    const { memory, driver, queue } = rig()
    memory.write(HEAP, Uint8Array.of(1, 2, 3, 4))
    driver.post([buffer(HEAP, 4), buffer(0x100, 6), buffer(HEAP + 64, 32, true)])

    const chain = popped(queue)
    expect([chain.readableLength, chain.writableLength]).toEqual([10, 32])
    expect([chain.segmentCount, chain.readableCount]).toEqual([3, 2])
    expect([0, 1, 2].map(i => chain.segmentAddress(i))).toEqual([HEAP, 0x100, HEAP + 64])
    const into = new Uint8Array(4)
    expect(chain.read(0, into)).toBe(4)
    expect(into).toEqual(Uint8Array.of(1, 2, 3, 4))
    expect(queue.pop()).toBeUndefined()
  })

  test("splits a buffer that crosses adjacent regions", () => {
    const { memory, driver, queue } = rig()
    driver.post([buffer(2 ** 20 - 3, 8, true)])
    const chain = popped(queue)
    expect([...chain.segmentLengths.subarray(0, chain.segmentCount)]).toEqual([3, 5])
    expect(chain.write(0, Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8))).toBe(8)
    expect(memory.slices(2 ** 20 - 3, 8).map(s => [...s])).toEqual([
      [1, 2, 3],
      [4, 5, 6, 7, 8],
    ])
  })

  test("follows an indirect table, also after direct descriptors (2.7.5.3.2)", () => {
    const { driver, queue, memory } = rig()
    const table = HEAP + 0x800
    driver.post([buffer(HEAP, 5), buffer(HEAP + 16, 7, true)], { indirectTable: table })
    const first = popped(queue)
    expect([first.readableLength, first.writableLength]).toEqual([5, 7])
    queue.push(first, 0)

    driver.writeRaw(4, { address: BigInt(HEAP), length: 3, flags: VIRTQ_DESC_F_NEXT, next: 5 })
    driver.writeRaw(5, {
      address: BigInt(table),
      length: 32,
      flags: VIRTQ_DESC_F_INDIRECT | VIRTQ_DESC_F_WRITE,
    })
    driver.offerRaw(4)
    const second = popped(queue)
    expect([second.readableLength, second.writableLength]).toEqual([8, 7])
    expect(memory.regions.length).toBe(3)
  })

  test.each([
    { what: "unaligned", at: HEAP + 0x803 },
    { what: "across two regions", at: 2 ** 20 - 24 },
  ])("reads an indirect table that lies $what", ({ at }) => {
    const { driver, queue } = rig()
    driver.post([buffer(HEAP, 5), buffer(HEAP + 16, 7), buffer(HEAP + 32, 9, true)], { indirectTable: at })
    const chain = popped(queue)
    expect([chain.readableLength, chain.writableLength, chain.segmentCount]).toEqual([12, 9, 3])
  })

  test("takes chains longer than the ring from an indirect table, up to 1024 segments", () => {
    const { driver, queue } = rig()
    const many = Array.from({ length: 1024 }, (_, i) => buffer(HEAP + i, 1, i > 500))
    driver.post(many, { indirectTable: HEAP + 0x8000 })
    const chain = popped(queue)
    expect([chain.segmentCount, chain.readableLength, chain.writableLength]).toEqual([1024, 501, 523])
    queue.push(chain, 0)
    driver.poll()
    driver.post([...many, buffer(HEAP, 1, true)], { indirectTable: HEAP + 0x8000 })
    expect(codeOf(() => queue.pop())).toBe("indirect-length")
  })

  test("takes a chain as long as the ring, and of exactly 2^32 bytes", () => {
    const { driver, queue } = rig()
    driver.post(Array.from({ length: 8 }, (_, i) => buffer(HEAP + i, 1)))
    expect(popped(queue).readableLength).toBe(8)

    const other = rig()
    const mib = 2 ** 20
    const parts = Array.from({ length: 1024 }, () => buffer(BASE, 4 * mib, true))
    other.driver.post(parts, { indirectTable: HEAP })
    expect(popped(other.queue).writableLength).toBe(2 ** 32)
  })

  test("Q5: zero-length descriptors are skipped, wherever they point", () => {
    const { driver, queue } = rig()
    driver.post([buffer(0x8000_0000, 0), buffer(HEAP, 4), buffer(2 ** 40, 0, true), buffer(HEAP, 0)])
    const chain = popped(queue)
    expect([chain.segmentCount, chain.readableLength, chain.writableLength]).toEqual([1, 4, 0])
    expect(chain.readableSlices().length).toBe(1)
  })

  test("Q11: an indirect descriptor without the feature is refused", () => {
    const { driver, queue } = rig(VIRTIO_F_VERSION_1)
    driver.post([buffer(HEAP, 4)], { indirectTable: HEAP + 64 })
    expect(codeOf(() => queue.pop())).toBe("indirect-refused")
  })

  test.each([0x8000_0000, 0x8000_0001, 0xffff_ffff])("Q3: a length of 0x%x bytes is no small one", length => {
    const { driver, queue } = rig()
    driver.post([buffer(HEAP, length)])
    expect(codeOf(() => queue.pop())).toBe("descriptor-address")
  })
  test("Q11: event indexes are ignored without EVENT_IDX", () => {
    const { driver, queue, memory } = rig()
    memory.storeU16(CONFIG.driver + 4 + 2 * CONFIG.size, 1000)
    driver.post([buffer(HEAP, 4)])
    queue.push(popped(queue), 0)
    expect(queue.publish()).toBe(true)
  })

  test("Q17: a head that is still in flight is refused, and in flight never passes the queue size", () => {
    const { driver, queue } = rig()
    for (let i = 0; i < 8; i++) driver.post([buffer(HEAP, 4)])
    for (let i = 0; i < 8; i++) popped(queue)
    expect(queue.inFlight).toBe(8)
    driver.offerRaw(3)
    expect(codeOf(() => queue.pop())).toBe("head-in-flight")
  })

  test("Q22: fails cleanly when the memory was closed", () => {
    const { memory, driver, queue } = rig(PLAIN | VIRTIO_F_EVENT_IDX)
    driver.post([buffer(HEAP, 4), buffer(HEAP, 4, true)])
    driver.post([buffer(HEAP, 4)])
    const chain = popped(queue)
    memory.close()
    expect(codeOf(() => queue.pop())).toBe("memory-gone")
    expect(chain.read(0, new Uint8Array(4))).toBe(0)
    expect(chain.write(0, new Uint8Array(4))).toBe(0)
    expect(codeOf(() => queue.push(chain, 0))).toBe("memory-gone")
    expect(codeOf(() => queue.enableNotifications())).toBe("memory-gone")
    expect(() => queue.stop()).not.toThrow()
    expect(codeOf(() => new SplitQueue(memory, CONFIG, PLAIN))).toBe("memory-gone")
  })
})

describe("push and publish", () => {
  test("Q8: indexes are exact over more than three wraps of 16 bits", { timeout: 120_000 }, () => {
    const { driver, queue } = rig()
    for (let i = 0; i < 200_000; i++) {
      const id = driver.post([buffer(HEAP, 4, true)])
      const chain = popped(queue)
      queue.push(chain, i & 3)
      queue.publish()
      const used = driver.poll()
      if (used?.id !== id || used.length !== (i & 3)) throw new Error(`wrong at ${i}`)
    }
    expect(queue.inFlight).toBe(0)
  })

  test("Q16: what the guest writes to the used ring and avail_event changes nothing", () => {
    const { memory, driver, queue } = rig(PLAIN | VIRTIO_F_EVENT_IDX)
    for (let i = 0; i < 3; i++) {
      memory.write(CONFIG.device, new Uint8Array(6 + 8 * CONFIG.size).fill(0xff))
      const id = driver.post([buffer(HEAP, 4, true)])
      queue.push(popped(queue), 4)
      queue.publish()
      expect(memory.loadU16(CONFIG.device + 2)).toBe(i + 1)
      expect(driver.poll()).toEqual({ id, length: 4 })
    }
  })

  test("Q18: size and place are those of activation, whatever becomes of the configuration", () => {
    const config = { ...CONFIG }
    const { driver, queue } = rig(PLAIN, config)
    Object.assign(config, { size: 0, desc: 0, driver: 0, device: 0 })
    const id = driver.post([buffer(HEAP, 4)])
    queue.push(popped(queue), 0)
    queue.publish()
    expect([queue.size, driver.poll()?.id]).toEqual([8, id])
  })

  test("completes out of order", () => {
    const { driver, queue } = rig()
    const ids = [0, 1, 2].map(() => driver.post([buffer(HEAP, 4, true)]))
    const chains = [popped(queue), popped(queue), popped(queue)]
    for (const i of [2, 0, 1]) queue.push(chains[i]!, i)
    expect(driver.poll()).toBeUndefined()
    queue.publish()
    expect([driver.poll(), driver.poll(), driver.poll()]).toEqual(
      [2, 0, 1].map(i => ({ id: ids[i], length: i })),
    )
  })

  test("refuses misuse: a chain twice, a foreign chain, more than was writable", () => {
    const { driver, queue } = rig()
    const other = rig()
    driver.post([buffer(HEAP, 4, true)])
    other.driver.post([buffer(HEAP, 4, true)])
    const chain = popped(queue)
    expect(codeOf(() => queue.push(chain, 5))).toBe("used-length")
    expect(codeOf(() => queue.push(chain, Number.NaN))).toBe("used-length")
    expect(codeOf(() => queue.push(popped(other.queue), 0))).toBe("not-in-flight")
    queue.push(chain, 4)
    expect(codeOf(() => queue.push(chain, 0))).toBe("not-in-flight")
    expect(codeOf(() => queue.unpop(chain))).toBe("not-in-flight")
  })

  test("a chain has no segments once it was completed or its queue stopped", () => {
    const { driver, queue, memory } = rig()
    driver.post([buffer(HEAP, 4, true)])
    driver.post([buffer(HEAP, 4, true)])
    const [first, second] = [popped(queue), popped(queue)]
    queue.push(first, 0)
    queue.stop()
    for (const chain of [first, second]) {
      expect(chain.write(0, Uint8Array.of(9, 9, 9, 9))).toBe(0)
      expect(chain.writableSlices()).toEqual([])
    }
    expect([...memory.slices(HEAP, 4)[0]!]).toEqual([0, 0, 0, 0])
  })
})

describe("interrupts and notifications", () => {
  test("without EVENT_IDX follow the flags", () => {
    const { memory, driver, queue } = rig()
    const serve = () => {
      driver.post([buffer(HEAP, 4)])
      queue.push(popped(queue), 0)
      return queue.publish()
    }
    expect(serve()).toBe(true)
    driver.setInterrupts(false)
    expect(serve()).toBe(false)
    queue.disableNotifications()
    expect(memory.loadU16(CONFIG.device)).toBe(1)
    expect(driver.needsKick()).toBe(false)
    expect(queue.enableNotifications()).toBe(false)
    expect(driver.needsKick()).toBe(true)
    expect(queue.publish()).toBe(false)
  })

  test("with EVENT_IDX come when the index asked for is passed, also across the wrap", () => {
    const start = 0xfffd
    const state = { availIndex: start, usedIndex: start, availWrap: true, usedWrap: true }
    const { memory, driver, queue } = rig(PLAIN | VIRTIO_F_EVENT_IDX, { state })
    const want = (index: number) => memory.storeU16(CONFIG.driver + 4 + 2 * CONFIG.size, index & 0xffff)
    const serve = (count: number) => {
      for (let i = 0; i < count; i++) driver.post([buffer(HEAP, 4)])
      for (let i = 0; i < count; i++) queue.push(popped(queue), 0)
      const interrupt = queue.publish()
      while (driver.poll());
      return interrupt
    }
    want(start + 2)
    expect([serve(1), serve(1), serve(1), serve(1)]).toEqual([false, false, true, false])
    want(start + 6)
    expect(serve(3)).toBe(true)
    want(start + 6)
    expect(serve(3)).toBe(false)
  })

  test("with EVENT_IDX ask for the next chain only once the ring was found empty", () => {
    const { memory, driver, queue } = rig(PLAIN | VIRTIO_F_EVENT_IDX)
    const availEvent = () => memory.loadU16(CONFIG.device + 4 + 8 * CONFIG.size)
    driver.post([buffer(HEAP, 4)])
    expect(driver.needsKick()).toBe(true)
    queue.disableNotifications()
    popped(queue)
    driver.post([buffer(HEAP, 4)])
    expect(driver.needsKick()).toBe(false)
    expect(queue.enableNotifications()).toBe(true)
    popped(queue)
    expect(queue.enableNotifications()).toBe(false)
    expect(availEvent()).toBe(2)
    driver.post([buffer(HEAP, 4)])
    expect(driver.needsKick()).toBe(true)
  })
})

describe("unpop, state, in-flight log", () => {
  test("an unpopped chain comes first again and counts as not taken", () => {
    const { driver, queue } = rig()
    const ids = [0, 1, 2].map(() => driver.post([buffer(HEAP, 4, true)]))
    const [a, b] = [popped(queue), popped(queue)]
    queue.unpop(b)
    queue.unpop(a)
    expect(queue.inFlight).toBe(0)
    expect(queue.state().availIndex).toBe(0)
    expect(queue.enableNotifications()).toBe(true)
    expect([popped(queue).head, popped(queue).head, popped(queue).head]).toEqual(ids)
    expect(queue.state().availIndex).toBe(3)
  })

  test("goes on where another queue stopped", () => {
    const { memory, driver, queue } = rig()
    for (let i = 0; i < 5; i++) {
      driver.post([buffer(HEAP, 4)])
      queue.push(popped(queue), 0)
      queue.publish()
      driver.poll()
    }
    const next = new SplitQueue(memory, { ...CONFIG, state: queue.state() }, PLAIN)
    const id = driver.post([buffer(HEAP, 4)])
    next.push(popped(next), 0)
    next.publish()
    expect(driver.poll()?.id).toBe(id)
  })

  test("tells the in-flight log in the order things happen, and takes resubmitted heads first", () => {
    const log: string[] = []
    const inflight = {
      popped: (head: number) => void log.push(`pop ${head}`),
      unpopped: (head: number) => void log.push(`unpop ${head}`),
      completing: (head: number) => void log.push(`done ${head}`),
      published: (index: number) => void log.push(`publish ${index}`),
    }
    const { memory, driver, queue } = rig(PLAIN, { inflight })
    const [first, second] = [driver.post([buffer(HEAP, 4)]), driver.post([buffer(HEAP, 8)])]
    popped(queue)
    queue.unpop(popped(queue))
    queue.push(popped(queue), 0)
    queue.publish()
    expect(log).toEqual([
      `pop ${first}`,
      `pop ${second}`,
      `unpop ${second}`,
      `pop ${second}`,
      `done ${second}`,
      "publish 1",
    ])

    const again = new SplitQueue(memory, { ...CONFIG, state: queue.state(), resubmit: [first!] }, PLAIN)
    expect(popped(again).readableLength).toBe(4)
    expect(again.pop()).toBeUndefined()
    expect(codeOf(() => new SplitQueue(memory, { ...CONFIG, resubmit: [8] }, PLAIN))).toBe("head-index")
  })
})
