import type { Duplex } from "node:stream"
import {
  FRAME_PREFIX_SIZE,
  frameLengthError,
  MAX_STREAM_FRAME_SIZE,
  type StreamPortOptions,
} from "./frame-stream.js"
import type { FrameSink, NetPort } from "./port.js"

/**
 * A {@link NetPort} on a byte stream, each frame with its length before it: what QEMU calls a stream socket network, and
 * passt speaks. For a stream of any kind; on a socket the `SocketPort` of `net/socket` does with fewer copies and
 * system calls.
 *
 * @see QEMU documentation, -netdev stream
 */
export class StreamPort implements NetPort {
  readonly #stream: Duplex
  readonly #onEnd: ((error: Error | undefined) => void) | undefined
  #deliver: FrameSink = () => true
  #onRoom: () => void = () => undefined
  /** What was read and not delivered yet. */
  #pending: Buffer = Buffer.alloc(0)
  #isFull = false
  #isClosed = false
  #isCorked = false

  constructor(stream: Duplex, options: StreamPortOptions = {}) {
    this.#stream = stream
    this.#onEnd = options.onEnd
  }

  attach(deliver: FrameSink, onRoom: () => void): void {
    this.#deliver = deliver
    this.#onRoom = onRoom
    this.#stream.on("data", (bytes: Buffer) => this.#take(bytes))
    this.#stream.on("drain", onRoom)
    this.#stream.on("error", error => this.#end(error))
    this.#stream.on("close", () => this.#end(undefined))
    this.#stream.resume() // whoever made the stream may have paused it
  }

  send(frame: Uint8Array): boolean {
    if (this.#isClosed) return true // a cable that leads nowhere
    if (this.#stream.writableNeedDrain) return false
    const bytes = Buffer.allocUnsafe(FRAME_PREFIX_SIZE + frame.length)
    bytes.writeUInt32BE(frame.length)
    bytes.set(frame, FRAME_PREFIX_SIZE)
    this.#cork()
    this.#stream.write(bytes)
    return true
  }

  resume(): void {
    if (!this.#isFull) return
    this.#isFull = false
    this.#deliverPending()
    if (!this.#isFull) this.#stream.resume()
  }

  close(): void {
    this.#isClosed = true
    this.#stream.destroy()
  }

  /** All frames of one turn leave in one system call. */
  #cork(): void {
    if (this.#isCorked) return
    this.#isCorked = true
    this.#stream.cork()
    process.nextTick(() => {
      this.#isCorked = false
      this.#stream.uncork()
    })
  }

  #take(bytes: Buffer): void {
    const missing = this.#isFull ? bytes.length : Math.min(missingOf(this.#pending), bytes.length)
    // Of a long read only the frame that began in the one before is put together; the others are where they are.
    this.#add(bytes.subarray(0, missing))
    this.#add(bytes.subarray(missing))
    if (this.#isFull) this.#stream.pause()
  }

  #add(bytes: Buffer): void {
    if (bytes.length === 0) return
    this.#pending = this.#pending.length === 0 ? bytes : Buffer.concat([this.#pending, bytes])
    if (!this.#isFull) this.#deliverPending()
  }

  #deliverPending(): void {
    let at = 0
    const pending = this.#pending
    while (pending.length - at >= FRAME_PREFIX_SIZE) {
      const length = pending.readUInt32BE(at)
      if (length > MAX_STREAM_FRAME_SIZE) {
        this.#fail(length)
        return
      }
      const end = at + FRAME_PREFIX_SIZE + length
      if (end > pending.length) break
      if (length > 0 && !this.#deliver(pending.subarray(at + FRAME_PREFIX_SIZE, end))) {
        this.#isFull = true
        break
      }
      at = end
    }
    this.#pending = pending.subarray(at)
  }

  #fail(length: number): void {
    this.#end(frameLengthError(length))
    this.#stream.destroy()
  }

  #end(error: Error | undefined): void {
    if (this.#isClosed) return
    this.#isClosed = true
    this.#onEnd?.(error)
    // What waits for room is lost, as all that follows.
    this.#onRoom()
  }
}

/** Bytes that the first frame of `pending` lacks; without limit where its length is not known, 0 where there is none. */
function missingOf(pending: Buffer): number {
  if (pending.length === 0) return 0
  if (pending.length < FRAME_PREFIX_SIZE) return Number.POSITIVE_INFINITY
  return Math.max(0, FRAME_PREFIX_SIZE + pending.readUInt32BE(0) - pending.length)
}
