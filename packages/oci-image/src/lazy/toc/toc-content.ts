import { BLOCK_SIZE } from "../../erofs/defs.js"
import { checkLimit, type ImageLimits } from "../../limits.js"
import { SPAN_MAX } from "../checkpoints.js"
import type { Run, Span } from "../span-index.js"
import type { TocChunk } from "./toc-entry.js"
import { invalidToc } from "./toc-place.js"

/** Most chunks of a layer. */
const CHUNKS_MAX = 250_000
/** Most bytes that are fetched for one chunk: what it is packed in, and headers of a tar stream behind it. */
const MEMBER_MAX = 32 * 1024 * 1024

/** What is known of the layer's blob. */
export interface TocBlob {
  /** Bytes of the blob. */
  readonly size: number
  /** Where the table of contents begins in it, behind all content. */
  readonly tocStart: number
}

/** Where everything of a layer's files lies, by its table of contents. */
export interface TocContent {
  readonly dataSize: number
  readonly spans: readonly Span[]
  readonly runs: readonly Run[]
}

/** A file whose chunks are told of. */
interface OpenFile {
  readonly path: string
  readonly size: number
  readonly position: number
  /** Bytes of it that chunks were told of. */
  done: number
}

/** A chunk, but for where it ends in the blob: that is known when the next one is. */
type OpenSpan = Omit<Span, "to">

/**
 * Lays out a data part for the files of a table of contents, and finds where its content lies: each file from a 4 KiB
 * boundary on. Chunks have to be in the order of the blob, each after the other, as every writer has them.
 */
export class TocContentReader {
  readonly #limits: ImageLimits
  readonly #blob: TocBlob
  readonly #spans: OpenSpan[] = []
  readonly #runs: Run[] = []
  #file: OpenFile | undefined
  /** Bytes of the data part, and of all chunks one after the other. */
  #dataSize = 0
  #streamSize = 0
  #holeBytes = 0

  constructor(blob: TocBlob, limits: ImageLimits) {
    this.#blob = blob
    this.#limits = limits
  }

  /**
   * Begins a file, whose first chunk follows.
   *
   * @returns its first block in the data part
   * @throws ImageError `toc-invalid`, `limit`
   */
  begin(path: string, size: number): number {
    this.end()
    const position = this.#dataSize
    this.#file = { path, size, position, done: 0 }
    this.#dataSize += Math.ceil(size / BLOCK_SIZE) * BLOCK_SIZE
    checkLimit("layerBytes", this.#dataSize, this.#limits.layerBytes, "size of all files of the layer")
    return position / BLOCK_SIZE
  }

  /** @throws ImageError `toc-invalid`, `limit` */
  chunk(chunk: TocChunk): void {
    const file = this.#file
    if (!file || chunk.path !== file.path) throw invalidToc("a chunk does not follow its file")
    const left = file.size - file.done
    const size = chunk.size || left
    if (chunk.at !== file.done || size === 0 || size > left)
      throw invalidToc("the chunks of a file are not its content, each after the other")
    if (chunk.isZeros) this.#holeBytes += size
    else this.#store(chunk, size, file)
    checkLimit("holeBytes", this.#holeBytes, this.#limits.holeBytes, "size of all holes of the layer")
    file.done += size
  }

  /** Ends the last file. @throws ImageError `toc-invalid` when it is not complete */
  end(): void {
    if (this.#file && this.#file.done !== this.#file.size)
      throw invalidToc("the chunks of a file are less than its content")
    this.#file = undefined
  }

  /** @throws ImageError `toc-invalid`, `limit` */
  finish(): TocContent {
    this.end()
    const { ratio, ratioFloor } = this.#limits
    if (this.#streamSize > ratioFloor)
      checkLimit("ratio", this.#streamSize / this.#blob.size, ratio, "compression ratio of the layer")
    return { dataSize: this.#dataSize, spans: this.#closed(), runs: this.#runs }
  }

  #store(chunk: TocChunk, size: number, file: OpenFile): void {
    const { offset, skip } = chunk
    // A whole file's digest is that of its only chunk.
    const digest = chunk.digest ?? (size === file.size ? chunk.fileDigest : undefined)
    if (!digest) throw invalidToc("a chunk has no digest")
    if (skip + size > SPAN_MAX) throw invalidToc(`a chunk is longer than ${SPAN_MAX} bytes`)
    if (this.#spans.length >= CHUNKS_MAX) throw invalidToc(`there are more than ${CHUNKS_MAX} chunks`)
    this.#checkPlace(offset, skip)
    const start = this.#streamSize
    this.#streamSize += size
    this.#spans.push({
      ...{ from: offset, bit: 0, skip, start, end: start + size },
      ...{ digest, window: Buffer.alloc(0) },
    })
    this.#map({ position: file.position + file.done, offset: start, size })
  }

  #checkPlace(offset: number, skip: number): void {
    if (offset >= this.#blob.tocStart) throw invalidToc("a chunk lies outside the layer")
    const last = this.#spans.at(-1)
    if (!last || offset > last.from) return
    const isBehind = offset === last.from && skip >= last.skip + last.end - last.start
    if (!isBehind) throw invalidToc("chunks overlap, or are not in order")
  }

  /** Content that goes on in both is one run. */
  #map(run: Run): void {
    const last = this.#runs.at(-1)
    const goesOn = last && last.position + last.size === run.position
    if (goesOn && last.offset + last.size === run.offset)
      this.#runs[this.#runs.length - 1] = { ...last, size: last.size + run.size }
    else this.#runs.push(run)
  }

  /** What a chunk is packed in ends where the next begins, at the latest. */
  #closed(): Span[] {
    const spans: Span[] = []
    let [from, next] = [this.#blob.tocStart, this.#blob.tocStart]
    for (const span of this.#spans.reverse()) {
      if (span.from < from) [from, next] = [span.from, from]
      spans.push({ ...span, to: Math.min(next, from + MEMBER_MAX) })
    }
    return spans.reverse()
  }
}
