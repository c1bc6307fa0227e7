import { ImageError, isImageError } from "../errors.js"
import { connectionError } from "./failures.js"
import { PacedBody } from "./paced-body.js"
import type { Answer, Transport } from "./transport.js"

/** Where a body comes from. */
export interface BodyOrigin {
  readonly url: URL
  readonly transport: Transport
  readonly signal: AbortSignal | undefined
}

/**
 * Reads a small body whole.
 *
 * @param max - bytes; one that is longer is refused, whatever its header says
 * @throws ImageError `limit`, `registry-unavailable`, `registry-timeout`; the signal's reason
 */
export async function readBody(answer: Answer, max: number, origin: BodyOrigin): Promise<Buffer> {
  const { url, transport, signal } = origin
  const body = new PacedBody(answer, url, transport)
  const chunks: Buffer[] = []
  let size = 0
  try {
    for (let chunk = await body.next(); chunk; chunk = await body.next()) {
      size += chunk.length
      if (size > max) throw tooLong(url, max)
      chunks.push(chunk)
    }
  } catch (error) {
    signal?.throwIfAborted()
    throw isImageError(error) ? error : connectionError(url, error)
  } finally {
    body.close()
  }
  return Buffer.concat(chunks)
}

function tooLong({ host }: URL, max: number): ImageError {
  return new ImageError("limit", `the answer of ${host} is longer than ${max} bytes (documentBytes)`, {
    limit: "documentBytes",
    value: max + 1,
    max,
  })
}
