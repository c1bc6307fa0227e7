import { ImageError } from "../errors.js"
import type { BlobRequest } from "../sources/blob.js"
import { type Answer, connectionError, mayPass, type Transport } from "./transport.js"

/** Breaks that are put up with, and one more for each so many bytes: a large blob over a bad line comes in the end. */
const BREAKS = 8
const BYTES_PER_BREAK = 16 * 1024 * 1024
const CONTENT_RANGE = /^bytes (\d{1,15})-\d{1,15}\/(?:\d{1,15}|\*)$/

/**
 * A blob's bytes, from as many answers as it takes: a stream that breaks, ends early or stands still goes on from
 * where it was. Whoever reads checks size and digest.
 *
 * @param open - asks for the blob from a byte on
 * @throws ImageError `registry-unavailable`, `registry-timeout`, `registry-protocol`, and what `open` throws
 */
export async function* streamBlob(
  request: BlobRequest,
  url: URL,
  transport: Transport,
  open: (from: number) => Promise<Answer>,
  signal: AbortSignal | undefined,
): AsyncGenerator<Buffer> {
  let at = 0
  for (let breaks = 0; ; ) {
    const answer = await open(at)
    const body = new PacedBody(answer, transport)
    try {
      let skip = bytesToSkip(answer, at, url)
      for (let chunk = await body.next(); chunk; chunk = await body.next()) {
        const wanted = chunk.subarray(Math.min(skip, chunk.length))
        skip -= chunk.length - wanted.length
        at += wanted.length
        if (wanted.length > 0) yield wanted
      }
      if (at >= request.size) return
      throw new ImageError("registry-unavailable", `${url.host} ended a blob after ${at} bytes`, {
        host: url.host,
      })
    } catch (cause) {
      signal?.throwIfAborted()
      const error = cause instanceof ImageError ? cause : connectionError(url, cause)
      breaks++
      const isFinal = error.code === "registry-protocol" || !mayPass(cause)
      if (isFinal || breaks > BREAKS + at / BYTES_PER_BREAK) throw error
    } finally {
      body.close()
    }
    await transport.wait(Math.min(breaks, transport.options.attempts), 0, signal)
  }
}

/** A server may give the whole again, which is skipped, but no other part. */
function bytesToSkip(answer: Answer, from: number, { host }: URL): number {
  if (answer.statusCode === 200) return from
  const range = answer.headers["content-range"]
  const start = typeof range === "string" ? CONTENT_RANGE.exec(range)?.[1] : undefined
  if (answer.statusCode === 206 && Number(start) === from) return 0
  throw new ImageError("registry-protocol", `${host} sends another part of a blob than was asked for`, {
    host,
  })
}

/** Reads a body, and gives up one that comes too slowly. Only waiting for the server counts, not for the reader. */
class PacedBody {
  readonly #answer: Answer
  readonly #chunks: AsyncIterator<Buffer>
  readonly #transport: Transport
  #waitedMs = 0
  #bytes = 0

  constructor(answer: Answer, transport: Transport) {
    this.#answer = answer
    this.#chunks = answer.body[Symbol.asyncIterator]()
    this.#transport = transport
  }

  async next(): Promise<Buffer | undefined> {
    const since = performance.now()
    const { done, value } = await this.#chunks.next()
    this.#waitedMs += performance.now() - since
    if (done) return undefined
    this.#bytes += value.length
    this.#checkPace()
    return value
  }

  close(): void {
    this.#answer.body.on("error", () => undefined) // it is thrown away, and how it ends with it
    this.#answer.body.destroy()
  }

  #checkPace(): void {
    const { idleTimeoutMs, minBytesPerSecond } = this.#transport.options
    if (this.#waitedMs < idleTimeoutMs) return
    if (this.#bytes < (minBytesPerSecond * this.#waitedMs) / 1000)
      throw new ImageError(
        "registry-timeout",
        `a blob comes at less than ${minBytesPerSecond} bytes a second`,
      )
    this.#waitedMs = 0
    this.#bytes = 0
  }
}
