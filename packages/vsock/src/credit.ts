/**
 * Flow control of one connection: two windows of free-running u32 counters, all of it modulo 2^32.
 *
 * @see virtio 1.3, section 5.10.6.3 (buffer space management)
 */

/** `a - b` modulo 2^32: how far counter `a` is ahead of `b`. */
export function distance(a: number, b: number): number {
  return (a - b) >>> 0
}

/** `a + n` modulo 2^32. */
export function advance(a: number, n: number): number {
  return (a + n) >>> 0
}

/** Half the number space: a counter this far "ahead" is really behind. */
const HALF = 0x8000_0000

/**
 * The window towards the guest: how much may still be sent to it.
 *
 * @example
 * ```ts
 * const window = new SendWindow()
 * if (!window.update(header.bufAlloc, header.fwdCnt)) resetOffender()
 * const n = Math.min(pending, window.free)
 * window.sent(n)
 * ```
 */
export class SendWindow {
  #txCnt = 0
  #peerFwdCnt = 0
  #peerBufAlloc = 0

  /** Bytes the guest still has room for. Zero, never less, when it shrank its buffer below what is under way. */
  get free(): number {
    const inFlight = distance(this.#txCnt, this.#peerFwdCnt)
    return inFlight >= this.#peerBufAlloc ? 0 : this.#peerBufAlloc - inFlight
  }

  /** `n` bytes were sent; `n` is at most `free`. */
  sent(n: number): void {
    this.#txCnt = advance(this.#txCnt, n)
  }

  /**
   * Takes the two credit fields of a received packet. A count that went back is an old one and changes
   * nothing.
   * @returns false when the guest claims to have consumed what was never sent
   */
  update(bufAlloc: number, fwdCnt: number): boolean {
    const inFlight = distance(this.#txCnt, this.#peerFwdCnt)
    const consumed = distance(fwdCnt, this.#peerFwdCnt)
    if (consumed > inFlight && distance(fwdCnt, this.#txCnt) < HALF) return false
    this.#peerBufAlloc = bufAlloc
    if (consumed <= inFlight) this.#peerFwdCnt = fwdCnt
    return true
  }
}

/**
 * The window towards us: what the guest may send, what it sent, what our side really read of it.
 */
export class ReceiveWindow {
  /** Bytes of buffer promised to the guest. */
  readonly bufAlloc: number
  #rxCnt = 0
  #fwdCnt = 0
  #announced = 0

  constructor(bufAlloc: number) {
    this.bufAlloc = bufAlloc
  }

  /** Bytes received and not yet read. */
  get used(): number {
    return distance(this.#rxCnt, this.#fwdCnt)
  }

  /** Free-running count of bytes read. */
  get fwdCnt(): number {
    return this.#fwdCnt
  }

  /** `n` bytes arrived. @returns false when the guest had no credit for them; nothing is counted then */
  received(n: number): boolean {
    if (n > this.bufAlloc - this.used) return false
    this.#rxCnt = advance(this.#rxCnt, n)
    return true
  }

  /**
   * The consumer has read everything but `unread` bytes.
   * @returns true when the guest should be told: it knows of less than half of the buffer that is free
   */
  readUpTo(unread: number): boolean {
    const used = this.used
    if (unread < used) this.#fwdCnt = advance(this.#fwdCnt, used - unread)
    return distance(this.#fwdCnt, this.#announced) * 2 >= this.bufAlloc
  }

  /** A packet with the current `fwdCnt` is on its way. */
  announced(): void {
    this.#announced = this.#fwdCnt
  }
}
