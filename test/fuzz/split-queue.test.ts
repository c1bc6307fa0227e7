import { deepStrictEqual, strictEqual } from "node:assert"
import { type DescriptorChain, QueueError, type VirtQueue } from "@ts-vmm/virtio-devices"
import type { MappedMemory } from "@ts-vmm/vm-memory/mmap"
import {
  guardedRam,
  makeQueue,
  type RawDescriptor,
  type RawTable,
  type RingCase,
  randomDescriptor,
  randomRing,
  randomTables,
  wipe,
  writeDescriptor,
  writeTable,
  writeWhereThere,
} from "./guest-ram.js"
import { fuzz } from "./harness.js"
import { type ModelChain, ModelFault, ModelQueue } from "./model.js"
import type { Random } from "./random.js"

/** What driver and device do in turn. */
type Step =
  | { readonly do: "offer"; readonly heads: readonly number[]; readonly jump: number }
  | { readonly do: "pop" }
  /** Completes chain `which` of those in flight, with that share of its writable bytes. */
  | { readonly do: "push"; readonly which: number; readonly written: number }
  | { readonly do: "unpop"; readonly which: number }
  | { readonly do: "publish" }
  | { readonly do: "silence" }
  | { readonly do: "listen" }
  /** The driver writes where it likes, also into rings and chains in flight. */
  | { readonly do: "scribble"; readonly at: number; readonly bytes: Uint8Array }
  | { readonly do: "redescribe"; readonly index: number; readonly descriptor: RawDescriptor }

interface SplitCase {
  readonly ring: RingCase
  readonly availIndex: number
  readonly usedIndex: number
  readonly table: readonly RawDescriptor[]
  readonly tables: readonly RawTable[]
  readonly steps: readonly Step[]
}

const RING_SPAN = 0x800

function generate(random: Random): SplitCase {
  const ring = randomRing(random, false)
  const tables = randomTables(random)
  const at = tables.map(table => table.at)
  return {
    ring,
    availIndex: random.oneIn(3) ? 0xffff - random.below(4) : random.below(0x10000),
    usedIndex: random.oneIn(3) ? 0xffff - random.below(4) : random.below(0x10000),
    table: random.list(ring.size, i => randomDescriptor(random, i, ring.size, at)),
    tables,
    steps: [offer(random, ring), ...random.list(random.between(3, 14), () => randomStep(random, ring, at))],
  }
}

function offer(random: Random, ring: RingCase): Step {
  const heads = random.list(random.between(1, Math.min(4, ring.size)), () =>
    random.oneIn(60) ? random.edge() & 0xffff : random.below(ring.size),
  )
  return { do: "offer", heads, jump: random.oneIn(60) ? random.edge() & 0xffff : 0 }
}

function randomStep(random: Random, ring: RingCase, tables: readonly number[]): Step {
  const index = random.below(ring.size)
  switch (random.below(14)) {
    case 0:
    case 1:
      return offer(random, ring)
    case 2:
    case 3:
    case 4:
      return { do: "push", which: random.below(8), written: random.below(101) }
    case 5:
      return { do: "unpop", which: random.below(8) }
    case 6:
      return { do: "publish" }
    case 7:
      return { do: "silence" }
    case 8:
      return { do: "listen" }
    case 9: {
      const place = random.oneIn(2) ? ring.desc : ring.driver
      return {
        do: "scribble",
        at: place + random.below(RING_SPAN),
        bytes: random.bytes(random.between(1, 8)),
      }
    }
    case 10:
      return { do: "redescribe", index, descriptor: randomDescriptor(random, index, ring.size, tables) }
    default:
      return { do: "pop" }
  }
}

/** A chain of the queue and the model's idea of it. */
interface Pair {
  readonly chain: DescriptorChain
  readonly model: ModelChain
}

/** Queue and model side by side over the same memory. */
class Duel {
  readonly #memory: MappedMemory
  readonly #ring: RingCase
  readonly #queue: VirtQueue
  readonly #model: ModelQueue
  readonly #view: (at: number, size: number) => number
  #avail: number
  /** What the queue last saw of `idx`: it looks again only when it has taken everything it knew of. */
  #seen: number
  #inFlight: Pair[] = []
  #unpopped: Pair[] = []

  constructor(memory: MappedMemory, input: SplitCase, queue: VirtQueue) {
    this.#memory = memory
    this.#ring = input.ring
    this.#queue = queue
    const { availIndex, usedIndex } = input
    this.#model = new ModelQueue(memory.regions, { ...input.ring, availIndex, usedIndex })
    this.#avail = availIndex
    this.#seen = availIndex
    this.#view = (at, size) => {
      const bytes = new Uint8Array(size)
      memory.read(at, bytes)
      return bytes.reduceRight((sum, byte) => sum * 256 + byte, 0)
    }
  }

  /** @returns false when the driver broke the ring: queue and model agree that it is over */
  step(step: Step): boolean {
    switch (step.do) {
      case "offer":
        this.#offer(step.heads, step.jump)
        return true
      case "pop":
        return this.#pop()
      case "push":
        this.#push(step.which, step.written)
        return true
      case "unpop":
        this.#unpop(step.which)
        return true
      case "publish":
        this.#publish()
        return true
      case "silence":
        this.#queue.disableNotifications()
        this.#model.silence()
        return true
      case "listen":
        return this.#listen()
      case "scribble":
        writeWhereThere(this.#memory, step.at, step.bytes)
        return true
      case "redescribe":
        writeDescriptor(this.#memory, this.#ring.desc + 16 * step.index, step.descriptor)
        return true
    }
  }

  #offer(heads: readonly number[], jump: number): void {
    const { driver, size } = this.#ring
    for (const head of heads) {
      this.#memory.storeU16(driver + 4 + 2 * (this.#avail % size), head)
      this.#avail = (this.#avail + 1) & 0xffff
    }
    this.#avail = (this.#avail + jump) & 0xffff
    this.#memory.storeU16(driver + 2, this.#avail)
  }

  #pop(): boolean {
    const again = this.#unpopped.pop()
    if (again) {
      strictEqual(this.#queue.pop(), again.chain)
      this.#inFlight.push(again)
      return true
    }
    if (this.#seen === this.#model.lastAvail) this.#seen = this.#model.availableIndex()
    const expected = outcome(() => this.#model.pop(this.#seen), ModelFault)
    const actual = outcome(() => this.#queue.pop(), QueueError)
    strictEqual(
      actual.fault?.name === undefined,
      expected.fault?.name === undefined,
      `queue: ${actual.fault?.message}, model: ${expected.fault?.message}`,
    )
    if (actual.fault) return false
    strictEqual(actual.value === undefined, expected.value === undefined, "one of them found a chain")
    if (!actual.value || !expected.value) return true
    compare(actual.value, expected.value)
    this.#inFlight.push({ chain: actual.value, model: expected.value })
    return true
  }

  #push(which: number, percent: number): void {
    const [pair] = this.#inFlight.splice(which % Math.max(1, this.#inFlight.length), 1)
    if (!pair) return
    // A device that uses all of the chain; what it held when it was taken is still what it holds.
    compare(pair.chain, pair.model)
    exercise(pair.chain)
    const written = Math.floor((pair.model.writable * percent) / 100)
    const entry = this.#model.push(pair.model.head, written)
    this.#queue.push(pair.chain, written)
    deepStrictEqual(
      [this.#view(entry.at, 4), this.#view(entry.at + 4, 4)],
      [entry.id, entry.length],
      "used entry",
    )
  }

  #unpop(which: number): void {
    const [pair] = this.#inFlight.splice(which % Math.max(1, this.#inFlight.length), 1)
    if (!pair) return
    this.#queue.unpop(pair.chain)
    this.#unpopped.push(pair)
  }

  #publish(): void {
    strictEqual(this.#queue.publish(), this.#model.publish(), "interrupt")
  }

  #listen(): boolean {
    const { device, size, eventIdx } = this.#ring
    const index = this.#model.availableIndex()
    const ahead = (index - this.#model.lastAvail) & 0xffff
    const actual = outcome(() => this.#queue.enableNotifications(), QueueError)
    this.#model.listen()
    if (actual.fault) {
      strictEqual(ahead > size, true, `queue: ${actual.fault.message}`)
      return false
    }
    strictEqual(actual.value, this.#unpopped.length > 0 || ahead !== 0, "more to do")
    if (this.#unpopped.length === 0) this.#seen = index
    if (eventIdx) strictEqual(this.#view(device + 4 + 8 * size, 2), this.#model.lastAvail, "avail_event")
    return true
  }
}

function outcome<T>(action: () => T, fault: new (...args: never[]) => Error): { value?: T; fault?: Error } {
  try {
    return { value: action() }
  } catch (error) {
    if (error instanceof fault) return { fault: error }
    throw error
  }
}

function compare(chain: DescriptorChain, model: ModelChain): void {
  const segments = Array.from({ length: chain.segmentCount }, (_, i) => ({
    address: chain.segmentAddress(i),
    length: chain.segmentLengths[i]!,
    writable: i >= chain.readableCount,
  }))
  const { head, readableLength: readable, writableLength: writable } = chain
  deepStrictEqual({ head, segments, readable, writable }, model)
}

const SOME = new Uint8Array(64)

/** Reads and writes as devices do: ends, middle, past the end. */
function exercise(chain: DescriptorChain): void {
  for (const offset of [0, 1, chain.readableLength >>> 1, chain.readableLength]) {
    strictEqual(chain.read(offset, SOME), Math.min(SOME.length, Math.max(0, chain.readableLength - offset)))
  }
  for (const offset of [0, chain.writableLength - 1, chain.writableLength]) {
    if (offset < 0) continue
    strictEqual(chain.write(offset, SOME), Math.min(SOME.length, Math.max(0, chain.writableLength - offset)))
  }
  const sum = (slices: Uint8Array[]) => slices.reduce((total, slice) => total + slice.length, 0)
  strictEqual(sum(chain.readableSlices()), chain.readableLength)
  strictEqual(sum(chain.writableSlices()), chain.writableLength)
}

let memory: MappedMemory

fuzz<SplitCase>({
  name: "split-queue",
  share: 0.22,
  minimum: 100_000,
  setUp() {
    memory = guardedRam()
  },
  tearDown() {
    memory.close()
  },
  generate,
  run(input) {
    wipe(memory)
    const { ring, availIndex, usedIndex } = input
    for (const table of [...input.tables, { at: ring.desc, entries: input.table }]) writeTable(memory, table)
    const state = { availIndex, usedIndex, availWrap: true, usedWrap: true }
    const { value: queue } = outcome(() => makeQueue(memory, ring, state), QueueError)
    if (!queue) return
    memory.storeU16(ring.driver + 2, availIndex)
    const duel = new Duel(memory, input, queue)
    for (const step of input.steps) if (!duel.step(step)) break
    queue.stop()
  },
})
