import { MemoryError } from "./errors.js"
import type { GuestAddress } from "./guest-memory.js"
import { MAX_REGION_SIZE, RegionTable } from "./region-table.js"

/** A piece of RAM that a provider is asked for. */
export interface RegionRequest {
  /** First guest physical address, a multiple of 8. */
  readonly start: GuestAddress
  /** Length in bytes, at most 4 GiB. */
  readonly size: number
}

/** Guest memory on the JavaScript heap. */
export class ArrayBufferMemory extends RegionTable implements Disposable {
  /** Detaches every region: each view of them has length 0 and each later access throws `closed`. */
  close(): void {
    for (const { bytes } of this.regions) {
      // Transferring is the one way Node 20 detaches an ordinary buffer; the clone is dropped at once.
      if (bytes.length > 0) structuredClone(bytes.buffer, { transfer: [bytes.buffer as ArrayBuffer] })
    }
  }

  [Symbol.dispose](): void {
    this.close()
  }
}

/**
 * Zeroed guest memory in ordinary `ArrayBuffer`s, for tests and devices without a guest.
 * @throws MemoryError `no-regions`, `region-size`, `region-address`, `region-overlap`, `misaligned`
 *
 * @example
 * ```ts
 * const memory = arrayBufferMemory([{ start: 0, size: 64 * 1024 }])
 * memory.write(0x1000, Uint8Array.of(1, 2, 3))
 * ```
 */
export function arrayBufferMemory(regions: readonly RegionRequest[]): ArrayBufferMemory {
  return new ArrayBufferMemory(
    regions.map(({ start, size }) => {
      if (!(Number.isSafeInteger(size) && size > 0 && size <= MAX_REGION_SIZE))
        throw new MemoryError("region-size", start, size)
      return { start, bytes: new Uint8Array(new ArrayBuffer(size)) }
    }),
  )
}
