import { ImageError } from "../errors.js"
import { checkLimit, type ImageLimits } from "../limits.js"

/** Frame format numbers. @see RFC 8878, sections 3.1.1 and 3.1.2 */
const FRAME_MAGIC = 0xfd2fb528
const SKIPPABLE_MAGIC = 0x184d2a50
const SKIPPABLE_MASK = 0xfffffff0
export const ZSTD_BLOCK_MAX = 128 * 1024
const BLOCK_RLE = 1
const BLOCK_RESERVED = 3
const CHECKSUM_SIZE = 4

/** A checked piece of a frame: its header, one block, or its checksum. `bytes` is only valid during the step. */
export interface ZstdPiece {
  readonly kind: "header" | "block" | "checksum"
  /** Where it begins in the stream, in bytes. */
  readonly position: number
  readonly bytes: Buffer
  /** Whether the frame ends here. */
  readonly endsFrame: boolean
  /** Whether this is the last block; a checksum may follow. */
  readonly lastBlock: boolean
  readonly frame: ZstdFrame
}

/** What a frame's header says. */
export interface ZstdFrame {
  /** Bytes it decodes to, or -1 when it does not say. */
  readonly contentSize: number
  readonly window: number
  readonly hasChecksum: boolean
}

type State = "frame" | "block" | "checksum" | "skip"

/**
 * Takes a zstd stream apart into frames and blocks without decoding it, and checks their structure: window,
 * block sizes, that every frame is whole and nothing else is between or behind them. Skippable frames are left
 * out. What decodes the pieces then works on bounded steps of well-formed input.
 */
export class ZstdFrames {
  readonly #limits: ImageLimits
  #input: Buffer = Buffer.alloc(0)
  /** Where the input begins in the stream. */
  #base = 0
  #state: State = "frame"
  #skip = 0
  #frame: ZstdFrame = { contentSize: -1, window: 0, hasChecksum: false }
  #piece: ZstdPiece | undefined

  constructor(limits: ImageLimits) {
    this.#limits = limits
  }

  /**
   * Takes the next part of the stream and hands out the pieces that are complete.
   *
   * @throws ImageError `compression-invalid`, `limit`
   */
  *push(chunk: Buffer): Generator<ZstdPiece> {
    this.#input = this.#input.length === 0 ? chunk : Buffer.concat([this.#input, chunk])
    let at = 0
    for (let used = this.#step(at); used > 0; used = this.#step(at)) {
      at += used
      if (this.#piece) yield this.#piece
      this.#piece = undefined
    }
    this.#input = this.#input.subarray(at)
    this.#base += at
  }

  /** Says that the stream has ended. @throws ImageError `compression-invalid` inside a frame */
  end(): void {
    if (this.#state !== "frame" || this.#input.length > 0) throw invalidZstd("stream is cut off")
  }

  /** Consumes one unit at `at`; 0 when more input is needed. */
  #step(at: number): number {
    const have = this.#input.length - at
    switch (this.#state) {
      case "frame":
        return this.#header(at, have)
      case "block":
        return this.#block(at, have)
      case "checksum":
        return have < CHECKSUM_SIZE ? 0 : this.#emit("checksum", at, CHECKSUM_SIZE, "frame")
      case "skip": {
        const used = Math.min(have, this.#skip)
        this.#skip -= used
        if (this.#skip === 0) this.#state = "frame"
        return used
      }
    }
  }

  #emit(kind: ZstdPiece["kind"], at: number, size: number, next: State): number {
    const bytes = this.#input.subarray(at, at + size)
    this.#piece = {
      kind,
      position: this.#base + at,
      bytes,
      endsFrame: next === "frame",
      lastBlock: kind === "block" && next !== "block",
      frame: this.#frame,
    }
    this.#state = next
    return size
  }

  #header(at: number, have: number): number {
    if (have < 8) return 0
    const magic = this.#input.readUInt32LE(at)
    if ((magic & SKIPPABLE_MASK) >>> 0 === SKIPPABLE_MAGIC) {
      this.#skip = this.#input.readUInt32LE(at + 4)
      this.#state = this.#skip > 0 ? "skip" : "frame"
      return 8
    }
    if (magic !== FRAME_MAGIC) throw invalidZstd("wrong magic number")
    const size = headerSize(this.#input[at + 4] as number)
    if (have < size) return 0
    this.#frame = readFrame(this.#input.subarray(at, at + size))
    checkLimit("zstdWindow", this.#frame.window, this.#limits.zstdWindow, "window of a zstd frame")
    return this.#emit("header", at, size, "block")
  }

  #block(at: number, have: number): number {
    if (have < 3) return 0
    const header = this.#input.readUIntLE(at, 3)
    const type = (header >> 1) & 3
    const size = header >> 3
    if (type === BLOCK_RESERVED) throw invalidZstd("reserved block type")
    if (size > Math.min(ZSTD_BLOCK_MAX, this.#frame.window)) throw invalidZstd("block is too large")
    const length = 3 + (type === BLOCK_RLE ? 1 : size)
    if (have < length) return 0
    const afterLast = this.#frame.hasChecksum ? "checksum" : "frame"
    return this.#emit("block", at, length, (header & 1) !== 0 ? afterLast : "block")
  }
}

/** Bytes of a frame header, by its descriptor byte; dictionaries are refused before their field matters. */
function headerSize(flags: number): number {
  const singleSegment = (flags >> 5) & 1
  const sizeField = flags >> 6 === 0 ? singleSegment : 1 << (flags >> 6)
  return 4 + 1 + (1 - singleSegment) + sizeField
}

function readFrame(header: Buffer): ZstdFrame {
  const flags = header[4] as number
  const singleSegment = (flags & 0x20) !== 0
  if (flags & 0x08) throw invalidZstd("reserved bit is set")
  if (flags & 0x03) throw invalidZstd("needs a dictionary")
  const size = contentSize(header, singleSegment ? 5 : 6)
  return {
    contentSize: size,
    window: singleSegment ? size : windowSize(header[5] as number),
    hasChecksum: (flags & 0x04) !== 0,
  }
}

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

/** The error for a stream that is no zstd. */
export function invalidZstd(why: string, cause?: unknown): ImageError {
  return new ImageError("compression-invalid", `wrong zstd stream: ${why}`, {}, { cause })
}
