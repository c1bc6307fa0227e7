import { setTimeout as delay } from "node:timers/promises"

/** Time and chance, so that a test need not wait for either. */
export interface Clock {
  /** Milliseconds that never go back. */
  now(): number
  /** @throws the signal's reason */
  sleep(milliseconds: number, signal: AbortSignal | undefined): Promise<void>
  /** From 0 to below 1. */
  random(): number
}

/** The machine's own. */
export const SYSTEM_CLOCK: Clock = {
  now: () => performance.now(),
  random: () => Math.random(),
  async sleep(milliseconds, signal) {
    try {
      await delay(milliseconds, undefined, signal ? { signal } : {})
    } catch (error) {
      signal?.throwIfAborted()
      throw error
    }
  },
}
