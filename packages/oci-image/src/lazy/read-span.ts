import { createHash } from "node:crypto"
import { promisify } from "node:util"
import { constants, inflateRaw, inflateRawSync } from "node:zlib"
import { ImageError } from "../errors.js"
import { startAtBit } from "./bit-start.js"
import type { Span } from "./span-index.js"

const inflate = promisify(inflateRaw)
/** Deflate refers back no further. */
export const WINDOW_SIZE = 32 * 1024

/**
 * Unpacks one span and proves it.
 *
 * @param bytes - of the blob, from `span.from` up to `span.to`
 * @param packed - whether the layer is a gzip file
 * @throws ImageError `digest-mismatch` for any other bytes than those that were indexed
 */
export async function readSpan(span: Span, bytes: Buffer, packed: boolean): Promise<Buffer> {
  const content = packed ? await unpack(span, bytes) : bytes
  if (content && createHash("sha256").update(content).digest().equals(span.digest)) return content
  throw new ImageError(
    "digest-mismatch",
    `bytes ${span.from} to ${span.to} of a layer are not what they were`,
    {
      from: span.from,
      to: span.to,
    },
  )
}

async function unpack(span: Span, bytes: Buffer): Promise<Buffer | undefined> {
  const size = span.end - span.start
  try {
    const content = await inflate(startAtBit(bytes, span.bit), {
      // What follows belongs to the next span: this one ends in the middle of a stream.
      finishFlush: constants.Z_SYNC_FLUSH,
      maxOutputLength: size + 1,
      chunkSize: Math.max(64, size + 1),
      ...(span.window.length > 0
        ? { dictionary: inflateRawSync(span.window, { maxOutputLength: WINDOW_SIZE }) }
        : {}),
    })
    return content.length === size ? content : undefined
  } catch {
    return undefined // Whatever is wrong with it: it is not what was indexed.
  }
}
