/** What a device has done so far. */
export interface BlockCounters {
  reads: number
  writes: number
  flushes: number
  /** Discards and write-zeroes. */
  discards: number
  /** Requests that did not end in VIRTIO_BLK_S_OK. */
  failed: number
  bytesRead: number
  bytesWritten: number
}

/** All zero. */
export function newBlockCounters(): BlockCounters {
  return { reads: 0, writes: 0, flushes: 0, discards: 0, failed: 0, bytesRead: 0, bytesWritten: 0 }
}

/** In this order, each counter is a cell that threads share. */
export const BLOCK_COUNTER_NAMES = Object.keys(newBlockCounters()) as (keyof BlockCounters)[]
