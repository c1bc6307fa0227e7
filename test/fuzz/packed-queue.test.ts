import { ok, strictEqual } from "node:assert"
import { type DescriptorChain, QueueError, type VirtQueue } from "@ts-vmm/virtio-devices"
import type { MappedMemory } from "@ts-vmm/vm-memory/mmap"
import { checkedShape } from "./chain-shape.js"
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
import type { Random } from "./random.js"

type Step =
  /** Gives `descriptors` to the device from the next slot on, with honest AVAIL and USED bits unless `flip`. */
  | { readonly do: "offer"; readonly descriptors: readonly RawDescriptor[]; readonly flip: number }
  | { readonly do: "pop" | "publish" | "listen" | "silence" }
  | { readonly do: "push" | "unpop"; readonly which: number }
  | { readonly do: "scribble"; readonly at: number; readonly bytes: Uint8Array }

interface PackedCase {
  readonly ring: RingCase
  readonly tables: readonly RawTable[]
  readonly steps: readonly Step[]
}

const F_AVAIL = 1 << 7
const F_USED = 1 << 15
const F_MARKERS = F_AVAIL | F_USED
const RING_SPAN = 0x800

function generate(random: Random): PackedCase {
  const ring = randomRing(random, true)
  const tables = randomTables(random)
  const at = tables.map(table => table.at)
  return {
    ring,
    tables,
    steps: [offer(random, ring, at), ...random.list(random.between(3, 16), () => step(random, ring, at))],
  }
}

function offer(random: Random, ring: RingCase, tables: readonly number[]): Step {
  const count = random.between(1, Math.min(6, ring.size))
  const descriptors = random.list(count, i => {
    const { next: _, ...rest } = randomDescriptor(random, i, count, tables)
    return { ...rest, next: random.oneIn(30) ? random.edge() & 0xffff : random.below(ring.size) }
  })
  return { do: "offer", descriptors, flip: random.oneIn(8) ? random.pick([F_AVAIL, F_USED, F_MARKERS]) : 0 }
}

function step(random: Random, ring: RingCase, tables: readonly number[]): Step {
  switch (random.below(14)) {
    case 0:
    case 1:
      return offer(random, ring, tables)
    case 2:
    case 3:
    case 4:
      return { do: "push", which: random.below(8) }
    case 5:
      return { do: "unpop", which: random.below(8) }
    case 6:
      return { do: "publish" }
    case 7:
      return { do: random.oneIn(2) ? "listen" : "silence" }
    case 8:
      return {
        do: "scribble",
        at: ring.desc + random.below(RING_SPAN),
        bytes: random.bytes(random.between(1, 16)),
      }
    default:
      return { do: "pop" }
  }
}

/** A driver that keeps count of slots honestly, whatever it puts into them, and what must hold of the queue. */
class PackedRun {
  readonly #memory: MappedMemory
  readonly #ring: RingCase
  readonly #queue: VirtQueue
  readonly #inFlight: { chain: DescriptorChain; shape: string }[] = []
  #unpopped = 0
  #slot = 0
  #wrap = true
  #used = 0
  #usedWrap = true

  constructor(memory: MappedMemory, ring: RingCase, queue: VirtQueue) {
    this.#memory = memory
    this.#ring = ring
    this.#queue = queue
  }

  step(step: Step): void {
    switch (step.do) {
      case "offer":
        this.#offer(step.descriptors, step.flip)
        break
      case "pop":
        this.#pop()
        break
      case "push":
        this.#push(step.which)
        break
      case "unpop":
        this.#unpop(step.which)
        break
      case "publish":
        this.#queue.publish()
        break
      case "listen":
        this.#queue.enableNotifications()
        break
      case "silence":
        this.#queue.disableNotifications()
        break
      case "scribble":
        writeWhereThere(this.#memory, step.at, step.bytes)
    }
  }

  #offer(descriptors: readonly RawDescriptor[], flip: number): void {
    for (const descriptor of descriptors) {
      const markers = (this.#wrap ? F_AVAIL : F_USED) ^ flip
      const flags = (descriptor.flags & ~F_MARKERS) | markers
      writeDescriptor(this.#memory, this.#ring.desc + 16 * this.#slot, { ...descriptor, flags }, true)
      if (++this.#slot < this.#ring.size) continue
      this.#slot = 0
      this.#wrap = !this.#wrap
    }
  }

  #pop(): void {
    const before = this.#queue.inFlight
    const chain = this.#queue.pop()
    if (!chain) return
    if (this.#unpopped > 0) this.#unpopped--
    ok(chain.head < this.#ring.size, "buffer id")
    ok(!this.#inFlight.some(one => one.chain === chain), "one chain twice in flight")
    strictEqual(this.#queue.inFlight, before + 1)
    ok(this.#queue.inFlight <= this.#ring.size, "more in flight than the ring holds")
    this.#inFlight.push({ chain, shape: checkedShape(chain, this.#memory) })
    const slots = this.#inFlight.reduce((sum, one) => sum + one.chain.slots, 0)
    ok(slots <= this.#ring.size, "more slots in flight than the ring has")
  }

  #push(which: number): void {
    const taken = this.#take(which)
    if (!taken) return
    const { head, slots, writableLength } = taken
    this.#queue.push(taken, writableLength)
    const at = this.#ring.desc + 16 * this.#used
    const view = new DataView(new ArrayBuffer(16))
    this.#memory.read(at, new Uint8Array(view.buffer))
    strictEqual(view.getUint32(8, true), writableLength, "used length")
    strictEqual(view.getUint16(12, true), head, "used id")
    strictEqual(view.getUint16(14, true) & F_MARKERS, this.#usedWrap ? F_MARKERS : 0, "used markers")
    this.#used += slots
    if (this.#used < this.#ring.size) return
    this.#used -= this.#ring.size
    this.#usedWrap = !this.#usedWrap
  }

  #unpop(which: number): void {
    const taken = this.#take(which)
    if (!taken) return
    this.#queue.unpop(taken)
    this.#unpopped++
  }

  #take(which: number): DescriptorChain | undefined {
    const [taken] = this.#inFlight.splice(which % Math.max(1, this.#inFlight.length), 1)
    if (!taken) return undefined
    strictEqual(checkedShape(taken.chain, this.#memory), taken.shape, "a chain changed after it was taken")
    taken.chain.write(0, new Uint8Array(Math.min(4096, taken.chain.writableLength)))
    return taken.chain
  }
}

let memory: MappedMemory

fuzz<PackedCase>({
  name: "packed-queue",
  share: 0.08,
  setUp() {
    memory = guardedRam()
  },
  tearDown() {
    memory.close()
  },
  generate,
  run({ ring, tables, steps }) {
    wipe(memory)
    for (const table of tables) writeTable(memory, table, true)
    try {
      const run = new PackedRun(memory, ring, makeQueue(memory, ring))
      for (const step of steps) run.step(step)
    } catch (error) {
      if (!(error instanceof QueueError)) throw error
    }
  },
})
