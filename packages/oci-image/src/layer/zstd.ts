import { Decompress } from "fzstd"
import { invalidZstd, ZSTD_BLOCK_MAX, type ZstdPiece } from "./zstd-frames.js"

/** Blocks that may be tiny, and how many bytes each further one must stand for on average. */
const SMALL_BLOCKS = 1024
const BLOCK_AVERAGE_MIN = 256

/**
 * Decodes frames with fzstd, one block at a time, so that output per step is at most 128 KiB. Content checksums
 * are not looked at: layers carry SHA-256 digests.
 */
export class ZstdDecoder {
  #decoder: Decompress | undefined
  #header: Buffer = Buffer.alloc(0)
  #output: Buffer[] = []
  #frameOut = 0
  #blocks = 0
  #totalOut = 0

  /**
   * Decodes one piece.
   *
   * @throws ImageError `compression-invalid`
   */
  decode(piece: ZstdPiece): Buffer[] {
    this.#output = []
    if (piece.kind === "header") this.#start(piece.bytes)
    if (piece.kind === "block") this.#block(piece)
    const { contentSize } = piece.frame
    if (piece.endsFrame && contentSize >= 0 && this.#frameOut !== contentSize) {
      throw invalidZstd("frame has another size than it says")
    }
    return this.#output
  }

  #start(header: Buffer): void {
    this.#header = Buffer.from(header)
    this.#frameOut = 0
    this.#decoder = new Decompress(bytes => {
      if (bytes.length > 0) this.#output.push(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length))
    })
  }

  #block({ bytes, lastBlock, frame }: ZstdPiece): void {
    const input = this.#header.length > 0 ? Buffer.concat([this.#header, bytes]) : bytes
    this.#header = Buffer.alloc(0)
    try {
      this.#decoder?.push(input)
      // fzstd keeps a very short frame back until it is told that nothing follows; the zeros stand for a checksum.
      if (lastBlock) this.#decoder?.push(Buffer.alloc(frame.hasChecksum ? 4 : 0), true)
    } catch (cause) {
      throw invalidZstd((cause as Error).message, cause)
    }
    for (const { length } of this.#output) {
      if (length > ZSTD_BLOCK_MAX) throw invalidZstd("block decodes to too much")
      this.#frameOut += length
      this.#totalOut += length
    }
    // Every block costs work in proportion to the window, so a stream of tiny blocks is an attack on time.
    if (++this.#blocks > SMALL_BLOCKS + this.#totalOut / BLOCK_AVERAGE_MIN) {
      throw invalidZstd(`${this.#blocks} blocks for ${this.#totalOut} bytes`)
    }
  }
}
