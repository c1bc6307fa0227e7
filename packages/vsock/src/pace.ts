/** Packets of one share when the guest is shown them early: about 64 KiB in Linux's receive buffers. */
const SHARE = 16
/** Packets after which the rate of a way is known well enough. */
const TRIAL = 2048
/** Trials' lengths for which the better way is kept, at first and at most. */
const MIN_KEEP = 16
const MAX_KEEP = 256
/** A pause this long is the guest's or the producer's own, and says nothing about either way. */
const MAX_GAP_MS = 1

/**
 * How many packets are put into the receive queue before the guest is shown them: all there are, or a share.
 *
 * A guest on another CPU works on one share while the next one is filled; shown a whole window of credit at once,
 * the two sides take turns in waiting for each other. A guest on the same CPU would only be switched to and fro.
 * Which of the two it is cannot be asked, so both ways are timed under load and the faster one is kept, the other
 * being tried again from time to time, the more rarely the longer nothing changes.
 *
 * @example
 * ```ts
 * const limit = pace.share(performance.now(), stats.packetsToGuest)
 * ```
 */
export class Pace {
  #early = false
  #trying = false
  #keep = MIN_KEEP
  /** Milliseconds per packet of the way that is kept. */
  #best = Number.POSITIVE_INFINITY
  #lastMs = Number.NaN
  #lastPackets = 0
  #ms = 0
  #packets = 0
  #kept = 0

  /**
   * To be asked once per share.
   * @param nowMs a clock, in milliseconds
   * @param sent packets sent so far, all in all
   * @returns packets to send before the guest is shown them; `Infinity`: as many as there are
   */
  share(nowMs: number, sent: number): number {
    const ms = nowMs - this.#lastMs
    if (ms <= MAX_GAP_MS) {
      this.#ms += ms
      this.#packets += sent - this.#lastPackets
    }
    this.#lastMs = nowMs
    this.#lastPackets = sent
    if (this.#packets >= TRIAL) this.#judge()
    return this.#early ? SHARE : Number.POSITIVE_INFINITY
  }

  #judge(): void {
    const rate = this.#ms / this.#packets
    this.#ms = 0
    this.#packets = 0
    if (!this.#trying) {
      this.#best = rate
      if (++this.#kept >= this.#keep) this.#try()
      return
    }
    this.#trying = false
    this.#kept = 0
    if (rate < this.#best) this.#keep = MIN_KEEP
    else {
      this.#early = !this.#early
      this.#keep = Math.min(MAX_KEEP, this.#keep * 2)
    }
  }

  #try(): void {
    this.#trying = true
    this.#early = !this.#early
  }
}
