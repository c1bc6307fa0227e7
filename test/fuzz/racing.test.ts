import { createRequire } from "node:module"
import { fileURLToPath } from "node:url"
import { Worker } from "node:worker_threads"
import { QueueError } from "@ts-vmm/virtio-devices"
import type { MappedMemory } from "@ts-vmm/vm-memory/mmap"
import { checkedShape } from "./chain-shape.js"
import {
  guardedRam,
  makeQueue,
  RAM,
  type RawTable,
  type RingCase,
  randomDescriptor,
  randomTables,
  writeTable,
} from "./guest-ram.js"
import { fuzz } from "./harness.js"

/**
 * Q15: another thread, which stands for a second vCPU, rewrites descriptors, flags, indexes and indirect tables
 * while the queue walks them. Timing decides what a case finds, so a case number cannot bring it back; what is
 * checked holds for every interleaving.
 */
interface RaceCase {
  readonly ring: RingCase
  readonly tables: readonly RawTable[]
  readonly table: RawTable["entries"]
}

const ADDON = fileURLToPath(new URL("../../packages/native/build/Release/tsvmm_native.node", import.meta.url))
const POPS = 64

/** Swaps words between two values again and again: one that was there, and one that hurts. */
const RACER = `
const { workerData, parentPort } = require("node:worker_threads")
const addon = require(workerData.addon)
const mapping = addon.mapFile(workerData.fd, 0, workerData.size, true, false, false)
const words = new Uint32Array(mapping.buffer)
const evil = [0, 1, 2, 3, 4, 7, 0xffffffff, 0x80000000, 0x1ffff, 0x3fff0, 0x2000, 0x10004, 0x5]
const stop = new Int32Array(workerData.stop)
let state = 1
parentPort.postMessage("racing")
while (Atomics.load(stop, 0) === 0) {
  for (let i = 0; i < 1000; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    const at = (state >>> 8) % workerData.words
    const before = words[at]
    words[at] = evil[(state >>> 4) % evil.length]
    words[at] = before
  }
}
mapping.close()
`

let memory: MappedMemory
let racer: Worker
const stop = new Int32Array(new SharedArrayBuffer(4))

fuzz<RaceCase>({
  name: "racing-driver",
  share: 0.06,
  async setUp() {
    memory = guardedRam()
    const { fd } = memory.mappings[0]!
    createRequire(import.meta.url)(ADDON)
    Atomics.store(stop, 0, 0)
    // The ring and, behind it, some room that the tables lie in.
    const workerData = { addon: ADDON, fd, size: RAM[0].size, words: 0xa00 / 4, stop: stop.buffer }
    racer = new Worker(RACER, { eval: true, workerData })
    await new Promise((resolve, reject) => racer.once("message", resolve).once("error", reject))
  },
  async tearDown() {
    Atomics.store(stop, 0, 1)
    await new Promise(resolve => racer.once("exit", resolve))
    memory.close()
  },
  generate(random) {
    const packed = random.oneIn(2)
    const ring = {
      packed,
      indirect: true,
      eventIdx: random.oneIn(2),
      size: 16,
      desc: 0,
      driver: 0x400,
      device: 0x600,
    }
    const tables = randomTables(random).map(table => ({ ...table, at: 0x800 + 16 * random.below(8) }))
    const at = tables.map(table => table.at)
    return { ring, tables, table: random.list(16, i => randomDescriptor(random, i, 16, at)) }
  },
  run({ ring, tables, table }) {
    for (const one of [...tables, { at: ring.desc, entries: table }]) writeTable(memory, one, ring.packed)
    for (let i = 0; i < ring.size; i++) memory.storeU16(ring.driver + 4 + 2 * i, i)
    memory.storeU16(ring.driver + 2, ring.packed ? 0 : ring.size)
    if (ring.packed)
      for (let i = 0; i < ring.size; i++) memory.storeU16(16 * i + 14, memory.loadU16(16 * i + 14) | 0x80)
    for (let i = 0; i < POPS; i++) {
      try {
        const queue = makeQueue(memory, ring)
        for (let chain = queue.pop(); chain; chain = queue.pop()) {
          const shape = checkedShape(chain, memory)
          chain.read(0, new Uint8Array(64))
          if (checkedShape(chain, memory) !== shape) throw new Error("chain changed in flight")
          // Completed without a byte: what the ring says stays as it is for the next round.
        }
      } catch (error) {
        if (!(error instanceof QueueError)) throw error
      }
    }
  },
})
