import type { PacketSource } from "./packet.js"

/** First slab of a connection: enough for small messages, cheap for a thousand idle connections. */
const FIRST_SLAB_SIZE = 4 * 1024
/** Slabs grow up to this; below malloc's mmap threshold, so that memory is found warm again. */
const LAST_SLAB_SIZE = 64 * 1024
const SLAB_GROWTH = 4

/**
 * Bytes the guest sent and nobody has taken yet.
 *
 * Packets are copied into slabs one behind the other, so that any number of tiny packets costs their bytes
 * and no more, and a burst of packets comes out as one chunk. Slabs belong to one connection: what is not
 * taken is a contiguous end of its stream, and pins at most its own length plus two slabs.
 */
export class ReceiveQueue {
  /** Full slabs' unread parts, oldest first. */
  readonly #chunks: Buffer[] = []
  /** Slabs that came back, see `release`. */
  readonly #spare: ArrayBufferLike[] = []
  #slab: ArrayBufferLike | undefined
  #start = 0
  #end = 0
  #size = FIRST_SLAB_SIZE
  #length = 0

  /** Bytes waiting. */
  get length(): number {
    return this.#length
  }

  /**
   * Copies `length` bytes of `source` from `offset` on.
   * @returns false when the source ran dry (its memory was closed); the stream has a hole then
   */
  append(source: PacketSource, offset: number, length: number): boolean {
    let done = 0
    while (done < length) {
      if (this.#slab === undefined || this.#end === this.#slab.byteLength) this.#nextSlab(length - done)
      const slab = this.#slab!
      const part = Math.min(length - done, slab.byteLength - this.#end)
      if (source.read(offset + done, new Uint8Array(slab, this.#end, part)) !== part) return false
      this.#end += part
      this.#length += part
      done += part
    }
    return true
  }

  /** Takes the oldest chunk, or undefined. */
  take(): Buffer | undefined {
    const chunk = this.#chunks.shift() ?? this.#cut()
    if (chunk !== undefined) this.#length -= chunk.length
    return chunk
  }

  /**
   * Gives a chunk's memory back, to be filled again: nobody may look at the chunk any more. Only for chunks
   * that are released in the order they were taken.
   */
  release(chunk: Buffer): void {
    if (chunk.buffer !== this.#slab) this.#spare.push(chunk.buffer)
    else if (this.#start === this.#end) {
      this.#start = 0
      this.#end = 0
    }
  }

  /** Forgets everything. */
  clear(): void {
    this.#spare.length = 0
    this.#chunks.length = 0
    this.#slab = undefined
    this.#start = 0
    this.#end = 0
    this.#length = 0
  }

  #nextSlab(wanted: number): void {
    const rest = this.#cut()
    if (rest !== undefined) this.#chunks.push(rest)
    if (this.#slab !== undefined) this.#size = Math.min(this.#size * SLAB_GROWTH, LAST_SLAB_SIZE)
    const size = Math.max(this.#size, Math.min(wanted, LAST_SLAB_SIZE))
    this.#slab = this.#spare.pop() ?? Buffer.allocUnsafeSlow(size).buffer
    this.#start = 0
    this.#end = 0
  }

  #cut(): Buffer | undefined {
    if (this.#slab === undefined || this.#start === this.#end) return undefined
    const chunk = Buffer.from(this.#slab, this.#start, this.#end - this.#start)
    this.#start = this.#end
    return chunk
  }
}
