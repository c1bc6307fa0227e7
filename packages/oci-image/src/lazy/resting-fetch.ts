import type { FetchRange } from "./lazy-part.js"

/** How long after a failure nothing is asked, in milliseconds. */
const REST_MS = 2000

/**
 * Spares whoever waits for a registry that is lost: a failure took its tries and its time already, and for a while the
 * next one would take as long.
 */
export function restingFetch(fetch: FetchRange, restMs = REST_MS): FetchRange {
  let failure: { readonly error: unknown; readonly until: number } | undefined
  return async (from, to, signal) => {
    if (failure && performance.now() < failure.until) throw failure.error
    try {
      return await fetch(from, to, signal)
    } catch (error) {
      failure = { error, until: performance.now() + restMs }
      throw error
    }
  }
}
