import { ImageError } from "../errors.js"

const BUFFER_SIZE = 1024 * 1024
/** What can be looked at or skipped after one {@link BitReader.fill}: a whole dynamic header has less. */
export const FILL_BYTES = 1024

/** Reads bytes into a buffer; 0 at the end. */
export type ReadBytes = (into: Uint8Array) => number

/** A stream as bits, lowest bit of each byte first. */
export class BitReader {
  readonly #read: ReadBytes
  readonly #bytes = new Uint8Array(BUFFER_SIZE)
  /** Where the buffer's first byte stands in the stream. */
  #base = 0
  #end = 0
  #at = 0
  #bit = 0

  constructor(read: ReadBytes) {
    this.#read = read
  }

  /** Bits before the next one. */
  get position(): number {
    return (this.#base + this.#at) * 8 + this.#bit
  }

  /**
   * Makes sure that {@link FILL_BYTES} are there, or as many as there are.
   *
   * @throws ImageError `compression-invalid` when the reading has gone past the end
   */
  fill(): void {
    if (this.#at + FILL_BYTES <= this.#end) return
    if (this.#at > this.#end) throw new ImageError("compression-invalid", "wrong gzip stream: unexpected end")
    this.#bytes.copyWithin(0, this.#at, this.#end)
    this.#base += this.#at
    this.#end -= this.#at
    this.#at = 0
    for (let got = 1; got > 0 && this.#end < BUFFER_SIZE; this.#end += got)
      got = this.#read(this.#bytes.subarray(this.#end))
    // Beyond the end of the stream there are zeros, and `fill` says so the next time.
    this.#bytes.fill(0, this.#end, Math.min(BUFFER_SIZE, this.#end + FILL_BYTES))
  }

  /** Whether nothing is left. Only meaningful at the start of a byte, after {@link fill}. */
  get isAtEnd(): boolean {
    return this.#at >= this.#end
  }

  /** The next 25 bits; more may be in it. */
  peek(): number {
    const bytes = this.#bytes
    const at = this.#at
    const word =
      (bytes[at] as number) |
      ((bytes[at + 1] as number) << 8) |
      ((bytes[at + 2] as number) << 16) |
      ((bytes[at + 3] as number) << 24)
    return word >>> this.#bit
  }

  skip(bits: number): void {
    const bit = this.#bit + bits
    this.#at += bit >> 3
    this.#bit = bit & 7
  }

  /** At most 25 bits as a number. */
  take(bits: number): number {
    const value = this.peek() & ((1 << bits) - 1)
    this.skip(bits)
    return value
  }

  /** Goes on to the next whole byte. */
  align(): void {
    if (this.#bit > 0) this.skip(8 - this.#bit)
  }

  /** Skips whole bytes, any number of them. @throws ImageError `compression-invalid` at the end */
  skipBytes(count: number): void {
    for (let left = count; left > 0; ) {
      this.fill()
      const step = Math.min(left, Math.max(1, this.#end - this.#at))
      this.#at += step
      left -= step
    }
    this.fill()
  }
}
