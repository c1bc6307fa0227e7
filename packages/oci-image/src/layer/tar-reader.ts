import { ImageError } from "../errors.js"
import { checkLimit, type ImageLimits } from "../limits.js"
import { SparseEntries } from "./sparse-entries.js"
import { badSparse, type SparseMap } from "./sparse-map.js"
import { combineEntry, type TarEntry } from "./tar-entry.js"
import { isExtension, TarExtensions } from "./tar-extensions.js"
import { decodeHeader, isZeroBlock, type RawHeader, TAR_BLOCK } from "./tar-header.js"

export type { TarEntry, TarEntryType } from "./tar-entry.js"

/** Receives the stream's parts in order. `bytes` is only valid during the call. */
export interface TarHandler {
  entry(entry: TarEntry): void
  data(bytes: Buffer): void
  entryEnd(): void
}

/** How a {@link TarReader} reads. */
export interface TarReaderOptions {
  /** Whether sparse files are handed out; otherwise they are refused, for callers that take content as it stands. */
  readonly sparse?: boolean
}

type State = "header" | "meta" | "map" | "data" | "padding" | "end"

/**
 * Decodes a tar stream chunk by chunk, synchronously, without copying content. ustar, PAX, GNU long names and
 * old (V7) headers are read; where formats or programs disagree on the meaning of a stream it is refused.
 *
 * ```
 * header --meta entry--> meta --> padding --> header      (x, g, K, L: at most one of each before an entry)
 *    |---entry with content---> data --> padding --> header
 *    |---sparse entry---> map --> data --> padding --> header
 *    '---two zero blocks---> end                          (then only a bounded number of zero bytes)
 * ```
 *
 * @example
 * ```ts
 * const reader = new TarReader({ entry: e => console.log(e.path), data() {}, entryEnd() {} }, DEFAULT_LIMITS)
 * for await (const chunk of file) reader.push(chunk)
 * reader.end()
 * ```
 */
export class TarReader {
  readonly #handler: TarHandler
  readonly #limits: ImageLimits
  readonly #block = Buffer.alloc(TAR_BLOCK)
  #filled = 0
  #state: State = "header"
  /** Bytes left of the content, meta body, or padding. */
  #left = 0
  #paddingAfter = 0
  #zeroBlocks = 0
  #trailing = 0
  #entries = 0
  #offset = 0
  #metaType = 0
  #meta: Buffer[] = []
  readonly #extensions: TarExtensions
  readonly #sparse: SparseEntries
  /** A sparse entry that waits for the rest of its map. */
  #mapped: { readonly entry: TarEntry; readonly map: SparseMap } | undefined

  constructor(handler: TarHandler, limits: ImageLimits, options: TarReaderOptions = {}) {
    this.#handler = handler
    this.#limits = limits
    this.#extensions = new TarExtensions(limits)
    this.#sparse = new SparseEntries(limits, options.sparse ?? false)
  }

  /**
   * Takes the next piece of the stream.
   *
   * @throws ImageError every `tar-*` code, `limit`, `entry-xattr`, and what the handler throws
   */
  push(chunk: Buffer): void {
    for (let at = 0; at < chunk.length; ) {
      const used = this.#step(chunk, at)
      at += used
      this.#offset += used
    }
  }

  /** Offset in the stream of the next byte to be pushed. */
  get offset(): number {
    return this.#offset
  }

  /**
   * Leaves out the content of the entry that was just handed out, for a caller that can seek.
   *
   * @returns how many bytes of the stream must not be pushed
   */
  skipContent(): number {
    if (this.#state !== "data") return 0
    const skipped = this.#left + this.#paddingAfter
    this.#offset += skipped
    this.#state = "header"
    this.#handler.entryEnd()
    return skipped
  }

  /** Says that the stream has ended. A missing end mark is fine, a torn entry is not. @throws ImageError `tar-truncated` */
  end(): void {
    const isBetween = this.#state === "header" && this.#filled === 0 && !this.#extensions.isPending
    if (this.#state === "end" || isBetween) return
    throw new ImageError("tar-truncated", `tar stream ends inside an entry at offset ${this.#offset}`, {
      at: this.#offset,
    })
  }

  #step(chunk: Buffer, at: number): number {
    const size = chunk.length - at
    switch (this.#state) {
      case "header":
      case "map":
        return this.#takeBlock(chunk, at, Math.min(size, TAR_BLOCK - this.#filled))
      case "data":
        return this.#takeData(chunk.subarray(at, at + Math.min(size, this.#left)))
      case "meta":
        return this.#takeMeta(chunk.subarray(at, at + Math.min(size, this.#left)))
      case "padding":
        return this.#takePadding(Math.min(size, this.#left))
      case "end":
        return this.#takeTrailing(chunk.subarray(at))
    }
  }

  #takeBlock(chunk: Buffer, at: number, size: number): number {
    if (size === TAR_BLOCK) {
      this.#whole(chunk.subarray(at, at + TAR_BLOCK), this.#offset)
      return size
    }
    chunk.copy(this.#block, this.#filled, at, at + size)
    this.#filled += size
    if (this.#filled === TAR_BLOCK) {
      this.#filled = 0
      this.#whole(this.#block, this.#offset + size - TAR_BLOCK)
    }
    return size
  }

  #whole(block: Buffer, at: number): void {
    if (this.#state === "header") this.#header(block, at)
    else this.#takeMap(block)
  }

  #header(block: Buffer, at: number): void {
    if (isZeroBlock(block)) {
      if (++this.#zeroBlocks === 2) this.#finish(at)
      return
    }
    if (this.#zeroBlocks > 0) throw trailingData(at)
    const raw = decodeHeader(block, at)
    if (raw.size < 0)
      throw new ImageError("tar-number", `negative size in tar header at offset ${at}`, {
        at,
        size: raw.size,
      })
    if (isExtension(raw.typeflag)) this.#startMeta(raw, at)
    else this.#startEntry(raw, block, at)
  }

  #finish(at: number): void {
    if (this.#extensions.isPending) {
      throw new ImageError(
        "tar-truncated",
        `tar stream ends after a header without its entry at offset ${at}`,
        { at },
      )
    }
    this.#state = "end"
  }

  /** A meta entry's own size is always the one in its header: a PAX size never applies to it (CVE-2025-62518). */
  #startMeta(raw: RawHeader, at: number): void {
    checkLimit("paxBytes", raw.size, this.#limits.paxBytes, "size of a tar extension header")
    this.#extensions.expect(raw.typeflag, at)
    checkLimit("entries", ++this.#entries, 2 * this.#limits.entries, "headers of the tar stream")
    this.#metaType = raw.typeflag
    this.#begin("meta", raw.size)
    if (raw.size === 0) this.#endMeta()
  }

  #startEntry(raw: RawHeader, block: Buffer, at: number): void {
    const extensions = this.#extensions.take()
    const entry = combineEntry(raw, extensions, at)
    const map = this.#sparse.mapOf(raw, block, extensions.pax, at)
    checkLimit("entries", ++this.#entries, 2 * this.#limits.entries, "headers of the tar stream")
    if (!map) {
      this.#startContent(entry, entry.size)
      return
    }
    if (entry.type !== "file") throw badSparse(`is a ${entry.type}`)
    this.#mapped = { entry, map }
    this.#state = "map"
    this.#left = entry.size
    if (!map.wantsBlock) this.#endMap()
  }

  #takeMap(block: Buffer): void {
    const { map } = this.#mapped as { map: SparseMap }
    if (map.inContent) {
      this.#left -= TAR_BLOCK
      if (this.#left < 0) throw badSparse("map is longer than the entry")
    }
    map.take(block)
    if (!map.wantsBlock) this.#endMap()
  }

  #endMap(): void {
    const { entry, map } = this.#mapped as { entry: TarEntry; map: SparseMap }
    this.#mapped = undefined
    this.#startContent(this.#sparse.finish(entry, map, this.#left), this.#left)
  }

  #startContent(entry: TarEntry, stored: number): void {
    this.#handler.entry(entry)
    this.#begin("data", stored)
    if (stored === 0) this.#endData()
  }

  #begin(state: "data" | "meta", size: number): void {
    this.#state = state
    this.#left = size
    this.#paddingAfter = -size & (TAR_BLOCK - 1)
  }

  #takeData(bytes: Buffer): number {
    this.#handler.data(bytes)
    this.#left -= bytes.length
    if (this.#left === 0) this.#endData()
    return bytes.length
  }

  #endData(): void {
    this.#handler.entryEnd()
    this.#pad()
  }

  #takeMeta(bytes: Buffer): number {
    this.#meta.push(Buffer.from(bytes))
    this.#left -= bytes.length
    if (this.#left === 0) this.#endMeta()
    return bytes.length
  }

  #endMeta(): void {
    this.#extensions.add(this.#metaType, Buffer.concat(this.#meta))
    this.#meta = []
    this.#pad()
  }

  #pad(): void {
    this.#left = this.#paddingAfter
    this.#state = this.#left > 0 ? "padding" : "header"
  }

  #takePadding(size: number): number {
    this.#left -= size
    if (this.#left === 0) this.#state = "header"
    return size
  }

  #takeTrailing(bytes: Buffer): number {
    for (let i = 0; i < bytes.length; i++) if (bytes[i] !== 0) throw trailingData(this.#offset + i)
    this.#trailing += bytes.length
    checkLimit(
      "paddingBytes",
      this.#trailing,
      this.#limits.paddingBytes,
      "zero bytes after the end of the tar stream",
    )
    return bytes.length
  }
}

function trailingData(at: number): ImageError {
  return new ImageError("tar-trailing-data", `data after the end of the tar stream at offset ${at}`, { at })
}
