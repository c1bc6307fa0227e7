import { setMaxListeners } from "node:events"
import type { FileHandle } from "node:fs/promises"
import { ImageError, ioError } from "../errors.js"
import { writeAll } from "../layer/part-file.js"
import type { ImageLimits } from "../limits.js"
import { readSpans } from "./read-span.js"
import { digestOfRuns, gapsOf, type Run, type Span, type SpanIndex } from "./span-index.js"
import { endOf, firstRun, lowest, spanAt } from "./span-lookup.js"

/** Bytes of the blob that are fetched in one request, unless a single span has more. */
const FETCH_BYTES = 2 * 1024 * 1024
/** Bytes of the stream that come with a span that is needed, as far as they are not there: small ones do not come alone. */
const READ_AHEAD = 512 * 1024

/** Fetches bytes of a blob, from and up to; exactly as many as are asked for. */
export type FetchRange = (from: number, to: number, signal: AbortSignal) => Promise<Buffer>

/** What a {@link LazyPart} is made of. */
export interface LazyPartOptions {
  readonly index: SpanIndex
  readonly fetch: FetchRange
  /** Becomes the data part: empty, open for reading and writing. It stays the caller's to close. */
  readonly file: FileHandle
  /** Becomes the blob as it came, if that is to be kept; likewise. */
  readonly blob?: FileHandle | undefined
  readonly limits: ImageLimits
}

/**
 * A data part that arrives as it is needed. What was not fetched yet must not be read from the file:
 * {@link LazyPart.prepare} comes first.
 */
export class LazyPart {
  readonly #index: SpanIndex
  /** Equal content stands once in the part: the order in the stream may be another. */
  readonly #runsByOffset: readonly Run[]
  readonly #fetch: FetchRange
  readonly #file: FileHandle
  readonly #blob: FileHandle | undefined
  readonly #limits: ImageLimits
  readonly #abort = new AbortController()
  /** By span: on its way, or there. */
  readonly #coming = new Map<number, Promise<void>>()
  readonly #there: Uint8Array
  readonly #wanted = new Set<number>()
  #missing: number
  /** Bytes of the blob that were fetched. */
  bytesFetched = 0

  private constructor({ index, fetch, file, blob, limits }: LazyPartOptions) {
    this.#index = index
    this.#runsByOffset = [...index.runs].sort((a, b) => a.offset - b.offset)
    this.#fetch = fetch
    this.#file = file
    this.#blob = blob
    this.#limits = limits
    // Everything on its way listens, however much that is.
    setMaxListeners(0, this.#abort.signal)
    this.#there = new Uint8Array(index.spans.length)
    this.#missing = index.spans.length
  }

  /** @throws ImageError `io` */
  static async create(options: LazyPartOptions): Promise<LazyPart> {
    try {
      await options.file.truncate(options.index.dataSize)
    } catch (error) {
      throw ioError(error, "cannot write image data")
    }
    return new LazyPart(options)
  }

  /** Bytes of the data part. */
  get size(): number {
    return this.#index.dataSize
  }

  /** Whether nothing is missing any more. */
  get isWhole(): boolean {
    return this.#missing === 0
  }

  /** Numbers of the spans that were asked for, in the order in which that first happened: what a start needs. */
  get spansWanted(): number[] {
    return [...this.#wanted]
  }

  /**
   * Makes sure that a range can be read from the file.
   *
   * @returns undefined when it can already
   * @throws (later) ImageError `digest-mismatch`, `io`, and what fetching throws; it may be tried again
   */
  prepare(offset: number, length: number): Promise<void> | undefined {
    if (this.isWhole) return undefined
    const needed = this.#spansOf(offset, offset + length)
    for (const number of needed) this.#wanted.add(number)
    const missing = needed.filter(number => this.#there[number] === 0)
    return missing.length === 0 ? undefined : this.#bring(missing, this.#withNext(missing))
  }

  /**
   * Fetches spans ahead of their need, in the order given.
   *
   * @param numbers - of spans; others than there are, are left out
   * @param signal - ends it after the spans that are on their way
   */
  async fill(numbers: Iterable<number> = this.#index.spans.keys(), signal?: AbortSignal): Promise<void> {
    const missing = [...numbers].filter(number => this.#there[number] === 0)
    for (const group of this.#inGroups(missing)) {
      signal?.throwIfAborted()
      await this.#bring(group.filter(number => this.#there[number] === 0))
    }
  }

  /**
   * Checks the whole of a part that has all its spans, and completes the blob. The blob's own digest is for the caller to
   * check.
   *
   * @throws ImageError `digest-mismatch`, `io`, and what fetching throws
   */
  async finish(): Promise<void> {
    await this.completeBlob()
    const { runs, dataDigest } = this.#index
    if (this.isWhole && (await digestOfRuns(this.#file, runs)).equals(dataDigest)) return
    throw new ImageError("digest-mismatch", "a layer that was fetched in pieces is not what it was")
  }

  /**
   * Fetches what of the blob belongs to no span and was not needed until now.
   *
   * @throws ImageError `io`, and what fetching throws
   */
  async completeBlob(signal?: AbortSignal): Promise<void> {
    if (!this.#blob) return
    for (const [start, end] of gapsOf(this.#index)) {
      for (let at = start; at < end; at += FETCH_BYTES) {
        signal?.throwIfAborted()
        const to = Math.min(end, at + FETCH_BYTES)
        const bytes = await this.#fetch(at, to, this.#abort.signal)
        this.bytesFetched += bytes.length
        await this.#keep(at, bytes)
      }
    }
  }

  /** Ends what is on its way; that then fails. */
  close(): void {
    this.#abort.abort(new ImageError("io", "the image was closed"))
  }

  /** The spans behind a range of the data part. What belongs to no run is zeros. */
  #spansOf(from: number, to: number): number[] {
    const { runs, spans } = this.#index
    const numbers: number[] = []
    for (let i = firstRun(runs, from); i < runs.length && (runs[i] as Run).position < to; i++) {
      const run = runs[i] as Run
      const skipped = Math.max(0, from - run.position)
      const start = run.offset + skipped
      const end = run.offset + Math.min(run.size, to - run.position)
      for (let n = spanAt(spans, start); n < spans.length && (spans[n] as Span).start < end; n++)
        if (numbers.at(-1) !== n) numbers.push(n)
    }
    return [...new Set(numbers)]
  }

  /** Spans, those that follow them closely, and those packed together with them: all that are missing. */
  #withNext(numbers: readonly number[]): number[] {
    const { spans } = this.#index
    const all = new Set<number>()
    for (const number of numbers) {
      const { from, start } = spans[number] as Span
      const isNear = (span?: Span) => span && (span.from === from || span.end - start <= READ_AHEAD)
      let first = number
      while (spans[first - 1]?.from === from) first--
      for (let next = first; isNear(spans[next]); next++) if (this.#there[next] === 0) all.add(next)
      all.add(number)
    }
    return [...all].sort((a, b) => a - b)
  }

  /**
   * @param awaited - spans whose coming is waited for
   * @param numbers - all that are fetched, unless they are on their way
   */
  async #bring(awaited: readonly number[], numbers = awaited): Promise<void> {
    for (const group of this.#inGroups(numbers.filter(number => !this.#coming.has(number)))) {
      const coming = this.#fetchSpans(group).finally(() => {
        for (const number of group) this.#coming.delete(number)
      })
      coming.catch(() => undefined) // whoever waits for it is told
      for (const number of group) this.#coming.set(number, coming)
    }
    await Promise.all(awaited.map(number => this.#coming.get(number)))
  }

  /** Cuts numbers of spans into groups of neighbours, each of which is fetched in one request. */
  *#inGroups(numbers: Iterable<number>): Generator<number[]> {
    const { spans } = this.#index
    let group: number[] = []
    for (const number of numbers) {
      const first = spans[group[0] ?? number] as Span
      const { from, to } = spans[number] as Span
      // What is packed together comes together, however much it is: else it would be fetched for each of its spans.
      const isNear = to - first.from <= FETCH_BYTES || from === first.from
      const isNext = group.at(-1) === number - 1 && isNear
      if (!isNext && group.length > 0) {
        yield group
        group = []
      }
      group.push(number)
    }
    if (group.length > 0) yield group
  }

  /** @param numbers - of spans next to each other */
  async #fetchSpans(numbers: readonly number[]): Promise<void> {
    const spans = numbers.map(number => this.#index.spans[number] as Span)
    const [{ from }, { to }] = [spans[0], spans.at(-1)] as [Span, Span]
    const bytes = await this.#fetch(from, to, this.#abort.signal)
    this.bytesFetched += bytes.length
    await this.#keep(from, bytes)
    let done = 0
    for await (const content of readSpans(spans, bytes, this.#index.packing, this.#limits)) {
      await this.#place(spans[done] as Span, content)
      this.#there[numbers[done++] as number] = 1
      this.#missing--
    }
  }

  async #keep(position: number, bytes: Buffer): Promise<void> {
    try {
      if (this.#blob) await writeAll(this.#blob, bytes, position)
    } catch (error) {
      throw ioError(error, "cannot write image data")
    }
  }

  /** Puts a span's content where the data part has it. */
  async #place(span: Span, content: Buffer): Promise<void> {
    try {
      for (const run of this.#byOffset(span.start, span.end)) {
        const start = Math.max(span.start, run.offset)
        const end = Math.min(span.end, endOf(run))
        const position = run.position + (start - run.offset)
        await writeAll(this.#file, content.subarray(start - span.start, end - span.start), position)
      }
    } catch (error) {
      throw ioError(error, "cannot write image data")
    }
  }

  /** Runs that have something of a range of the stream. */
  #byOffset(from: number, to: number): Run[] {
    const runs = this.#runsByOffset
    const first = lowest(runs.length, i => endOf(runs[i] as Run) > from)
    return runs.slice(
      first,
      lowest(runs.length, i => (runs[i] as Run).offset >= to),
    )
  }
}
