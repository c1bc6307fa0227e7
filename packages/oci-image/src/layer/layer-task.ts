import type { ImageLimits } from "../limits.js"
import type { Compression } from "../spec/media-types.js"

/** What the process that reads a layer is told, as JSON in its first argument. */
export interface LayerTask {
  readonly compression: Compression
  readonly limits: ImageLimits
}

/** Descriptors of the process: files for the data part and the index, and where its result goes. */
export const DATA_FD = 3
export const INDEX_FD = 4
export const RESULT_FD = 5

/** The one file besides its code that the process may open. @see proc(5), /proc/pid/status */
export const MEMORY_FILE = "/proc/self/status"

const MIB = 1024 * 1024
const HEAP_BASE_MIB = 64
const HEAP_MAX_MIB = 2048
/** A file costs some 500 bytes of memory, and seldom less than 100 in a compressed layer. */
const HEAP_PER_BLOB = 6

/**
 * JavaScript heap that reading a layer may take, in MiB. A small blob that unpacks to a million names runs out
 * of it: such layers are made to hurt.
 *
 * @param size - bytes of the compressed layer
 */
export function heapFor(size: number): number {
  return Math.min(HEAP_MAX_MIB, HEAP_BASE_MIB + Math.ceil((HEAP_PER_BLOB * size) / MIB))
}

/** How long a process may let others wait. */
export interface LayerPatience {
  /** Milliseconds without progress. */
  readonly stall: number
  /** Milliseconds in all. */
  readonly total: number
}

const STALL_MS = 60_000
const TOTAL_MS = 120_000
const TOTAL_MS_PER_MIB = 4000

/** @param size - bytes of the compressed layer */
export function patienceFor(size: number): LayerPatience {
  return { stall: STALL_MS, total: TOTAL_MS + Math.ceil((TOTAL_MS_PER_MIB * size) / MIB) }
}
