import type { Socket } from "node:net"

/** Most bytes of one frame; whoever sends more is none of ours. */
const MAX_FRAME = 1024 * 1024
const NEWLINE = 0x0a

/** How long a line may be, and its sender silent. */
export interface LineOptions {
  readonly max: number
  readonly timeoutMs?: number
}

/**
 * Reads lines and frames from a socket. A frame is its length (u32, big-endian) and that many bytes; one without bytes
 * ends a stream of them, so that a stream that broke off is told from one that is whole.
 */
export class SocketReader {
  readonly #socket: Socket
  readonly #chunks: AsyncIterator<Buffer>
  #held: Buffer = Buffer.alloc(0)

  constructor(socket: Socket) {
    this.#socket = socket
    this.#chunks = socket.iterator({ destroyOnReturn: false }) as AsyncIterator<Buffer>
  }

  /** @throws Error when there is none: it is too long, does not come in time, or the peer hung up */
  async line({ max, timeoutMs = 0 }: LineOptions): Promise<string> {
    this.#socket.setTimeout(timeoutMs, () => this.#socket.destroy(new Error("the peer is silent")))
    const parts: Buffer[] = []
    for (let size = 0; ; ) {
      const end = this.#held.indexOf(NEWLINE)
      const part = end < 0 ? this.#held : this.#held.subarray(0, end)
      size += part.length
      if (size > max) throw new Error("the line is too long")
      parts.push(part)
      if (end >= 0) {
        this.#held = this.#held.subarray(end + 1)
        this.#socket.setTimeout(0)
        return Buffer.concat(parts).toString("utf8")
      }
      this.#held = await this.#next()
    }
  }

  /** The bytes of frames, up to the one that ends them. @throws Error when the peer hung up before that */
  async *frames(): AsyncGenerator<Buffer> {
    for (;;) {
      const length = (await this.#take(4)).readUInt32BE()
      if (length > MAX_FRAME) throw new Error("the frame is too long")
      if (length === 0) return
      yield await this.#take(length)
    }
  }

  /** Drops what still comes. */
  async drain(): Promise<void> {
    await this.#chunks.return?.()
    this.#socket.resume()
  }

  async #take(size: number): Promise<Buffer> {
    const parts = [this.#held]
    let length = this.#held.length
    while (length < size) {
      const next = await this.#next()
      parts.push(next)
      length += next.length
    }
    const all = parts.length === 1 ? this.#held : Buffer.concat(parts)
    this.#held = all.subarray(size)
    return all.subarray(0, size)
  }

  async #next(): Promise<Buffer> {
    const { done, value } = await this.#chunks.next()
    if (done) throw new Error("the peer hung up")
    return value
  }
}

/** Chunks as frames; the last one ends them. */
export async function* framed(chunks: AsyncIterable<Uint8Array>): AsyncGenerator<Buffer> {
  for await (const chunk of chunks) {
    for (let at = 0; at < chunk.length; at += MAX_FRAME) {
      const bytes = chunk.subarray(at, at + MAX_FRAME)
      const length = Buffer.alloc(4)
      length.writeUInt32BE(bytes.length)
      yield Buffer.concat([length, bytes])
    }
  }
  yield Buffer.alloc(4)
}
