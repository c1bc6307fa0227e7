import { createHash } from "node:crypto"
import { promisify } from "node:util"
import { constants, inflateRaw, inflateRawSync } from "node:zlib"
import { ImageError } from "../errors.js"
import { WholeInput } from "../layer/bytes-input.js"
import { decompress } from "../layer/decompress.js"
import type { ImageLimits } from "../limits.js"
import { startAtBit } from "./bit-start.js"
import type { Packing, Span } from "./span-index.js"

const inflate = promisify(inflateRaw)
/** Deflate refers back no further. */
export const WINDOW_SIZE = 32 * 1024

/**
 * Unpacks spans that follow each other in the blob, and proves each.
 *
 * @param bytes - of the blob, from the first span's `from` up to the last one's `to`
 * @throws ImageError `digest-mismatch` for any other bytes than those that were indexed
 */
export async function* readSpans(
  spans: readonly Span[],
  bytes: Buffer,
  packing: Packing,
  limits: ImageLimits,
): AsyncGenerator<Buffer> {
  const base = spans[0]?.from ?? 0
  const sizes = unpackedSizes(spans)
  let member: { readonly from: number; readonly content: Buffer | undefined } | undefined
  for (const span of spans) {
    const own = bytes.subarray(span.from - base, span.to - base)
    if (packing === "none" || packing === "deflate") {
      yield proven(span, packing === "none" ? own : await unpackBlocks(span, own))
      continue
    }
    // Small files share a member, which is unpacked once.
    if (member?.from !== span.from)
      member = {
        from: span.from,
        content: await unpackStart(own, packing, sizes.get(span.from) ?? 0, limits),
      }
    yield proven(span, member.content?.subarray(span.skip, span.skip + span.end - span.start))
  }
}

function proven(span: Span, content: Buffer | undefined): Buffer {
  if (content && createHash("sha256").update(content).digest().equals(span.digest)) return content
  const { from, to } = span
  throw new ImageError("digest-mismatch", `bytes ${from} to ${to} of a layer are not what they were`, {
    from,
    to,
  })
}

async function unpackBlocks(span: Span, bytes: Buffer): Promise<Buffer | undefined> {
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

/** Bytes that have to be unpacked of what begins at each place, for all of its spans. */
function unpackedSizes(spans: readonly Span[]): Map<number, number> {
  const sizes = new Map<number, number>()
  for (const { from, skip, start, end } of spans)
    sizes.set(from, Math.max(sizes.get(from) ?? 0, skip + end - start))
  return sizes
}

/** The first `size` bytes of what unpacks; what follows, headers of a tar stream mostly, does not matter. */
async function unpackStart(
  bytes: Buffer,
  packing: "gzip" | "zstd",
  size: number,
  limits: ImageLimits,
): Promise<Buffer | undefined> {
  const chunks: Buffer[] = []
  let have = 0
  try {
    for await (const chunk of decompress(new WholeInput(bytes), packing, limits)) {
      chunks.push(chunk)
      have += chunk.length
      if (have >= size) return Buffer.concat(chunks)
    }
  } catch {
    // Whatever is wrong with it: it is not what was indexed.
  }
  return undefined
}
