import { pipeline, Readable, type Transform } from "node:stream"
import zlib from "node:zlib"
import { ImageError } from "../errors.js"
import { checkLimit, type ImageLimits } from "../limits.js"
import type { Compression } from "../spec/media-types.js"
import { ZstdDecoder } from "./zstd.js"
import { ZstdFrames, type ZstdPiece } from "./zstd-frames.js"

const OUTPUT_CHUNK = 256 * 1024
/** Unpacked ahead while the last chunk is looked at: the decoder has a thread of its own. */
const OUTPUT_AHEAD = 4 * OUTPUT_CHUNK
const MAGIC_SIZE = 4
const GZIP_MAGIC = 0x1f8b
const ZSTD_MAGIC = 0x28b52ffd
const ZSTD_SKIPPABLE = /^5[0-9a-f]2a4d18/

/** Bytes as they come in; `bytesRead` counts them. */
export interface CompressedInput {
  readonly bytesRead: number
  next(): Promise<Buffer | undefined>
}

/**
 * Unpacks a layer blob while it is read. The compression must be the one its media type names: a blob that two
 * readers could take for two things is refused. Output is bounded by size and by ratio.
 *
 * @throws ImageError `compression-invalid`, `media-type`, `limit`, and what the input throws
 */
export async function* decompress(
  input: CompressedInput,
  compression: Compression,
  limits: ImageLimits,
): AsyncGenerator<Buffer> {
  let size = 0
  for await (const chunk of decoded(input, compression, limits)) {
    size += chunk.length
    checkLimit("layerBytes", size, limits.layerBytes, "size of the unpacked layer")
    if (size > limits.ratioFloor) {
      checkLimit(
        "ratio",
        Math.ceil(size / Math.max(1, input.bytesRead)),
        limits.ratio,
        "compression ratio of the layer",
      )
    }
    yield chunk
  }
}

async function* decoded(
  input: CompressedInput,
  compression: Compression,
  limits: ImageLimits,
): AsyncGenerator<Buffer> {
  const chunks = withHead(input, head => checkMagic(head, compression))
  switch (compression) {
    case "none":
      yield* chunks
      return
    case "gzip":
      yield* through(
        chunks,
        zlib.createGunzip({
          chunkSize: OUTPUT_CHUNK,
          readableHighWaterMark: OUTPUT_AHEAD,
        } as zlib.ZlibOptions),
        "gzip",
      )
      return
    case "zstd":
      yield* createZstdDecompress
        ? zstdNative(chunks, createZstdDecompress, limits)
        : zstdPortable(chunks, limits)
  }
}

/** Node has a zstd decoder of its own from 22.15 on; its types are not those of Node 20. */
const { createZstdDecompress } = zlib as typeof zlib & { createZstdDecompress?: CreateZstdDecompress }

/** The part of Node's zstd decoder that is used here. */
type CreateZstdDecompress = (options: { chunkSize: number; readableHighWaterMark: number }) => Transform

async function* zstdPortable(chunks: AsyncIterable<Buffer>, limits: ImageLimits): AsyncGenerator<Buffer> {
  const frames = new ZstdFrames(limits)
  const decoder = new ZstdDecoder()
  for await (const chunk of chunks) {
    for (const piece of frames.push(chunk)) yield* decoder.decode(piece)
  }
  frames.end()
}

/** Node's decoder ends after one frame without a word, so every frame gets its own. */
async function* zstdNative(
  chunks: AsyncIterable<Buffer>,
  create: CreateZstdDecompress,
  limits: ImageLimits,
): AsyncGenerator<Buffer> {
  const pieces = zstdPieces(chunks, limits)
  for (let first = await pieces.next(); !first.done; first = await pieces.next()) {
    yield* through(
      restOfFrame(first.value, pieces),
      create({ chunkSize: OUTPUT_CHUNK, readableHighWaterMark: OUTPUT_AHEAD }),
      "zstd",
    )
  }
}

async function* zstdPieces(chunks: AsyncIterable<Buffer>, limits: ImageLimits): AsyncGenerator<ZstdPiece> {
  const frames = new ZstdFrames(limits)
  for await (const chunk of chunks) yield* frames.push(chunk)
  frames.end()
}

async function* restOfFrame(first: ZstdPiece, pieces: AsyncIterator<ZstdPiece>): AsyncGenerator<Buffer> {
  for (let piece = first; ; ) {
    yield Buffer.from(piece.bytes)
    if (piece.endsFrame) return
    const next = await pieces.next()
    if (next.done) return
    piece = next.value
  }
}

/** Passes chunks on, the first of them long enough to recognise a format, after `check` has seen it. */
async function* withHead(input: CompressedInput, check: (head: Buffer) => void): AsyncGenerator<Buffer> {
  let head: Buffer = Buffer.alloc(0)
  for (let chunk = await input.next(); chunk; chunk = await input.next()) {
    head = head.length === 0 ? chunk : Buffer.concat([head, chunk])
    if (head.length >= MAGIC_SIZE) break
  }
  check(head)
  if (head.length > 0) yield head
  for (let chunk = await input.next(); chunk; chunk = await input.next()) yield chunk
}

/** Recognises a compression by its first bytes. */
export function sniffCompression(head: Buffer): Compression {
  if (head.length >= 2 && head.readUInt16BE(0) === GZIP_MAGIC) return "gzip"
  if (head.length < MAGIC_SIZE) return "none"
  return head.readUInt32BE(0) === ZSTD_MAGIC || ZSTD_SKIPPABLE.test(head.toString("hex", 0, 4))
    ? "zstd"
    : "none"
}

function checkMagic(head: Buffer, declared: Compression): void {
  const actual = sniffCompression(head)
  if (actual === declared) return
  throw new ImageError(
    "media-type",
    `layer is declared as compression ${declared}, its content looks like ${actual}`,
    {
      declared,
      actual,
    },
  )
}

/**
 * Runs chunks through one of Node's streams, with back-pressure. Errors of the source keep their identity.
 */
async function* through(
  chunks: AsyncIterable<Buffer>,
  stream: Transform,
  name: string,
): AsyncGenerator<Buffer> {
  let sourceError: unknown
  const source = async function* () {
    try {
      yield* chunks
    } catch (error) {
      // The pipeline throws the stream's own error in here too, to end the source.
      if (stream.errored !== error) sourceError = error
      throw error
    }
  }
  // Nothing is read ahead: the ratio is that of what was read.
  pipeline(Readable.from(source(), { highWaterMark: 1 }), stream, () => undefined)
  try {
    for await (const chunk of stream) yield chunk as Buffer
  } catch (cause) {
    if (sourceError) throw sourceError
    throw new ImageError(
      "compression-invalid",
      `wrong ${name} stream: ${(cause as Error).message}`,
      {},
      { cause },
    )
  } finally {
    stream.destroy()
  }
}
