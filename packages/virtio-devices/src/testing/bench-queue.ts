import { arrayBufferMemory } from "@ts-vmm/vm-memory"
import { RING_FEATURES, VIRTIO_F_RING_PACKED } from "../features.js"
import { availRingSize, VIRTQ_DESC_F_NEXT, VIRTQ_DESC_F_WRITE, VIRTQ_DESC_SIZE } from "../queue/defs.js"
import { SplitQueue } from "../queue/split-queue.js"
import type { VirtQueue } from "../queue/virt-queue.js"
import { writeDescriptor } from "./driver-queue.js"

/** What `benchQueue` measured. */
export interface QueueBenchResult {
  /** Median over the rounds: one 3-descriptor chain taken, walked, checked, and put on the used ring. */
  readonly nsPerChain: number
  /** The fastest round. */
  readonly bestNsPerChain: number
  /** Chains in one round. */
  readonly chains: number
  readonly rounds: number
}

const SIZE = 256
const BATCH = 64
const DESCRIPTORS = 3
const BASE = 2 ** 32
const RING = { size: SIZE, desc: BASE, driver: BASE + 0x2000, device: BASE + 0x4000 }
const BUFFERS = 0x10000
/** What the first, unmeasured round serves: the compiler has seen everything by then. */
const WARM_UP_CHAINS = 500_000

/**
 * Times the split ring as devices use it, in batches of 64 chains of 3 descriptors (16 bytes readable,
 * 4096 and 16 writable), with indirect descriptors and EVENT_IDX negotiated and every check in place. The
 * driver's side is prepared beforehand, so that its work is one store per batch.
 *
 * @param rounds rounds to take the median of: many short ones, so that a busy machine spoils few
 * @param chains chains per round
 *
 * @example
 * ```ts
 * console.log(benchQueue().nsPerChain)
 * ```
 */
export function benchQueue(rounds = 101, chains = 20_000): QueueBenchResult {
  const memory = arrayBufferMemory([
    { start: 0, size: 2 ** 20 },
    { start: BASE, size: 2 ** 26 },
  ])
  for (let i = 0; i < BATCH * DESCRIPTORS; i++) {
    const part = i % DESCRIPTORS
    const flags = (part === 0 ? 0 : VIRTQ_DESC_F_WRITE) | (part + 1 < DESCRIPTORS ? VIRTQ_DESC_F_NEXT : 0)
    const address = BigInt(BASE + BUFFERS + i * 4096)
    writeDescriptor(memory, RING.desc + i * VIRTQ_DESC_SIZE, {
      address,
      length: part === 1 ? 4096 : 16,
      flags,
      next: i + 1,
    })
  }
  for (let i = 0; i < SIZE; i++) memory.storeU16(RING.driver + 4 + 2 * i, (i % BATCH) * DESCRIPTORS)
  const avail = new Uint16Array(
    memory.slices(RING.driver, availRingSize(SIZE))[0]!.buffer,
    RING.driver - BASE,
    2,
  )

  const times: number[] = []
  for (let round = 0; round <= rounds; round++) {
    Atomics.store(avail, 1, 0)
    const queue = new SplitQueue(memory, RING, RING_FEATURES & ~VIRTIO_F_RING_PACKED)
    const start = process.hrtime.bigint()
    const served = serve(queue, avail, round === 0 ? WARM_UP_CHAINS : chains)
    if (round > 0) times.push(Number(process.hrtime.bigint() - start) / served)
  }
  times.sort((a, b) => a - b)
  return { nsPerChain: times[times.length >> 1]!, bestNsPerChain: times[0]!, chains, rounds }
}

function serve(queue: VirtQueue, avail: Uint16Array, chains: number): number {
  let served = 0
  for (let idx = 0; served < chains; ) {
    idx = (idx + BATCH) & 0xffff
    Atomics.store(avail, 1, idx)
    queue.disableNotifications()
    do {
      for (let chain = queue.pop(); chain !== undefined; chain = queue.pop()) {
        queue.push(chain, chain.writableLength)
        served++
      }
    } while (queue.enableNotifications())
    queue.publish()
  }
  return served
}
