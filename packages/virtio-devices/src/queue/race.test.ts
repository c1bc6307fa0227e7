import { once } from "node:events"
import { Worker } from "node:worker_threads"
import { type GuestMemory, RegionTable } from "@ts-vmm/vm-memory"
import { mmapMemory } from "@ts-vmm/vm-memory/mmap"
import { expect, test } from "vitest"
import { RING_FEATURES, VIRTIO_F_RING_PACKED } from "../features.js"
import type { DescriptorChain } from "./chain.js"
import { createQueue } from "./create-queue.js"
import { QueueError } from "./errors.js"
import type { VirtQueue } from "./virt-queue.js"

const SIZE = 0x10000
const PATIENCE_MS = 45_000
const LEAST_TRIES = 15_000
const ENOUGH_ACCEPTED = 500
const ENOUGH_CODES = 4
const RING = { size: 16, desc: 0, driver: 0x1000, device: 0x2000 }

/**
 * Rewrites the ring and an indirect table at 0x4000 without end: addresses, lengths, flags, next, ids and
 * indexes, plausible and absurd ones in turns.
 */
const FLIP = `
  const pick = list => list[Math.floor(Math.random() * list.length)]
  function descriptor(view, at, size) {
    view.setUint32(at, pick([0x5000, 0x5000, 0x6000, 0xfff0, 0x10000, 0x4000, 0xffffffff]), true)
    view.setUint32(at + 4, pick([0, 0, 0, 0, 0, 1, 0xffffffff]), true)
    view.setUint32(at + 8, pick([16, 16, 64, 256, 0, 0xffffffff]), true)
    view.setUint16(at + 12, pick([0, 1, 1, 2, 3, 4, 0xffff]), true)
    view.setUint16(at + 14, pick([1, 2, 3, 15, 16, 0x80, 0x82, 0x81, 0xffff]), true)
  }
  function flip(view) {
    for (let i = 0; i < 16; i++) descriptor(view, i * 16)
    for (let i = 0; i < 16; i++) descriptor(view, 0x4000 + i * 16)
    for (let i = 0; i < 16; i++) view.setUint16(0x1004 + 2 * i, pick([0, 1, 2, 3, 15, 16]), true)
    view.setUint16(0x1002, pick([0, 1, 2, 3, 8, 16, 17, 0xffff]), true)
  }
  const { workerData: data, parentPort } = require("node:worker_threads")
  parentPort.on("message", () => process.exit(0))
`

const SHARED = `${FLIP}
  const view = new DataView(data.buffer)
  function turn() { for (let i = 0; i < 500; i++) flip(view); setImmediate(turn) }
  turn(); parentPort.postMessage("ready")`

const MEMFD = `${FLIP}
  const fs = require("node:fs")
  const copy = Buffer.alloc(0x5000)
  const view = new DataView(copy.buffer, copy.byteOffset, copy.length)
  function turn() {
    for (let i = 0; i < 50; i++) { flip(view); fs.writeSync(data.fd, copy, 0, 0x1400, 0); fs.writeSync(data.fd, copy, 0x4000, 256, 0x4000) }
    setImmediate(turn)
  }
  turn(); parentPort.postMessage("ready")`

/** What must hold of any chain, whatever was being written while it was read. */
function checkChain(memory: GuestMemory, chain: DescriptorChain): void {
  let [readable, writable] = [0, 0]
  for (let i = 0; i < chain.segmentCount; i++) {
    const length = chain.segmentLengths[i]!
    if (memory.find(chain.segmentAddress(i), length) === undefined) throw new Error("segment outside memory")
    if (i < chain.readableCount) readable += length
    else writable += length
  }
  if (readable !== chain.readableLength || writable !== chain.writableLength)
    throw new Error("lengths do not add up")
  const bytes = new Uint8Array(8)
  chain.read(0, bytes)
  // Into the payload only: writing over the ring would be the other thread's job.
  if (chain.writableLength > 0 && chain.segmentAddress(chain.readableCount) === 0x5000) chain.write(0, bytes)
}

function runAgainst(memory: GuestMemory, features: bigint): { accepted: number; refused: Set<string> } {
  const refused = new Set<string>()
  let accepted = 0
  let queue: VirtQueue | undefined
  // Until enough was seen of both; the deadline only ends a test on a machine that never runs the other thread.
  const deadline = performance.now() + PATIENCE_MS
  for (let i = 0; i < LEAST_TRIES || accepted < ENOUGH_ACCEPTED || refused.size < ENOUGH_CODES; i++) {
    if (i % 1024 === 0 && performance.now() > deadline) break
    try {
      queue ??= createQueue(memory, RING, features)
      const chain = queue.pop()
      if (!chain) {
        queue = undefined
        continue
      }
      checkChain(memory, chain)
      accepted++
      queue.push(chain, chain.writableLength)
      queue.publish()
    } catch (error) {
      if (!(error instanceof QueueError)) throw error
      refused.add(error.code)
      queue = undefined
    }
  }
  return { accepted, refused }
}

test.each([
  { over: "a SharedArrayBuffer", packed: false },
  { over: "a SharedArrayBuffer", packed: true },
  { over: "a memfd mapping between guard pages", packed: false },
  { over: "a memfd mapping between guard pages", packed: true },
])(
  "Q15: a thread rewriting everything on $over while it is read, packed: $packed",
  async ({ over, packed }) => {
    const shared = over.startsWith("a Shared") ? new SharedArrayBuffer(SIZE) : undefined
    const mapped = shared ? undefined : mmapMemory([{ start: 0, size: SIZE }])
    const memory = mapped ?? new RegionTable([{ start: 0, bytes: new Uint8Array(shared!) }])
    const worker = new Worker(shared ? SHARED : MEMFD, {
      eval: true,
      workerData: { buffer: shared, fd: mapped?.mappings[0]?.fd },
    })
    try {
      await once(worker, "message")
      const { accepted, refused } = runAgainst(
        memory,
        packed ? RING_FEATURES : RING_FEATURES & ~VIRTIO_F_RING_PACKED,
      )
      expect(accepted).toBeGreaterThanOrEqual(ENOUGH_ACCEPTED)
      expect(refused.size).toBeGreaterThanOrEqual(ENOUGH_CODES)
    } finally {
      worker.postMessage("stop")
      await once(worker, "exit")
      mapped?.close()
    }
  },
  60_000,
)
