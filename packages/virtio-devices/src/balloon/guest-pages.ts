import type { GuestMemory } from "@ts-vmm/vm-memory"
import { BALLOON_PAGE_SIZE } from "./defs.js"

/** What the balloon has done so far. Plain numbers that only rise; what a guest names twice counts twice. */
export interface BalloonCounters {
  /** Bytes given back to the host: inflated and reported pages. */
  freedBytes: number
  /** Bytes that the guest took back from the balloon. */
  deflatedBytes: number
  /** Bytes that were named and are not guest RAM, or could not be used: reports of a guest that poisons pages. */
  ignoredBytes: number
  /** Runs of pages that the host did not take back. */
  failures: number
}

/** Calls `use` for each part of `[start, start + size)` that is whole pages of guest RAM. @returns their bytes */
export function eachRamPart(
  memory: GuestMemory,
  start: number,
  size: number,
  use: (start: number, size: number) => void,
): number {
  let bytes = 0
  for (const region of memory.regions) {
    // Regions need not start at a page: what a border cuts stays as it is.
    const from = Math.ceil(Math.max(start, region.start) / BALLOON_PAGE_SIZE) * BALLOON_PAGE_SIZE
    const end = Math.min(start + size, region.start + region.size)
    const to = Math.floor(end / BALLOON_PAGE_SIZE) * BALLOON_PAGE_SIZE
    if (to <= from) continue
    bytes += to - from
    use(from, to - from)
  }
  return bytes
}

/** Gives what is guest RAM of `[start, start + size)` back to the host, and counts. Never throws. */
export function freePages(memory: GuestMemory, start: number, size: number, counters: BalloonCounters): void {
  const inside = eachRamPart(memory, start, size, (from, length) => {
    try {
      memory.discard(from, length)
      counters.freedBytes += length
    } catch {
      // A peer's file without holes, or memory that was closed: the guest loses nothing by it, the host gains nothing.
      counters.failures++
    }
  })
  counters.ignoredBytes += size - inside
}
