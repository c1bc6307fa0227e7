import { arrayBufferMemory } from "@ts-vmm/vm-memory"
import fc from "fast-check"
import { describe, expect, test } from "vitest"
import { RING_FEATURES, VIRTIO_F_RING_PACKED } from "../features.js"
import { type DriverBuffer, type DriverQueue, PackedDriver, SplitDriver } from "../testing/index.js"
import type { DescriptorChain } from "./chain.js"
import { createQueue } from "./create-queue.js"
import { QueueError } from "./errors.js"
import { SplitQueue } from "./split-queue.js"

const BASE = 2 ** 32
const RING = { size: 8, desc: BASE, driver: BASE + 0x1000, device: BASE + 0x2000 }
/** Small, because each run makes its own: two regions that touch, and one above 4 GiB. */
const LOW_END = 0x6000
const HIGH_SIZE = 0x10000
const REGIONS = [
  { start: 0, size: 0x4000 },
  { start: 0x4000, size: 0x2000 },
  { start: BASE, size: HIGH_SIZE },
]
const HEAP = 0x3f00
const TABLE = BASE + 0x8000

/** One honest driver's step or one device's step. */
type Step =
  | { kind: "post"; lengths: number[]; readable: number; indirect: boolean }
  | { kind: "pop" }
  | { kind: "push"; which: number; written: number }
  | { kind: "unpop" }
  | { kind: "poll" }

const steps: fc.Arbitrary<Step[]> = fc.array(
  fc.oneof(
    fc.record({
      kind: fc.constant("post" as const),
      lengths: fc.array(fc.integer({ min: 0, max: 200 }), { minLength: 1, maxLength: 4 }),
      readable: fc.nat(4),
      indirect: fc.boolean(),
    }),
    fc.record({ kind: fc.constant("pop" as const) }),
    fc.record({ kind: fc.constant("push" as const), which: fc.nat(8), written: fc.nat(1000) }),
    fc.record({ kind: fc.constant("unpop" as const) }),
    fc.record({ kind: fc.constant("poll" as const) }),
  ),
  { maxLength: 120 },
)

interface ModelChain {
  id: number
  readable: number
  writable: number
}

describe.each([{ packed: false }, { packed: true }])(
  "queue against a model of lists, packed: $packed",
  ({ packed }) => {
    const features = packed ? RING_FEATURES : RING_FEATURES & ~VIRTIO_F_RING_PACKED

    function run(list: readonly Step[]): void {
      const memory = arrayBufferMemory(REGIONS)
      const driver: DriverQueue = packed
        ? new PackedDriver(memory, RING, features)
        : new SplitDriver(memory, RING, features)
      const queue = createQueue(memory, RING, features)
      const posted: ModelChain[] = []
      const held: { chain: DescriptorChain; model: ModelChain }[] = []
      const used: { id: number; length: number }[] = []

      const post = (step: Step & { kind: "post" }) => {
        const buffers = step.lengths.map(
          (length, i): DriverBuffer => ({
            address: HEAP + i * 256,
            length,
            writable: i >= step.readable,
            bytes: () => new Uint8Array(),
          }),
        )
        if (driver.free < (step.indirect ? 1 : buffers.length)) return
        const sum = (writable: boolean) =>
          buffers.filter(b => b.writable === writable).reduce((n, b) => n + b.length, 0)
        const at = TABLE + posted.length * 64 + held.length * 1024
        const id = driver.post(buffers, step.indirect ? { indirectTable: at } : {})
        posted.push({ id, readable: sum(false), writable: sum(true) })
      }
      const pop = () => {
        const chain = queue.pop()
        const model = posted.shift()
        expect(chain === undefined).toBe(model === undefined)
        if (!chain || !model) return
        expect([chain.head, chain.readableLength, chain.writableLength]).toEqual([
          model.id,
          model.readable,
          model.writable,
        ])
        held.push({ chain, model })
      }
      const push = (which: number, written: number) => {
        const [entry] = held.splice(which % Math.max(1, held.length), 1)
        if (!entry) return
        const length = Math.min(written, entry.model.writable)
        queue.push(entry.chain, length)
        queue.publish()
        used.push({ id: entry.model.id, length })
      }
      const unpop = () => {
        const entry = held.pop()
        if (!entry) return
        queue.unpop(entry.chain)
        posted.unshift(entry.model)
      }
      for (const step of list) {
        if (step.kind === "post") post(step)
        else if (step.kind === "pop") pop()
        else if (step.kind === "push") push(step.which, step.written)
        else if (step.kind === "unpop") unpop()
        else expect(driver.poll()).toEqual(used.shift())
        expect(queue.inFlight).toBe(held.length)
      }
    }

    test("every sequence of driver's and device's steps agrees", () => {
      fc.assert(fc.property(steps, run), { numRuns: 300, seed: packed ? 2 : 1 })
    })
  },
)

describe("hostile tables against an independent walk", () => {
  interface Raw {
    address: number
    length: number
    flags: number
    next: number
  }

  const raw: fc.Arbitrary<Raw> = fc.record({
    address: fc.oneof(
      fc.nat(0x40),
      fc.constantFrom(LOW_END - 4, 0x4000 - 2, 0x3000_0000, BASE + HIGH_SIZE - 16),
    ),
    length: fc.oneof(fc.nat(40), fc.constantFrom(0, 0xffff_ffff)),
    flags: fc.oneof({ weight: 9, arbitrary: fc.nat(3) }, { weight: 1, arbitrary: fc.nat(0xffff) }),
    next: fc.oneof({ weight: 9, arbitrary: fc.nat(7) }, { weight: 1, arbitrary: fc.nat(0xffff) }),
  })

  /** Says byte by byte what a chain covers, or that it is refused. No indirect tables. */
  function model(table: readonly Raw[], head: number): { readable: number; writable: number } | "refused" {
    const seen = new Set<number>()
    let [readable, writable] = [0, 0]
    for (let index = head; ; ) {
      const d = table[index]
      if (!d || seen.has(index) || (d.flags & 4) !== 0) return "refused"
      seen.add(index)
      if (d.length > 0) {
        const inLow = d.address + d.length <= LOW_END
        const inHigh = d.address >= BASE && d.address + d.length <= BASE + HIGH_SIZE
        if (!inLow && !inHigh) return "refused"
        if (d.flags & 2) writable += d.length
        else if (writable > 0) return "refused"
        else readable += d.length
      }
      if ((d.flags & 1) === 0) return { readable, writable }
      index = d.next
    }
  }

  test("the queue accepts what the model accepts, and refuses the rest", () => {
    fc.assert(
      fc.property(fc.array(raw, { minLength: 8, maxLength: 8 }), fc.nat(8), (table, head) => {
        const memory = arrayBufferMemory(REGIONS)
        // Without indirect descriptors, so that the model stays simple.
        const features = 1n << 32n
        const driver = new SplitDriver(memory, RING, features)
        const queue = new SplitQueue(memory, RING, features)
        table.forEach((d, i) => {
          driver.writeRaw(i, { ...d, address: BigInt(d.address) })
        })
        driver.offerRaw(head)
        const expected = model(table, head)
        let got: ReturnType<typeof model>
        try {
          const chain = queue.pop()!
          got = { readable: chain.readableLength, writable: chain.writableLength }
          const bytes = [...chain.readableSlices(), ...chain.writableSlices()].reduce(
            (n, s) => n + s.length,
            0,
          )
          expect(bytes).toBe(got.readable + got.writable)
        } catch (error) {
          if (!(error instanceof QueueError)) throw error
          got = "refused"
        }
        expect(got).toEqual(expected)
      }),
      { numRuns: 1500, seed: 3 },
    )
  })
})
