/** A bounded FIFO of bytes that keeps chunks as they came, for host input on its way to the guest. */
export class ByteQueue {
  readonly limit: number
  readonly #chunks: Uint8Array[] = []
  #size = 0

  /** @param limit most bytes held */
  constructor(limit: number) {
    this.limit = limit
  }

  /** Bytes held. */
  get size(): number {
    return this.#size
  }

  /** Takes a copy of as much of `bytes` as fits. @returns bytes taken */
  push(bytes: Uint8Array): number {
    const taken = Math.min(bytes.length, this.limit - this.#size)
    if (taken > 0) this.#chunks.push(bytes.slice(0, taken))
    this.#size += taken
    return taken
  }

  /** Removes at most `most` bytes from the front. */
  take(most: number): Uint8Array {
    const out = new Uint8Array(Math.min(most, this.#size))
    for (let done = 0; done < out.length; ) {
      const chunk = this.#chunks[0]!
      const part = Math.min(chunk.length, out.length - done)
      out.set(chunk.subarray(0, part), done)
      done += part
      if (part === chunk.length) this.#chunks.shift()
      else this.#chunks[0] = chunk.subarray(part)
    }
    this.#size -= out.length
    return out
  }

  /** Drops everything. */
  clear(): void {
    this.#chunks.length = 0
    this.#size = 0
  }
}

/** A ring that keeps the newest bytes: guest output that nobody reads yet. */
export class Backlog {
  readonly limit: number
  #bytes = new Uint8Array(0)
  #start = 0
  #size = 0

  /** @param limit most bytes kept; memory is taken when the first byte comes */
  constructor(limit: number) {
    this.limit = limit
  }

  /** Bytes kept. */
  get size(): number {
    return this.#size
  }

  /** Adds `bytes`, dropping the oldest. @returns bytes dropped */
  push(bytes: Uint8Array): number {
    if (this.#bytes.length === 0) this.#bytes = new Uint8Array(this.limit)
    const kept = bytes.subarray(Math.max(0, bytes.length - this.limit))
    const dropped = Math.max(0, this.#size + bytes.length - this.limit)
    const overwritten = Math.max(0, this.#size + kept.length - this.limit)
    this.#start = this.limit === 0 ? 0 : (this.#start + overwritten) % this.limit
    this.#size -= overwritten
    const end = this.limit === 0 ? 0 : (this.#start + this.#size) % this.limit
    const first = Math.min(kept.length, this.limit - end)
    this.#bytes.set(kept.subarray(0, first), end)
    this.#bytes.set(kept.subarray(first), 0)
    this.#size += kept.length
    return dropped
  }

  /** Everything kept, oldest first; the ring is empty and without memory afterwards. */
  drain(): Uint8Array {
    const out = new Uint8Array(this.#size)
    const first = Math.min(this.#size, this.#bytes.length - this.#start)
    out.set(this.#bytes.subarray(this.#start, this.#start + first))
    out.set(this.#bytes.subarray(0, this.#size - first), first)
    this.#bytes = new Uint8Array(0)
    this.#start = 0
    this.#size = 0
    return out
  }
}
