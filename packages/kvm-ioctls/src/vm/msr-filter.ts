import {
  KVM_MSR_FILTER_DEFAULT_ALLOW,
  KVM_MSR_FILTER_DEFAULT_DENY,
  KVM_MSR_FILTER_MAX_BITMAP_SIZE,
  KVM_MSR_FILTER_MAX_RANGES,
} from "../bindings/x86-64.js"
import { invalidArgument } from "../errors.js"
import type { Value } from "../structs/struct.js"
import type { kvmMsrFilter } from "../structs/x86-64.js"

/** One range of MSRs in a filter. */
export interface MsrFilterRange {
  /** `KVM_MSR_FILTER_READ`, `KVM_MSR_FILTER_WRITE` or both. */
  readonly flags: number
  /** First MSR. */
  readonly base: number
  /** Number of MSRs. */
  readonly nmsrs: number
  /** Bit n of it: allow MSR `base + n`. `ceil(nmsrs / 8)` bytes, at most 0x600. */
  readonly bitmap: Uint8Array
}

/** Which MSRs a guest may read and write. */
export interface MsrFilter {
  /** What happens to MSRs in no range. */
  readonly default: "allow" | "deny"
  /** At most 16. */
  readonly ranges: readonly MsrFilterRange[]
}

/** Bytes that all bitmaps take. @internal */
export function msrFilterSize({ ranges }: MsrFilter): number {
  if (ranges.length > KVM_MSR_FILTER_MAX_RANGES)
    throw invalidArgument(`a filter has at most ${KVM_MSR_FILTER_MAX_RANGES} ranges, not ${ranges.length}`)
  return ranges.reduce((sum, range) => sum + bitmapSize(range), 0)
}

/** The filter as the kernel reads it: the bitmaps lie one after the other in `bytes`, which is at `address`. @internal */
export function msrFilterFields(
  filter: MsrFilter,
  bytes: Uint8Array,
  address: bigint,
): Value<typeof kvmMsrFilter> {
  let offset = 0
  const ranges = filter.ranges.map(({ flags, base, nmsrs, bitmap }) => {
    const at = offset
    bytes.set(bitmap, at)
    offset += bitmap.length
    return { flags, nmsrs, base, bitmap: address + BigInt(at) }
  })
  const flags = filter.default === "deny" ? KVM_MSR_FILTER_DEFAULT_DENY : KVM_MSR_FILTER_DEFAULT_ALLOW
  return { flags, ranges }
}

function bitmapSize({ nmsrs, bitmap }: MsrFilterRange): number {
  const size = Math.ceil(nmsrs / 8)
  if (!(size > 0 && size <= KVM_MSR_FILTER_MAX_BITMAP_SIZE && bitmap.length === size))
    throw invalidArgument(`a range of ${nmsrs} MSRs needs a bitmap of ${size} bytes, not ${bitmap.length}`)
  return size
}
