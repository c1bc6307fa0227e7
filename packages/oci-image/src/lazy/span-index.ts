import { createHash } from "node:crypto"
import type { FileHandle } from "node:fs/promises"
import { ImageError } from "../errors.js"
import { ByteReader, type ByteWriter, bytesOf } from "../layer/bytes.js"
import { readRange } from "../sources/beneath.js"
import { SPAN_MAX } from "./checkpoints.js"

/**
 * How a span is read: as it is; as deflate blocks that begin inside a gzip file; or from the start of a gzip member or
 * zstd frame of its own.
 */
export type Packing = "none" | "deflate" | "gzip" | "zstd"

const PACKINGS: readonly Packing[] = ["none", "deflate", "gzip", "zstd"]

/** A piece of a layer that can be fetched, unpacked and proven on its own. */
export interface Span {
  /** Bytes of the blob that are needed: from, and up to. */
  readonly from: number
  readonly to: number
  /** Bits of the first byte that belong to what comes before. */
  readonly bit: number
  /** Bytes that unpack before it and are not of it. */
  readonly skip: number
  /** Where what it unpacks to stands in the stream: the tar stream, or of a table of contents the files one after another. */
  readonly start: number
  readonly end: number
  /** SHA-256 of that. */
  readonly digest: Buffer
  /** What the span refers back to, packed with deflate; empty when it refers to nothing before it. */
  readonly window: Buffer
}

/** Content that stands in one piece both in the data part and in the stream. */
export interface Run {
  /** Where it stands in the data part. */
  readonly position: number
  /** Where it stands in the stream, and how many bytes it has. */
  readonly offset: number
  readonly size: number
}

/** Where everything of a data part lies in the layer's blob. */
export interface SpanIndex {
  readonly packing: Packing
  /** Bytes of the blob, and of the data part. */
  readonly blobSize: number
  readonly dataSize: number
  /** {@link digestOfRuns} of the data part. */
  readonly dataDigest: Buffer
  /** In order, both of the blob and of the stream, without gaps in the stream from 0 on. */
  readonly spans: readonly Span[]
  /** By position, none overlapping another. */
  readonly runs: readonly Run[]
}

/**
 * SHA-256 of the content of all runs, one after the other. What belongs to no run does not count: an entry of the tar
 * stream that a later one replaced left content that nothing refers to.
 */
export async function digestOfRuns(data: FileHandle, runs: readonly Run[]): Promise<Buffer> {
  const hash = createHash("sha256")
  for (const { position, size } of runs)
    for await (const chunk of readRange(data, position, position + size)) hash.update(chunk)
  return hash.digest()
}

/** What of the blob belongs to no span, in order: from, and up to. */
export function* gapsOf({ spans, blobSize }: SpanIndex): Generator<[number, number]> {
  let end = 0
  for (const { from, to } of spans) {
    if (from > end) yield [end, from]
    end = Math.max(end, to)
  }
  if (end < blobSize) yield [end, blobSize]
}

/**
 * ```
 * header   magic[8] packing:u8 blobSize:f64 dataSize:f64 dataDigest[32] spans:u32 runs:u32
 * span     from:f64 to:f64 bit:u8 skip:u32 end:f64 digest[32] window:u16 bytes
 * run      position:f64 offset:f64 size:f64
 * trailer  sha256[32] of everything before
 * ```
 */
const MAGIC = "TSVMSPN2"
const CHECKSUM_SIZE = 32
const DIGEST_SIZE = 32

/** Encodes an index. Equal indexes give equal bytes. */
export function encodeSpanIndex(index: SpanIndex): Buffer {
  const content = bytesOf(out => writeContent(out, index))
  return Buffer.concat([content, createHash("sha256").update(content).digest()])
}

function writeContent(out: ByteWriter, index: SpanIndex): void {
  out.text(MAGIC)
  out.u8(PACKINGS.indexOf(index.packing))
  out.f64(index.blobSize)
  out.f64(index.dataSize)
  out.bytes(index.dataDigest)
  out.u32(index.spans.length)
  out.u32(index.runs.length)
  for (const span of index.spans) {
    out.f64(span.from)
    out.f64(span.to)
    out.u8(span.bit)
    out.u32(span.skip)
    out.f64(span.end)
    out.bytes(span.digest)
    out.u16(span.window.length)
    out.bytes(span.window)
  }
  for (const run of index.runs) {
    out.f64(run.position)
    out.f64(run.offset)
    out.f64(run.size)
  }
}

/**
 * Decodes an index; everything is bounded by the buffer's length, and what it says holds together.
 *
 * @throws ImageError `index-corrupt`
 */
export function decodeSpanIndex(bytes: Buffer): SpanIndex {
  const end = bytes.length - CHECKSUM_SIZE
  if (end < MAGIC.length || bytes.toString("latin1", 0, MAGIC.length) !== MAGIC)
    throw corrupt("not a span index")
  const checksum = createHash("sha256").update(bytes.subarray(0, end)).digest()
  if (!checksum.equals(bytes.subarray(end))) throw corrupt("wrong checksum")
  const input = new ByteReader(bytes.subarray(0, end), MAGIC.length)
  try {
    const packing = PACKINGS[input.u8()]
    if (!packing) throw corrupt("unknown packing")
    const [blobSize, dataSize, dataDigest] = [input.f64(), input.f64(), input.bytes(DIGEST_SIZE)]
    const head = { packing, blobSize, dataSize, dataDigest }
    const [spanCount, runCount] = [input.u32(), input.u32()]
    const spans = decodeSpans(input, spanCount, head.blobSize)
    const runs = decodeRuns(input, runCount, head.dataSize, spans.at(-1)?.end ?? 0)
    if (input.left !== 0) throw corrupt("bytes that belong to nothing")
    return { ...head, spans, runs }
  } catch (error) {
    if (error instanceof RangeError) throw corrupt(error.message)
    throw error
  }
}

function decodeSpans(input: ByteReader, count: number, blobSize: number): Span[] {
  const spans: Span[] = []
  let before = 0
  for (let start = 0; spans.length < count; start = (spans.at(-1) as Span).end) {
    const [from, to, bit] = [input.f64(), input.f64(), input.u8()]
    const [skip, end] = [input.u32(), input.f64()]
    const digest = input.bytes(DIGEST_SIZE)
    const window = input.bytes(input.u16())
    const isSound =
      [from, to, end].every(Number.isSafeInteger) && from >= before && from < to && to <= blobSize
    if (!isSound || bit > 7 || end <= start || skip + end - start > SPAN_MAX)
      throw corrupt("a span that is none")
    before = from
    spans.push({ from, to, bit, skip, start, end, digest, window })
  }
  return spans
}

function decodeRuns(input: ByteReader, count: number, dataSize: number, streamSize: number): Run[] {
  const runs: Run[] = []
  let free = 0
  for (let i = 0; i < count; i++) {
    const run = { position: input.f64(), offset: input.f64(), size: input.f64() }
    const { position, offset, size } = run
    const isSound = [position, offset, size].every(Number.isSafeInteger) && offset >= 0 && size > 0
    if (!isSound || position < free || offset + size > streamSize) throw corrupt("a run that is none")
    free = position + size
    if (free > dataSize) throw corrupt("a run beyond the data part")
    runs.push(run)
  }
  return runs
}

function corrupt(why: string): ImageError {
  return new ImageError("index-corrupt", `stored span index is damaged: ${why}`)
}
