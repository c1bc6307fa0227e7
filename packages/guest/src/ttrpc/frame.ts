/**
 * ttrpc frames: a 10-byte header, big-endian, and at most 4 MiB of data.
 *
 * ```
 *  0        4          8      9       10
 *  | length | stream id | type | flags | data ...
 * ```
 *
 * @see containerd/ttrpc PROTOCOL.md, version 1.2
 */

/** Bytes before the data of a frame. */
export const FRAME_HEADER_SIZE = 10
/** Largest data length either side may send. */
export const FRAME_DATA_MAX = 4 * 1024 * 1024
/** The first byte of a header is reserved and zero, so a longer frame means the stream is out of step. */
const LENGTH_RESERVED_MASK = 0xff000000

/** Frame types. */
export const MESSAGE_TYPE = { request: 1, response: 2, data: 3 } as const

/** Frame flags. */
export const FLAG_REMOTE_CLOSED = 0x01
export const FLAG_REMOTE_OPEN = 0x02

/** One frame as received. */
export interface Frame {
  streamId: number
  type: number
  flags: number
  data: Uint8Array
}

/** What a {@link FrameDecoder} reports. */
export interface FrameSink {
  frame(frame: Frame): void
  /** A frame above 4 MiB: its data is skipped, never stored. */
  oversized(streamId: number, type: number, length: number): void
  /** The bytes are not frames; nothing more is decoded. */
  broken(reason: string): void
}

/**
 * Encodes one frame.
 *
 * @param data at most {@link FRAME_DATA_MAX} bytes
 * @throws RangeError when the data is longer
 * @example
 * ```ts
 * socket.write(encodeFrame(1, MESSAGE_TYPE.request, 0, payload))
 * ```
 */
export function encodeFrame(streamId: number, type: number, flags: number, data: Uint8Array): Uint8Array {
  if (data.length > FRAME_DATA_MAX) throw new RangeError(`frame data of ${data.length} bytes is too long`)
  const frame = Buffer.allocUnsafe(FRAME_HEADER_SIZE + data.length)
  frame.writeUInt32BE(data.length, 0)
  frame.writeUInt32BE(streamId, 4)
  frame.writeUInt8(type, 8)
  frame.writeUInt8(flags, 9)
  frame.set(data, FRAME_HEADER_SIZE)
  return frame
}

/**
 * Cuts a byte stream into frames. Holds at most one frame, and allocates for it only after its length
 * was found to be allowed.
 *
 * @example
 * ```ts
 * const decoder = new FrameDecoder({ frame: f => handle(f), oversized: () => {}, broken: r => close(r) })
 * socket.on("data", chunk => decoder.push(chunk))
 * ```
 */
export class FrameDecoder {
  readonly #sink: FrameSink
  readonly #header = Buffer.alloc(FRAME_HEADER_SIZE)
  #headerFill = 0
  #data: Buffer | undefined
  #dataFill = 0
  #skip = 0
  #broken = false

  constructor(sink: FrameSink) {
    this.#sink = sink
  }

  /** Takes the next bytes of the stream, in chunks of any size. */
  push(chunk: Uint8Array): void {
    let at = 0
    while (at < chunk.length && !this.#broken) {
      if (this.#skip > 0) at += this.#skipSome(chunk.length - at)
      else if (this.#data === undefined) at += this.#fillHeader(chunk, at)
      else at += this.#fillData(chunk, at)
    }
  }

  /** True when the stream may end here: not inside a frame. */
  get atBoundary(): boolean {
    return this.#headerFill === 0 && this.#data === undefined && this.#skip === 0
  }

  #skipSome(available: number): number {
    const n = Math.min(available, this.#skip)
    this.#skip -= n
    return n
  }

  #fillHeader(chunk: Uint8Array, at: number): number {
    const n = Math.min(FRAME_HEADER_SIZE - this.#headerFill, chunk.length - at)
    this.#header.set(chunk.subarray(at, at + n), this.#headerFill)
    this.#headerFill += n
    if (this.#headerFill === FRAME_HEADER_SIZE) this.#startData()
    return n
  }

  #startData(): void {
    const length = this.#header.readUInt32BE(0)
    if (length <= FRAME_DATA_MAX) {
      this.#data = Buffer.allocUnsafe(length)
      this.#dataFill = 0
      if (length === 0) this.#emit(this.#data)
      return
    }
    this.#headerFill = 0
    if ((length & LENGTH_RESERVED_MASK) !== 0) {
      this.#broken = true
      this.#sink.broken(`frame length 0x${length.toString(16)} uses the reserved byte`)
      return
    }
    this.#skip = length
    this.#sink.oversized(this.#header.readUInt32BE(4), this.#header.readUInt8(8), length)
  }

  #fillData(chunk: Uint8Array, at: number): number {
    const data = this.#data!
    const n = Math.min(data.length - this.#dataFill, chunk.length - at)
    data.set(chunk.subarray(at, at + n), this.#dataFill)
    this.#dataFill += n
    if (this.#dataFill === data.length) this.#emit(data)
    return n
  }

  #emit(data: Buffer): void {
    this.#data = undefined
    this.#headerFill = 0
    const header = this.#header
    this.#sink.frame({
      streamId: header.readUInt32BE(4),
      type: header.readUInt8(8),
      flags: header.readUInt8(9),
      data,
    })
  }
}
