import type { GuestAddress } from "@ts-vmm/vm-memory"
import {
  MAX_CHAIN_SEGMENTS,
  VIRTQ_DESC_F_INDIRECT,
  VIRTQ_DESC_F_NEXT,
  VIRTQ_DESC_F_WRITE,
  VIRTQ_DESC_SIZE,
} from "../queue/defs.js"
import type { QueueErrorCode } from "../queue/errors.js"
import { writeDescriptor } from "./driver-queue.js"
import type { MockDriver } from "./mock-driver.js"

/** A way to break a split ring. */
export interface HostileChain {
  /** Catalogue id and what is wrong, for test names. */
  readonly name: string
  /** What the queue says of it. */
  readonly code?: QueueErrorCode
  /** Puts it on split queue `index` and makes it available; the caller notifies. */
  plant(driver: MockDriver, index: number): void
}

const NEXT = VIRTQ_DESC_F_NEXT
const WRITE = VIRTQ_DESC_F_WRITE
const INDIRECT = VIRTQ_DESC_F_INDIRECT
/** In the hole of `DEFAULT_REGIONS` between the low regions and 4 GiB. */
const HOLE = 0x8000_0000n

function memoryAt(driver: MockDriver, size = 64): bigint {
  return BigInt(driver.alloc(size))
}

/** Plants descriptors at 0, 1, … and offers the first. */
function table(driver: MockDriver, index: number, list: readonly [bigint, number, number, number?][]): void {
  const queue = driver.splitQueue(index)
  list.forEach(([address, length, flags, next], i) => {
    queue.writeRaw(i, { address, length, flags, next: next ?? 0 })
  })
  queue.offerRaw(0)
}

/** Plants an indirect table and offers a descriptor that refers to it. */
function indirect(
  driver: MockDriver,
  index: number,
  list: readonly [bigint, number, number, number?][],
  length?: number,
): void {
  const at: GuestAddress = driver.alloc(Math.max(1, list.length) * VIRTQ_DESC_SIZE)
  list.forEach(([address, size, flags, next], i) => {
    writeDescriptor(driver.memory, at + i * VIRTQ_DESC_SIZE, {
      address,
      length: size,
      flags,
      next: next ?? 0,
    })
  })
  table(driver, index, [[BigInt(at), length ?? list.length * VIRTQ_DESC_SIZE, INDIRECT]])
}

/**
 * Chains that no device may accept: each breaks a device that takes it from its ring. Split rings, with
 * INDIRECT_DESC negotiated, on a `MockDriver` with `DEFAULT_REGIONS`.
 */
export const BROKEN_CHAINS: readonly HostileChain[] = [
  {
    name: "Q1: a chain that loops to itself",
    code: "chain-too-long",
    plant: (driver, q) => table(driver, q, [[memoryAt(driver), 4, NEXT, 0]]),
  },
  {
    name: "Q1: a chain that loops to an earlier descriptor",
    code: "chain-too-long",
    plant: (driver, q) =>
      table(driver, q, [
        [memoryAt(driver), 4, NEXT, 1],
        [memoryAt(driver), 4, NEXT, 2],
        [memoryAt(driver), 4, NEXT, 1],
      ]),
  },
  {
    name: "Q2: next outside the table",
    code: "descriptor-index",
    plant: (driver, q) => table(driver, q, [[memoryAt(driver), 4, NEXT, driver.queue(q).config.size]]),
  },
  {
    name: "Q3: an address in a hole",
    code: "descriptor-address",
    plant: (driver, q) => table(driver, q, [[HOLE, 16, WRITE]]),
  },
  {
    name: "Q3: a buffer that runs out of its region into a hole",
    code: "descriptor-address",
    plant: (driver, q) => table(driver, q, [[0x20_0000n - 8n, 16, WRITE]]),
  },
  {
    name: "Q3: a buffer that starts in a hole and ends in a region",
    code: "descriptor-address",
    plant: (driver, q) => table(driver, q, [[2n ** 32n - 8n, 16, WRITE]]),
  },
  {
    name: "Q4: an address that overflows 64 bits with its length",
    code: "descriptor-address",
    plant: (driver, q) => table(driver, q, [[2n ** 64n - 8n, 16, WRITE]]),
  },
  {
    name: "Q4: an address past 2^53",
    code: "descriptor-address",
    plant: (driver, q) => table(driver, q, [[2n ** 53n + 1n, 16, WRITE]]),
  },
  {
    name: "Q6: more than 2^32 bytes in one chain",
    code: "chain-too-large",
    plant: (driver, q) => {
      const whole = 4 * 2 ** 20
      const at = driver.alloc(MAX_CHAIN_SEGMENTS * VIRTQ_DESC_SIZE)
      for (let i = 0; i < MAX_CHAIN_SEGMENTS; i++) {
        const flags = i + 1 < MAX_CHAIN_SEGMENTS ? NEXT | WRITE : WRITE
        const entry = { address: 2n ** 32n, length: whole, flags, next: i + 1 }
        writeDescriptor(driver.memory, at + i * VIRTQ_DESC_SIZE, entry)
      }
      table(driver, q, [
        [2n ** 32n, whole, NEXT, 1],
        [BigInt(at), MAX_CHAIN_SEGMENTS * VIRTQ_DESC_SIZE, INDIRECT],
      ])
    },
  },
  {
    name: "Q7: avail.idx jumps by more than the queue size",
    code: "avail-index",
    plant: (driver, q) => {
      const queue = driver.splitQueue(q)
      queue.setAvailIdx(queue.availIdx + queue.config.size + 1)
    },
  },
  {
    name: "Q8: avail.idx moves backwards",
    code: "avail-index",
    plant: (driver, q) => {
      const queue = driver.splitQueue(q)
      queue.setAvailIdx(queue.availIdx - 1)
    },
  },
  {
    name: "Q9: a head outside the table",
    code: "head-index",
    plant: (driver, q) => driver.splitQueue(q).offerRaw(driver.queue(q).config.size),
  },
  {
    name: "Q10: an indirect table inside an indirect table (2.7.5.3.1)",
    code: "nested-indirect",
    plant: (driver, q) => indirect(driver, q, [[memoryAt(driver, 32), 32, INDIRECT]]),
  },
  {
    name: "Q10: an indirect descriptor with NEXT (2.7.5.3.1)",
    code: "indirect-flags",
    plant: (driver, q) =>
      table(driver, q, [
        [memoryAt(driver, 32), 32, INDIRECT | NEXT, 1],
        [memoryAt(driver), 4, 0],
      ]),
  },
  {
    name: "Q10: an indirect table of 0 bytes",
    code: "indirect-length",
    plant: (driver, q) => indirect(driver, q, [], 0),
  },
  {
    name: "Q10: an indirect table length that is no multiple of 16",
    code: "indirect-length",
    plant: (driver, q) => indirect(driver, q, [[memoryAt(driver), 4, 0]], 24),
  },
  {
    name: "Q10: an indirect table with more than 2^16 entries",
    code: "indirect-length",
    plant: (driver, q) => indirect(driver, q, [[memoryAt(driver), 4, 0]], 65537 * VIRTQ_DESC_SIZE),
  },
  {
    name: "Q10: an indirect table outside memory",
    code: "descriptor-address",
    plant: (driver, q) => table(driver, q, [[HOLE, 32, INDIRECT]]),
  },
  {
    name: "Q10: next outside the indirect table",
    code: "descriptor-index",
    plant: (driver, q) => indirect(driver, q, [[memoryAt(driver), 4, NEXT, 1]]),
  },
  {
    name: "Q10: a loop inside the indirect table",
    code: "chain-too-long",
    plant: (driver, q) =>
      indirect(driver, q, [
        [memoryAt(driver), 4, NEXT, 1],
        [memoryAt(driver), 4, NEXT, 0],
      ]),
  },
  {
    name: "Q12: a device-readable buffer after a device-writable one (2.7.4.2)",
    code: "readable-after-writable",
    plant: (driver, q) =>
      table(driver, q, [
        [memoryAt(driver), 4, WRITE | NEXT, 1],
        [memoryAt(driver), 4, 0],
      ]),
  },
  {
    name: "Q14: a buffer on the I/O APIC, which is not RAM",
    code: "descriptor-address",
    plant: (driver, q) => table(driver, q, [[0xfec0_0000n, 16, WRITE]]),
  },
]

/** Chains that are odd but legal: a device answers them, or refuses them in its own way, and lives on. */
export const ODD_CHAINS: readonly HostileChain[] = [
  {
    name: "Q5: a chain of zero-length buffers",
    plant: (driver, q) =>
      table(driver, q, [
        [0n, 0, NEXT, 1],
        [HOLE, 0, WRITE | NEXT, 2],
        [2n ** 64n - 1n, 0, WRITE],
      ]),
  },
  {
    name: "Q12: only device-writable buffers",
    plant: (driver, q) => table(driver, q, [[memoryAt(driver), 16, WRITE]]),
  },
  {
    name: "Q12: only device-readable buffers",
    plant: (driver, q) => table(driver, q, [[memoryAt(driver), 16, 0]]),
  },
  {
    name: "Q13: buffers that overlap each other",
    plant: (driver, q) => {
      const at = memoryAt(driver)
      table(driver, q, [
        [at, 32, NEXT, 1],
        [at + 8n, 32, WRITE | NEXT, 2],
        [at + 16n, 32, WRITE],
      ])
    },
  },
  {
    name: "Q13: a buffer over the descriptor table and the rings",
    plant: (driver, q) => {
      const { desc, device, size } = driver.queue(q).config
      const end = device + 6 + 8 * size
      table(driver, q, [
        [BigInt(desc), 64, NEXT, 1],
        [BigInt(desc), end - desc, WRITE],
      ])
    },
  },
]
