/** Counts I/O that the thread pool does on guest memory for one device, over all its activations. */
export class IoGauge {
  #running = 0
  #waiters: (() => void)[] = []

  /** `count` operations were started. */
  begin(count: number): void {
    this.#running += count
  }

  /** One has ended. */
  end(): void {
    this.#running--
    if (this.#running > 0) return
    for (const resolve of this.#waiters.splice(0)) resolve()
  }

  /** Settles once none is under way; undefined when that is so now. */
  idle(): Promise<void> | undefined {
    if (this.#running === 0) return undefined
    return new Promise(resolve => this.#waiters.push(resolve))
  }
}
