import { Decompress } from "fzstd"
import { ImageError } from "../errors.js"
import { checkLimit, type ImageLimits } from "../limits.js"

/** Frame format numbers. @see RFC 8878, sections 3.1.1 and 3.1.2 */
const FRAME_MAGIC = 0xfd2fb528
const SKIPPABLE_MAGIC = 0x184d2a50
const SKIPPABLE_MASK = 0xfffffff0
const BLOCK_SIZE_MAX = 128 * 1024
const BLOCK_RLE = 1
const BLOCK_RESERVED = 3
const FRAME_HEADER_MAX = 18
/** Blocks that may be tiny, and how many bytes each further one must stand for on average. */
const SMALL_BLOCKS = 1024
const BLOCK_AVERAGE_MIN = 256

type State = "frame" | "block" | "checksum" | "skip"

/**
 * Decodes zstd streams with fzstd, handing it one block at a time: so output per step is at most 128 KiB,
 * and window, block sizes, content size and the end of every frame are checked here. Content checksums are
 * not looked at: layers carry SHA-256 digests.
 */
export class ZstdDecoder {
  readonly #limits: ImageLimits
  #input: Buffer = Buffer.alloc(0)
  #state: State = "frame"
  #skip = 0
  #decoder: Decompress | undefined
  #output: Buffer[] = []
  #pendingHeader: Buffer | undefined
  #hasChecksum = false
  #window = 0
  #contentSize = -1
  #frameOut = 0
  #blocks = 0
  #totalOut = 0

  constructor(limits: ImageLimits) {
    this.#limits = limits
  }

  /**
   * Takes the next piece of the stream and hands out what it decodes to, block by block.
   *
   * @throws ImageError `compression-invalid`, `limit`
   */
  *push(chunk: Buffer): Generator<Buffer> {
    this.#input = this.#input.length === 0 ? chunk : Buffer.concat([this.#input, chunk])
    let at = 0
    for (let used = this.#step(at); used > 0 || this.#output.length > 0; used = this.#step(at)) {
      at += used
      yield* this.#output.splice(0)
      if (used === 0) break
    }
    this.#input = this.#input.subarray(at)
  }

  /** Says that the stream has ended. */
  end(): void {
    if (this.#state !== "frame" || this.#input.length > 0) throw invalid("stream is cut off")
  }

  /** Consumes one unit at `at`; 0 when more input is needed. */
  #step(at: number): number {
    const have = this.#input.length - at
    switch (this.#state) {
      case "frame":
        return this.#frame(at, have)
      case "block":
        return this.#block(at, have)
      case "checksum":
        return have < 4 ? 0 : this.#endFrame(4)
      case "skip": {
        const used = Math.min(have, this.#skip)
        this.#skip -= used
        if (this.#skip === 0) this.#state = "frame"
        return used
      }
    }
  }

  #frame(at: number, have: number): number {
    if (have < 8) return 0
    const magic = this.#input.readUInt32LE(at)
    if ((magic & SKIPPABLE_MASK) >>> 0 === SKIPPABLE_MAGIC) {
      this.#skip = this.#input.readUInt32LE(at + 4)
      this.#state = this.#skip > 0 ? "skip" : "frame"
      return 8
    }
    if (magic !== FRAME_MAGIC) throw invalid("wrong magic number")
    const size = frameHeaderSize(this.#input[at + 4] as number)
    if (have < size) return 0
    this.#startFrame(this.#input.subarray(at, at + size))
    return size
  }

  #startFrame(header: Buffer): void {
    const flags = header[4] as number
    const singleSegment = (flags & 0x20) !== 0
    if (flags & 0x08) throw invalid("reserved bit is set")
    if (flags & 0x03) throw invalid("needs a dictionary")
    this.#contentSize = contentSize(header, singleSegment ? 5 : 6)
    this.#window = singleSegment ? this.#contentSize : windowSize(header[5] as number)
    checkLimit("zstdWindow", this.#window, this.#limits.zstdWindow, "window of a zstd frame")
    this.#hasChecksum = (flags & 0x04) !== 0
    this.#pendingHeader = Buffer.from(header)
    this.#decoder = new Decompress(bytes => {
      if (bytes.length > 0) this.#output.push(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length))
    })
    this.#frameOut = 0
    this.#state = "block"
  }

  #block(at: number, have: number): number {
    if (have < 3) return 0
    const header = this.#input.readUIntLE(at, 3)
    const last = (header & 1) !== 0
    const type = (header >> 1) & 3
    const size = header >> 3
    if (type === BLOCK_RESERVED) throw invalid("reserved block type")
    if (size > Math.min(BLOCK_SIZE_MAX, this.#window)) throw invalid("block is too large")
    const length = 3 + (type === BLOCK_RLE ? 1 : size)
    if (have < length) return 0
    this.#decode(this.#input.subarray(at, at + length), last)
    if (last) this.#state = "checksum"
    if (last && !this.#hasChecksum) this.#endFrame(0)
    return length
  }

  #decode(block: Buffer, last: boolean): void {
    const decoder = this.#decoder as Decompress
    const input = this.#pendingHeader ? Buffer.concat([this.#pendingHeader, block]) : block
    this.#pendingHeader = undefined
    try {
      decoder.push(input)
      // fzstd keeps a very short frame back until it is told that nothing follows; the zeros stand for a checksum.
      if (last) decoder.push(Buffer.alloc(this.#hasChecksum ? 4 : 0), true)
    } catch (cause) {
      throw invalid((cause as Error).message, cause)
    }
    for (const bytes of this.#output) {
      this.#frameOut += bytes.length
      this.#totalOut += bytes.length
      if (bytes.length > BLOCK_SIZE_MAX) throw invalid("block decodes to too much")
    }
    this.#checkBlockCount()
  }

  /** Every block costs work in proportion to the window, so a stream of tiny blocks is an attack on time. */
  #checkBlockCount(): void {
    this.#blocks++
    if (this.#blocks <= SMALL_BLOCKS + this.#totalOut / BLOCK_AVERAGE_MIN) return
    throw invalid(`${this.#blocks} blocks for ${this.#totalOut} bytes`)
  }

  #endFrame(used: number): number {
    if (this.#contentSize >= 0 && this.#frameOut !== this.#contentSize)
      throw invalid("frame has another size than it says")
    this.#decoder = undefined
    this.#state = "frame"
    return used
  }
}

/** Bytes of a frame header, by its descriptor byte. */
function frameHeaderSize(flags: number): number {
  const singleSegment = (flags >> 5) & 1
  const dictionary = [0, 1, 2, 4][flags & 3] as number
  const sizeField = flags >> 6 === 0 ? singleSegment : 1 << (flags >> 6)
  return Math.min(FRAME_HEADER_MAX, 4 + 1 + (1 - singleSegment) + dictionary + sizeField)
}

/** The declared content size, or -1. */
function contentSize(header: Buffer, at: number): number {
  switch (header.length - at) {
    case 0:
      return -1
    case 1:
      return header[at] as number
    case 2:
      return header.readUInt16LE(at) + 256
    case 4:
      return header.readUInt32LE(at)
    default:
      return Number(header.readBigUInt64LE(at))
  }
}

function windowSize(descriptor: number): number {
  const base = 2 ** (10 + (descriptor >> 3))
  return base + (base / 8) * (descriptor & 7)
}

function invalid(why: string, cause?: unknown): ImageError {
  return new ImageError("compression-invalid", `wrong zstd stream: ${why}`, {}, { cause })
}
