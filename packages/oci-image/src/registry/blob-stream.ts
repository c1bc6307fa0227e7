import { ImageError, isImageError } from "../errors.js"
import type { BlobRequest } from "../sources/blob.js"
import { connectionError, MAY_PASS, mayPass } from "./failures.js"
import { PacedBody } from "./paced-body.js"
import type { Answer, Transport } from "./transport.js"

/** Breaks that are put up with, and one more for each so many bytes: a large blob over a bad line comes in the end. */
const BREAKS = 8
const BYTES_PER_BREAK = 16 * 1024 * 1024
const CONTENT_RANGE = /^bytes (\d{1,15})-(\d{1,15})\/(\d{1,15}|\*)$/

/**
 * A blob's bytes, from as many answers as it takes: a stream that breaks, ends early or stands still goes on from
 * where it was. Not more bytes are handed out than were asked for; whoever reads checks the digest.
 *
 * @param ask - asks for the blob from a byte on
 * @throws ImageError `registry-unavailable`, `registry-timeout`, `registry-protocol`, `size-mismatch`, and what `ask`
 * throws
 */
export async function* streamBlob(
  request: BlobRequest,
  url: URL,
  transport: Transport,
  ask: (from: number) => Promise<Answer>,
  signal: AbortSignal | undefined,
): AsyncGenerator<Buffer> {
  let at = 0
  for (let breaks = 1; ; breaks++) {
    const answer = await ask(at)
    const body = new PacedBody(answer, url, transport)
    try {
      let skip = bytesToSkip(answer, at, request, url)
      for (let chunk = await body.next(); chunk; chunk = await body.next()) {
        const wanted = chunk.subarray(Math.min(skip, chunk.length))
        skip -= chunk.length - wanted.length
        at += wanted.length
        if (at > request.size) throw wrongSize(request, at, url)
        if (wanted.length > 0) yield wanted
      }
      if (at === request.size) return
      throw new ImageError("registry-unavailable", `${url.host} ended a blob after ${at} bytes`, {
        host: url.host,
      })
    } catch (cause) {
      signal?.throwIfAborted()
      // All is there: how the answer ends does not matter, the digest tells.
      const error = isImageError(cause) ? cause : connectionError(url, cause)
      const isFinal = !MAY_PASS.has(error.code) || !mayPass(cause)
      if (!isFinal && at === request.size) return
      if (isFinal || breaks > BREAKS + at / BYTES_PER_BREAK) throw error
    } finally {
      body.close()
    }
    await transport.wait(Math.min(breaks, transport.options.attempts), 0, signal)
  }
}

/**
 * How much of an answer is known already: a server may give the whole again, but no other part than was asked for.
 *
 * @throws ImageError `registry-protocol`, `size-mismatch`
 */
function bytesToSkip(answer: Answer, from: number, request: BlobRequest, url: URL): number {
  const isPart = answer.statusCode === 206
  checkLength(answer, isPart ? request.size - from : request.size, request, url)
  if (!isPart) return from
  const range = answer.headers["content-range"]
  const [, start, end, size] = (typeof range === "string" && CONTENT_RANGE.exec(range)) || []
  const isRight = Number(start) === from && Number(end) === request.size - 1
  if (isRight && (size === "*" || Number(size) === request.size)) return 0
  const { host } = url
  throw new ImageError("registry-protocol", `${host} sends another part of a blob than was asked for`, {
    host,
  })
}

/** An answer that says what is wrong with it need not be read. */
function checkLength({ headers }: Answer, expected: number, request: BlobRequest, url: URL): void {
  const value = headers["content-length"]
  if (value === undefined || Number(value) === expected) return
  throw wrongSize(request, request.size - expected + Number(value), url)
}

function wrongSize({ digest, size }: BlobRequest, actual: number, { host }: URL): ImageError {
  const fields = { host, digest, expected: size, actual }
  const got = actual > size ? "more" : `${actual}`
  return new ImageError(
    "size-mismatch",
    `${host} has another ${digest}: expected ${size} bytes, got ${got}`,
    fields,
  )
}
