import { ImageError } from "../errors.js"
import type { Answer, Transport } from "./transport.js"

/** Reads a body, and gives up one that comes too slowly. Only waiting for the server counts, not for the reader. */
export class PacedBody {
  readonly #answer: Answer
  readonly #chunks: AsyncIterator<Buffer>
  readonly #host: string
  readonly #options: Transport["options"]
  #waitedMs = 0
  #bytes = 0

  constructor(answer: Answer, { host }: URL, { options }: Transport) {
    this.#answer = answer
    this.#chunks = answer.body[Symbol.asyncIterator]()
    this.#host = host
    this.#options = options
  }

  /**
   * The next bytes, or undefined at the end.
   *
   * @throws ImageError `registry-timeout`; undici's errors as they are
   */
  async next(): Promise<Buffer | undefined> {
    const { clock } = this.#options
    const since = clock.now()
    const { done, value } = await this.#chunks.next()
    this.#waitedMs += clock.now() - since
    if (done) return undefined
    this.#bytes += value.length
    this.#checkPace()
    return value
  }

  /** Ends the connection, unless the body was read to its end. */
  close(): void {
    this.#answer.body.on("error", () => undefined) // it is thrown away, and how it ends with it
    this.#answer.body.destroy()
  }

  #checkPace(): void {
    const { idleTimeoutMs, minBytesPerSecond } = this.#options
    if (this.#waitedMs < idleTimeoutMs) return
    if (this.#bytes < (minBytesPerSecond * this.#waitedMs) / 1000) {
      const why = `sends less than ${minBytesPerSecond} bytes a second`
      throw new ImageError("registry-timeout", `${this.#host} ${why}`, { host: this.#host })
    }
    this.#waitedMs = 0
    this.#bytes = 0
  }
}
