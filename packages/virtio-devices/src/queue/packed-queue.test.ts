import { type ArrayBufferMemory, arrayBufferMemory } from "@ts-vmm/vm-memory"
import { describe, expect, test } from "vitest"
import {
  VIRTIO_F_EVENT_IDX,
  VIRTIO_F_INDIRECT_DESC,
  VIRTIO_F_RING_PACKED,
  VIRTIO_F_VERSION_1,
} from "../features.js"
import { DEFAULT_REGIONS, type DriverBuffer, PackedDriver, writeDescriptor } from "../testing/index.js"
import type { DescriptorChain } from "./chain.js"
import { VIRTQ_DESC_F_INDIRECT, VIRTQ_DESC_F_NEXT, VIRTQ_DESC_F_WRITE } from "./defs.js"
import { QueueError, type QueueErrorCode } from "./errors.js"
import { PackedQueue } from "./packed-queue.js"
import type { QueueConfig } from "./virt-queue.js"

const BASE = 2 ** 32
const HEAP = BASE + 0x10000
const PLAIN = VIRTIO_F_VERSION_1 | VIRTIO_F_INDIRECT_DESC | VIRTIO_F_RING_PACKED
const CONFIG: QueueConfig = { size: 5, desc: BASE, driver: BASE + 0x1000, device: BASE + 0x2000 }

function rig(features = PLAIN, over: Partial<QueueConfig> = {}) {
  const memory: ArrayBufferMemory = arrayBufferMemory(DEFAULT_REGIONS)
  const config = { ...CONFIG, ...over }
  return {
    memory,
    driver: new PackedDriver(memory, config, features),
    queue: new PackedQueue(memory, config, features),
  }
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

function popped(queue: PackedQueue): DescriptorChain {
  const chain = queue.pop()
  if (!chain) throw new Error("queue is empty")
  return chain
}

describe("packed ring", () => {
  test.each([
    { what: "no descriptors", over: { size: 0 }, code: "queue-size" },
    { what: "more than 2^15 descriptors", over: { size: 32769 }, code: "queue-size" },
    { what: "a misaligned ring", over: { desc: BASE + 4 }, code: "ring-alignment" },
    { what: "a misaligned event area", over: { device: BASE + 2 }, code: "ring-alignment" },
    { what: "an event area inside the ring", over: { driver: BASE + 16 }, code: "ring-overlap" },
    { what: "a ring in a hole", over: { desc: 0x8000_0000 }, code: "ring-address" },
  ])("T3/T4: refuses $what", ({ over, code }) => {
    const memory = arrayBufferMemory(DEFAULT_REGIONS)
    expect(codeOf(() => new PackedQueue(memory, { ...CONFIG, ...over }, PLAIN))).toBe(code)
  })

  test("Q8: chains of every length go round a ring of odd size many times", { timeout: 120_000 }, () => {
    const { memory, driver, queue } = rig()
    for (let i = 0; i < 70_000; i++) {
      const count = 1 + (i % 5)
      memory.write(HEAP, Uint8Array.of(i, i >> 8))
      const parts = Array.from({ length: count }, (_, k) => buffer(HEAP + k, 1, k > 1))
      const id = driver.post(parts)
      const chain = popped(queue)
      if (chain.head !== id || chain.slots !== count || chain.readableLength !== Math.min(2, count))
        throw new Error(`wrong chain at ${i}`)
      queue.push(chain, chain.writableLength)
      queue.publish()
      const used = driver.poll()
      if (used?.id !== id || used.length !== Math.max(0, count - 2)) throw new Error(`wrong used at ${i}`)
    }
    expect(driver.free).toBe(5)
  })

  test("completes out of order, skipping the slots of each chain", () => {
    const { driver, queue } = rig()
    const ids = [driver.post([buffer(HEAP, 1), buffer(HEAP, 1)]), driver.post([buffer(HEAP, 8, true)])]
    const chains = [popped(queue), popped(queue)]
    queue.push(chains[1]!, 8)
    queue.push(chains[0]!, 0)
    queue.publish()
    expect([driver.poll(), driver.poll()]).toEqual([
      { id: ids[1], length: 8 },
      { id: ids[0], length: 0 },
    ])
    expect(driver.free).toBe(5)
  })

  test("uses an indirect table in order, whatever NEXT says in it (2.8.8)", () => {
    const { driver, queue } = rig()
    driver.post([buffer(HEAP, 3), buffer(HEAP, 4), buffer(HEAP, 5, true)], { indirectTable: HEAP + 0x100 })
    const chain = popped(queue)
    expect([chain.segmentCount, chain.readableLength, chain.writableLength, chain.slots]).toEqual([
      3, 7, 5, 1,
    ])
  })

  test.each([
    {
      name: "Q3: an address in a hole",
      list: [{ address: 0x8000_0000n, length: 4, flags: 0 }],
      code: "descriptor-address",
    },
    {
      name: "Q4: an address past 2^53",
      list: [{ address: 2n ** 63n, length: 4, flags: 0 }],
      code: "descriptor-address",
    },
    {
      name: "Q9: a buffer id outside the ring",
      list: [{ address: BigInt(HEAP), length: 4, flags: 0, next: 5 }],
      code: "head-index",
    },
    {
      name: "Q1: a chain that never ends",
      list: Array.from({ length: 5 }, () => ({ address: BigInt(HEAP), length: 4, flags: VIRTQ_DESC_F_NEXT })),
      code: "chain-too-long",
    },
    {
      name: "Q10: an indirect descriptor with NEXT",
      list: [{ address: BigInt(HEAP), length: 16, flags: VIRTQ_DESC_F_INDIRECT | VIRTQ_DESC_F_NEXT }],
      code: "indirect-flags",
    },
    {
      name: "Q10: an indirect table of 20 bytes",
      list: [{ address: BigInt(HEAP), length: 20, flags: VIRTQ_DESC_F_INDIRECT }],
      code: "indirect-length",
    },
    {
      name: "Q12: readable after writable",
      list: [
        { address: BigInt(HEAP), length: 4, flags: VIRTQ_DESC_F_WRITE | VIRTQ_DESC_F_NEXT },
        { address: BigInt(HEAP), length: 4, flags: 0 },
      ],
      code: "readable-after-writable",
    },
  ])("$name is refused as $code", ({ list, code }) => {
    const { driver, queue } = rig()
    list.forEach((descriptor, i) => {
      driver.writeRaw(i, descriptor)
      driver.offerRaw(0)
    })
    expect(codeOf(() => queue.pop())).toBe(code)
  })

  test("Q10: an indirect entry that is indirect itself is refused", () => {
    const { memory, driver, queue } = rig()
    writeDescriptor(memory, HEAP, {
      address: BigInt(HEAP),
      length: 16,
      flags: 0,
      next: VIRTQ_DESC_F_INDIRECT,
    })
    driver.writeRaw(0, { address: BigInt(HEAP), length: 16, flags: VIRTQ_DESC_F_INDIRECT })
    expect(codeOf(() => queue.pop())).toBe("nested-indirect")
  })

  test("Q11: an indirect descriptor without the feature is refused", () => {
    const { driver, queue } = rig(VIRTIO_F_VERSION_1 | VIRTIO_F_RING_PACKED)
    driver.post([buffer(HEAP, 3)], { indirectTable: HEAP + 0x100 })
    expect(codeOf(() => queue.pop())).toBe("indirect-refused")
  })

  test("Q17: an id in flight, and slots not yet used, are refused when offered again", () => {
    const first = rig()
    first.driver.writeRaw(0, { address: BigInt(HEAP), length: 4, flags: 0, next: 2 })
    first.driver.offerRaw(0)
    first.driver.writeRaw(1, { address: BigInt(HEAP), length: 4, flags: 0, next: 2 })
    first.driver.offerRaw(0)
    popped(first.queue)
    expect(codeOf(() => first.queue.pop())).toBe("head-in-flight")

    const second = rig()
    for (let i = 0; i < 7; i++) {
      second.driver.writeRaw(i % 5, { address: BigInt(HEAP), length: 4, flags: 0, next: i % 5 })
      second.driver.offerRaw(0)
      if (i < 5) popped(second.queue)
    }
    expect(codeOf(() => second.queue.pop())).toBe("chain-too-long")
  })

  test("Q16: what the guest writes over slots in flight does not change how they are used", () => {
    const { memory, driver, queue } = rig()
    const id = driver.post([buffer(HEAP, 4), buffer(HEAP, 4, true)])
    const chain = popped(queue)
    memory.write(CONFIG.desc, new Uint8Array(32).fill(0xff))
    queue.push(chain, 4)
    expect(driver.poll()).toEqual({ id, length: 4 })
    expect(driver.free).toBe(5)
  })

  test("Q22: fails cleanly when the memory was closed", () => {
    const { memory, driver, queue } = rig()
    driver.post([buffer(HEAP, 4)])
    const chain = popped(queue)
    memory.close()
    expect(codeOf(() => queue.pop())).toBe("memory-gone")
    expect(codeOf(() => queue.push(chain, 0))).toBe("memory-gone")
    expect(codeOf(() => queue.enableNotifications())).toBe("memory-gone")
    expect(() => queue.disableNotifications()).not.toThrow()
  })

  test("interrupts follow the driver's event area", () => {
    const { driver, queue } = rig()
    const serve = () => {
      driver.post([buffer(HEAP, 4)])
      queue.push(popped(queue), 0)
      const interrupt = queue.publish()
      driver.poll()
      return interrupt
    }
    expect(serve()).toBe(true)
    driver.setInterrupts(false)
    expect(serve()).toBe(false)
    driver.setInterrupts(true)
    expect(serve()).toBe(true)
    expect(queue.publish()).toBe(false)
  })

  test("with EVENT_IDX interrupt once the slot asked for is used, round after round", () => {
    const { driver, queue } = rig(PLAIN | VIRTIO_F_EVENT_IDX)
    const serve = () => {
      driver.post([buffer(HEAP, 4), buffer(HEAP, 4)])
      queue.push(popped(queue), 0)
      const interrupt = queue.publish()
      driver.poll()
      return interrupt
    }
    for (let round = 0; round < 12; round++) {
      driver.setInterrupts(true)
      // Past the wrap the same slot is another event, until the driver asks again.
      expect([round, serve(), serve(), serve()]).toEqual([round, true, false, false])
    }
  })

  test("with EVENT_IDX notify once the slot asked for is passed", () => {
    const { driver, queue } = rig(PLAIN | VIRTIO_F_EVENT_IDX)
    for (let round = 0; round < 20; round++) {
      expect(queue.enableNotifications()).toBe(false)
      driver.post([buffer(HEAP, 4), buffer(HEAP, 4)])
      expect([round, driver.needsKick()]).toEqual([round, true])
      driver.post([buffer(HEAP, 4)])
      expect([round, driver.needsKick()]).toEqual([round, false])
      for (let i = 0; i < 2; i++) queue.push(popped(queue), 0)
      while (driver.poll());
    }
  })

  test("goes on where another queue stopped, unpopped chains first", () => {
    const { memory, driver, queue } = rig()
    for (let i = 0; i < 4; i++) {
      driver.post([buffer(HEAP, 4)])
      queue.push(popped(queue), 0)
      driver.poll()
    }
    const id = driver.post([buffer(HEAP, 7), buffer(HEAP, 2)])
    queue.unpop(popped(queue))
    const next = new PackedQueue(memory, { ...CONFIG, state: queue.state() }, PLAIN)
    const chain = popped(next)
    expect([chain.head, chain.readableLength]).toEqual([id, 9])
    next.push(chain, 0)
    expect(driver.poll()?.id).toBe(id)
  })
})
