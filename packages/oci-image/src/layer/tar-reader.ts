import { ImageError, printable } from "../errors.js"
import { checkLimit, type ImageLimits } from "../limits.js"
import { checkGlobalPax, type PaxRecords, type PaxTime, parsePax } from "./pax.js"
import { decodeHeader, isZeroBlock, type RawHeader, TAR_BLOCK, TYPEFLAG } from "./tar-header.js"

/** What a tar entry is. */
export type TarEntryType = "file" | "link" | "symlink" | "char" | "block" | "directory" | "fifo"

/** One entry in its only interpretation. Names are bytes (latin1 text), not yet checked as paths. */
export interface TarEntry {
  readonly type: TarEntryType
  readonly path: string
  /** Symlink text, or the path that a hard link names. */
  readonly linkPath: string
  /** Permission bits with setuid, setgid and sticky: 12 bits. */
  readonly mode: number
  readonly uid: number
  readonly gid: number
  /** Bytes of content that follow; 0 for everything but files. */
  readonly size: number
  readonly mtime: PaxTime
  readonly devmajor: number
  readonly devminor: number
  readonly xattrs: ReadonlyMap<string, Buffer> | undefined
}

/** Receives the stream's parts in order. `bytes` is only valid during the call. */
export interface TarHandler {
  entry(entry: TarEntry): void
  data(bytes: Buffer): void
  entryEnd(): void
}

type State = "header" | "meta" | "data" | "padding" | "end"

/** Highest uid or gid; 2^32 - 1 means "no change" to chown and is no owner. */
const MAX_ID = 0xfffffffe
/** Largest size that an octal field holds. */
const MAX_OCTAL_SIZE = 0o77777777777

/**
 * Decodes a tar stream chunk by chunk, synchronously, without copying content. ustar, PAX, GNU long names and
 * old (V7) headers are read; where formats or programs disagree on the meaning of a stream it is refused.
 *
 * ```
 * header --meta entry--> meta --> padding --> header      (x, g, K, L: at most one of each before an entry)
 *    |---entry with content---> data --> padding --> header
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
  #pax: PaxRecords | undefined
  #longName: string | undefined
  #longLink: string | undefined

  constructor(handler: TarHandler, limits: ImageLimits) {
    this.#handler = handler
    this.#limits = limits
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
    const pending = this.#pax || this.#longName !== undefined || this.#longLink !== undefined
    if (this.#state === "end" || (this.#state === "header" && this.#filled === 0 && !pending)) return
    throw new ImageError("tar-truncated", `tar stream ends inside an entry at offset ${this.#offset}`, {
      at: this.#offset,
    })
  }

  #step(chunk: Buffer, at: number): number {
    const size = chunk.length - at
    switch (this.#state) {
      case "header":
        return this.#takeHeader(chunk, at, Math.min(size, TAR_BLOCK - this.#filled))
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

  #takeHeader(chunk: Buffer, at: number, size: number): number {
    if (size === TAR_BLOCK) {
      this.#header(chunk.subarray(at, at + TAR_BLOCK), this.#offset)
      return size
    }
    chunk.copy(this.#block, this.#filled, at, at + size)
    this.#filled += size
    if (this.#filled === TAR_BLOCK) {
      this.#filled = 0
      this.#header(this.#block, this.#offset + size - TAR_BLOCK)
    }
    return size
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
    switch (raw.typeflag) {
      case TYPEFLAG.pax:
      case TYPEFLAG.paxGlobal:
      case TYPEFLAG.gnuLongName:
      case TYPEFLAG.gnuLongLink:
        this.#startMeta(raw, at)
        return
    }
    this.#startEntry(raw, at)
  }

  #finish(at: number): void {
    if (this.#pax || this.#longName !== undefined || this.#longLink !== undefined) {
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
    const { typeflag } = raw
    const repeated =
      (typeflag === TYPEFLAG.pax &&
        (this.#pax || this.#longName !== undefined || this.#longLink !== undefined)) ||
      (typeflag === TYPEFLAG.gnuLongName && (this.#pax || this.#longName !== undefined)) ||
      (typeflag === TYPEFLAG.gnuLongLink && (this.#pax || this.#longLink !== undefined)) ||
      (typeflag === TYPEFLAG.paxGlobal &&
        (this.#pax || this.#longName !== undefined || this.#longLink !== undefined))
    if (repeated)
      throw new ImageError("tar-pax", `two extension headers for one entry at offset ${at}`, { at })
    checkLimit("entries", ++this.#entries, 2 * this.#limits.entries, "headers of the tar stream")
    this.#metaType = typeflag
    this.#begin("meta", raw.size)
    if (raw.size === 0) this.#endMeta()
  }

  #startEntry(raw: RawHeader, at: number): void {
    const entry = this.#combine(raw, at)
    this.#pax = this.#longName = this.#longLink = undefined
    checkLimit("entries", ++this.#entries, 2 * this.#limits.entries, "headers of the tar stream")
    this.#handler.entry(entry)
    this.#begin("data", entry.size)
    if (entry.size === 0) this.#endData()
  }

  #combine(raw: RawHeader, at: number): TarEntry {
    const pax = this.#pax
    const path = pax?.path ?? this.#longName ?? raw.name
    const linkPath = pax?.linkpath ?? this.#longLink ?? raw.linkname
    const size = agreedSize(raw, pax, at)
    const type = entryType(raw.typeflag, path, at)
    if (size !== 0 && type !== "file") {
      throw new ImageError("tar-size", `${type} ${printable(path)} has ${size} bytes of content`, {
        at,
        size,
      })
    }
    const { devmajor, devminor } = raw
    return {
      type,
      path,
      linkPath: type === "link" || type === "symlink" ? linkPath : "",
      mode: raw.mode & 0o7777,
      uid: owner(pax?.uid ?? raw.uid, at),
      gid: owner(pax?.gid ?? raw.gid, at),
      size,
      mtime: pax?.mtime ?? { seconds: raw.mtime, nanoseconds: 0 },
      devmajor,
      devminor,
      xattrs: pax?.xattrs,
    }
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
    const body = Buffer.concat(this.#meta)
    this.#meta = []
    switch (this.#metaType) {
      case TYPEFLAG.pax:
        this.#pax = parsePax(body, this.#limits.xattrBytes)
        break
      case TYPEFLAG.paxGlobal:
        checkGlobalPax(body)
        break
      case TYPEFLAG.gnuLongName:
        this.#longName = longText(body)
        break
      default:
        this.#longLink = longText(body)
    }
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

/** PAX wins, as POSIX says, but a writer that could have written the same size into the header must have. */
function agreedSize(raw: RawHeader, pax: PaxRecords | undefined, at: number): number {
  if (pax?.size === undefined || pax.size === raw.size) return raw.size
  if (pax.size <= MAX_OCTAL_SIZE) {
    throw new ImageError(
      "tar-disagrees",
      `tar header says ${raw.size} bytes, its PAX header ${pax.size}, at offset ${at}`,
      {
        at,
        header: raw.size,
        pax: pax.size,
      },
    )
  }
  return pax.size
}

function entryType(typeflag: number, path: string, at: number): TarEntryType {
  switch (typeflag) {
    case TYPEFLAG.oldFile:
      return path.endsWith("/") ? "directory" : "file"
    case TYPEFLAG.file:
    case TYPEFLAG.contiguous:
      return "file"
    case TYPEFLAG.link:
      return "link"
    case TYPEFLAG.symlink:
      return "symlink"
    case TYPEFLAG.char:
      return "char"
    case TYPEFLAG.block:
      return "block"
    case TYPEFLAG.directory:
      return "directory"
    case TYPEFLAG.fifo:
      return "fifo"
    case TYPEFLAG.gnuSparse:
      throw new ImageError(
        "tar-sparse",
        `sparse file ${printable(path)} in GNU's old format is not supported`,
        { at },
      )
  }
  throw new ImageError("tar-type", `unknown tar entry type 0x${typeflag.toString(16)} at offset ${at}`, {
    at,
    typeflag,
  })
}

function owner(id: number, at: number): number {
  if (id >= 0 && id <= MAX_ID) return id
  throw new ImageError("tar-number", `owner ${id} is out of range at offset ${at}`, { at, id })
}

/** GNU long names end in one NUL; a NUL before that would cut the name short for some readers. */
function longText(body: Buffer): string {
  const end = body.length > 0 && body[body.length - 1] === 0 ? body.length - 1 : body.length
  const text = body.toString("latin1", 0, end)
  if (text === "" || text.includes("\0")) throw new ImageError("tar-pax", "long name is empty or has a NUL")
  return text
}

function trailingData(at: number): ImageError {
  return new ImageError("tar-trailing-data", `data after the end of the tar stream at offset ${at}`, { at })
}
