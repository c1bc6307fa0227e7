import type { ImageLimits } from "../limits.js"
import type { Compression } from "../spec/media-types.js"

/** What is to be done with a layer. */
export interface LayerTask {
  /** Make a layer's data part and index (the default), or find where that part's content lies in the blob. */
  readonly purpose?: "part" | "spans"
  readonly compression: Compression
  readonly limits: ImageLimits
}

/** What the process that reads layers is told: a line of JSON on its standard input, behind which the bytes follow. */
export interface LayerOrder extends LayerTask {
  /** How many bytes follow: the compressed layer; to find spans, its index. */
  readonly size: number
}

/** Descriptors of the process: files for the data part and the index, and where its result goes. */
export const DATA_FD = 3
export const INDEX_FD = 4
/** Likewise to find spans: the blob, and the file for what is found. */
export const BLOB_FD = 3
export const SPANS_FD = 4
export const RESULT_FD = 5

/** The one file besides its code that the process may open. @see proc(5), /proc/pid/status */
export const MEMORY_FILE = "/proc/self/status"

const MIB = 1024 * 1024
const HEAP_BASE_MIB = 48
/** A file or directory costs up to 450 bytes, and there is one for {@link ImageLimits.entryBytes} at most. */
const HEAP_PER_ENTRY = 512

/**
 * JavaScript heap that reading a layer may take, in MiB: what {@link limitsFor} lets through fits.
 *
 * @param size - bytes of the compressed layer
 */
export function heapFor(limits: ImageLimits, size: number): number {
  const entries = limitsFor(limits, size).entries - limits.entriesFloor
  return HEAP_BASE_MIB + Math.ceil((HEAP_PER_ENTRY * Math.max(0, entries)) / MIB)
}

/**
 * The limits of one layer: one of few bytes may not have as many names as a large one.
 *
 * @param size - bytes of the compressed layer
 */
export function limitsFor(limits: ImageLimits, size: number): ImageLimits {
  const entries = limits.entriesFloor + Math.floor(size / limits.entryBytes)
  return { ...limits, entries: Math.min(limits.entries, entries) }
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
