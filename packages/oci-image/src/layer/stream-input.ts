import { ImageError } from "../errors.js"
import { checkLimit, type ImageLimits } from "../limits.js"
import { type CompressedInput, decompress, sniffCompression } from "./decompress.js"

/** Enough to recognise a format. */
const HEAD_SIZE = 4

/** A stream of unknown length, bounded, whose first bytes can be looked at before it is read. */
export class StreamInput implements CompressedInput {
  readonly #chunks: AsyncIterator<Uint8Array>
  readonly #limits: ImageLimits
  #head: Buffer | undefined
  bytesRead = 0

  constructor(chunks: AsyncIterable<Uint8Array>, limits: ImageLimits) {
    this.#chunks = chunks[Symbol.asyncIterator]()
    this.#limits = limits
  }

  async peek(): Promise<Buffer> {
    let head: Buffer = Buffer.alloc(0)
    while (head.length < HEAD_SIZE) {
      const chunk = await this.#read()
      if (!chunk) break
      head = Buffer.concat([head, chunk])
    }
    this.#head = head
    return head
  }

  async next(): Promise<Buffer | undefined> {
    const head = this.#head
    this.#head = undefined
    return head && head.length > 0 ? head : this.#read()
  }

  async #read(): Promise<Buffer | undefined> {
    const { done, value } = await this.#chunks.next()
    if (done) return undefined
    this.bytesRead += value.length
    checkLimit("blobBytes", this.bytesRead, this.#limits.blobBytes, "size of the tar stream")
    return Buffer.from(value.buffer, value.byteOffset, value.byteLength)
  }

  /** Lets the stream close its file; needed when reading stops early. */
  async close(): Promise<void> {
    await this.#chunks.return?.()
  }
}

/**
 * Unpacks what the stream turns out to be: nobody says what it is, other than of a layer in a manifest.
 *
 * @throws ImageError `source-invalid` for an empty one, and what {@link decompress} throws
 */
export async function* unpacked(input: StreamInput, limits: ImageLimits): AsyncGenerator<Buffer> {
  const head = await input.peek()
  if (head.length === 0) throw new ImageError("source-invalid", "the tar stream is empty")
  yield* decompress(input, sniffCompression(head), limits)
}
