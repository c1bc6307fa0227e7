import type { Run, Span } from "./span-index.js"

/** Where a run ends in the stream. */
export function endOf({ offset, size }: Run): number {
  return offset + size
}

/** The first run that ends after a place in the data part. */
export function firstRun(runs: readonly Run[], offset: number): number {
  return lowest(runs.length, i => (runs[i] as Run).position + (runs[i] as Run).size > offset)
}

/** The span with a byte of the stream. */
export function spanAt(spans: readonly Span[], offset: number): number {
  return lowest(spans.length, i => (spans[i] as Span).end > offset)
}

/** The lowest number for which something holds that holds for all above it; `count` if there is none. */
export function lowest(count: number, holds: (i: number) => boolean): number {
  let [low, high] = [0, count]
  while (low < high) {
    const middle = (low + high) >>> 1
    if (holds(middle)) high = middle
    else low = middle + 1
  }
  return low
}
