import type { PacketTarget } from "./packet.js"

/** Bytes waiting to go to the guest: the caller's own buffers, copied once, into guest memory. */
export class SendQueue {
  readonly #chunks: Uint8Array[] = []
  #first = 0
  #offset = 0
  #length = 0

  /** Bytes waiting. */
  get length(): number {
    return this.#length
  }

  /** Adds `chunk`, which must stay as it is until it was moved. */
  push(chunk: Uint8Array): void {
    if (chunk.length === 0) return
    this.#chunks.push(chunk)
    this.#length += chunk.length
  }

  /** Moves the next `length` bytes to `target` at `at`; `length` is at most `this.length`. */
  moveTo(target: PacketTarget, at: number, length: number): void {
    let moved = 0
    while (moved < length) {
      const chunk = this.#chunks[this.#first]!
      const part = Math.min(length - moved, chunk.length - this.#offset)
      target.write(at + moved, view(chunk, this.#offset, part))
      moved += part
      this.#offset += part
      if (this.#offset === chunk.length) this.#dropFirst()
    }
    this.#length -= length
  }

  /** Forgets everything. */
  clear(): void {
    this.#chunks.length = 0
    this.#first = 0
    this.#offset = 0
    this.#length = 0
  }

  #dropFirst(): void {
    this.#offset = 0
    this.#first++
    if (this.#first < this.#chunks.length) return
    this.#chunks.length = 0
    this.#first = 0
  }
}

function view(chunk: Uint8Array, offset: number, length: number): Uint8Array {
  if (length === chunk.length) return chunk
  // Not `subarray`: on a Buffer that is several times dearer.
  return new Uint8Array(chunk.buffer, chunk.byteOffset + offset, length)
}
