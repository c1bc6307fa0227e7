import type { CompressedInput } from "./decompress.js"

/** Bytes in memory, read at once. */
export class WholeInput implements CompressedInput {
  readonly #bytes: Buffer
  bytesRead = 0

  constructor(bytes: Buffer) {
    this.#bytes = bytes
  }

  async next(): Promise<Buffer | undefined> {
    if (this.bytesRead > 0) return undefined
    this.bytesRead = this.#bytes.length
    return this.#bytes
  }
}
