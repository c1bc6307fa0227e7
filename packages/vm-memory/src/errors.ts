/**
 * What guest memory can say: `out-of-range` an access not wholly inside regions; `misaligned` a u16 access
 * at an odd address, a discard of parts of pages, or a region that does not start at a multiple of 8; `address-too-large` a u64 of 2^53
 * or more; `region-size` an empty region or one above 4 GiB; `region-address` a region that does not end
 * below 2^52; `region-overlap` two regions that share a byte; `no-regions` an empty memory; `closed` an
 * access after `close`; `discard-failed` pages that the host did not take back, `cause` says why.
 */
export type MemoryErrorCode =
  | "out-of-range"
  | "misaligned"
  | "address-too-large"
  | "region-size"
  | "region-address"
  | "region-overlap"
  | "no-regions"
  | "closed"
  | "discard-failed"

const MESSAGES: Record<MemoryErrorCode, string> = {
  "out-of-range": "access is not wholly inside guest memory",
  misaligned: "address is not aligned",
  "address-too-large": "address does not fit 53 bits",
  "region-size": "region is empty or larger than 4 GiB",
  "region-address": "region does not lie below 2^52",
  "region-overlap": "regions overlap",
  "no-regions": "guest memory has no regions",
  closed: "guest memory was closed",
  "discard-failed": "pages cannot be given back to the host",
}

/**
 * Error of guest memory.
 *
 * @example
 * ```ts
 * try { memory.read(at, header) } catch (e) { if (e instanceof MemoryError && e.code === "out-of-range") drop() }
 * ```
 */
export class MemoryError extends Error {
  override readonly name = "MemoryError"
  /** What happened; closed set. */
  readonly code: MemoryErrorCode
  /** Guest address concerned. */
  readonly at: number
  /** Bytes concerned. */
  readonly size: number

  constructor(code: MemoryErrorCode, at: number, size: number, options?: ErrorOptions) {
    super(`${MESSAGES[code]}: 0x${at.toString(16)}, 0x${size.toString(16)} bytes`, options)
    this.code = code
    this.at = at
    this.size = size
  }
}
