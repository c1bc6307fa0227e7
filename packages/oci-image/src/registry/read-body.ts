import { ImageError } from "../errors.js"
import type { Answer } from "./transport.js"
import { connectionError } from "./transport.js"

/**
 * Reads a small body whole.
 *
 * @param max - bytes; one that is longer is refused, whatever its header says
 * @throws ImageError `limit`, `registry-unavailable`, `registry-timeout`
 */
export async function readBody(answer: Answer, max: number, url: URL): Promise<Buffer> {
  const chunks: Buffer[] = []
  let size = 0
  try {
    for await (const chunk of answer.body) {
      size += chunk.length
      if (size > max) throw tooLong(url, max)
      chunks.push(chunk)
    }
  } catch (error) {
    if (error instanceof ImageError) throw error
    throw connectionError(url, error)
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
