import { VIRTQ_DESC_SIZE } from "../queue/defs.js"
import { writeDescriptor } from "./driver-queue.js"
import type { MockDriver } from "./mock-driver.js"

/** Gives integers in `[0, below)`. */
export type RandomSource = (below: number) => number

/** A seeded generator (xorshift32): the same seed gives the same run. */
export function randomSource(seed: number): RandomSource {
  let state = seed >>> 0 || 1
  return below => {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    state >>>= 0
    return state % below
  }
}

function pick<T>(random: RandomSource, from: readonly T[]): T {
  return from[random(from.length)]!
}

function randomAddress(driver: MockDriver, random: RandomSource): bigint {
  const region = pick(random, driver.memory.regions)
  switch (random(10)) {
    case 0:
      return BigInt(region.start + region.size) - BigInt(random(64))
    case 1:
      return pick(random, [2n ** 64n - 8n, 2n ** 53n, 2n ** 52n, 0x8000_0000n, 2n ** 32n - 4n])
    case 2:
      return BigInt(region.start)
    default:
      // The upper half: rings lie at the start, where random writes would hide the rest of the test.
      return BigInt(region.start + region.size / 2 + random(region.size / 4))
  }
}

function randomLength(random: RandomSource): number {
  return random(12) === 0 ? pick(random, [0, 0xffff_ffff, 2 ** 31, 65536]) : random(600)
}

/** Mostly sane flags, with every bit now and then. */
function randomFlags(random: RandomSource, last: boolean): number {
  if (random(12) === 0) return random(0x10000)
  return (last ? 0 : 1) | (random(2) << 1)
}

/**
 * Fills a ring's table with random descriptors, mostly plausible ones, and makes some available.
 */
export function writeRandomRing(driver: MockDriver, index: number, random: RandomSource): void {
  const queue = driver.queue(index)
  const { size } = queue.config
  const table = driver.memory.regions.at(-1)!.start + 2 ** 20
  for (let i = 0; i < 16; i++) {
    writeDescriptor(driver.memory, table + i * VIRTQ_DESC_SIZE, {
      address: randomAddress(driver, random),
      length: randomLength(random),
      flags: randomFlags(random, i === 15 || random(3) === 0),
      next: random(40) === 0 ? random(0x10000) : Math.min(i + 1, 15),
    })
  }
  for (let i = 0; i < size; i++) {
    const indirect = random(5) === 0
    queue.writeRaw(i, {
      address: indirect ? BigInt(table + random(3)) : randomAddress(driver, random),
      length: indirect ? pick(random, [16, 64, 256, 17, 0]) : randomLength(random),
      flags: indirect ? 4 : randomFlags(random, random(3) === 0),
      next: random(30) === 0 ? random(0x10000) : (i + 1) % size,
    })
  }
  const offers = 1 + random(3)
  for (let i = 0; i < offers; i++) queue.offerRaw(random(20) === 0 ? random(0x10000) : random(size))
}
