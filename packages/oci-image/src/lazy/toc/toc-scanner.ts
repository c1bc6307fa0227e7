import { isImageError } from "../../errors.js"
import { Fields, parseJson } from "../../spec/json.js"
import { invalidToc } from "./toc-place.js"

/** Most bytes of one entry: a long path, and all attributes a file may have. */
const ENTRY_MAX = 256 * 1024
/** Most bytes of what is around the entries: two for each. */
const FRAME_MAX = 4 * 1024 * 1024

const QUOTE = 0x22
const BACKSLASH = 0x5c
const COMMA = 0x2c
const OPEN_OBJECT = 0x7b
const CLOSE_OBJECT = 0x7d
const OPEN_ARRAY = 0x5b
const CLOSE_ARRAY = 0x5d
const SEPARATOR = Buffer.from(",")
/** Stands for an entry in what is around them. */
const PLACE = Buffer.from("0")
/** Where entries are: in an array of the document. */
const ENTRIES_DEPTH = 2

/**
 * Takes a table of contents apart while it comes: `{"version": 1, "entries": [{…}, …]}`. Each entry is parsed alone, so
 * that memory does not grow with the table; what is around them is parsed at the end, with a `0` for each.
 */
export class TocScanner {
  readonly #onEntry: (entry: unknown) => void
  /** Open objects and arrays. */
  #depth = 0
  #inText = false
  #isEscaped = false
  #entry: Buffer[] | undefined
  #entryBytes = 0
  #entries = 0
  #frame: Buffer = Buffer.allocUnsafe(4096)
  #frameBytes = 0

  /** @param onEntry - takes each entry, parsed, in order */
  constructor(onEntry: (entry: unknown) => void) {
    this.#onEntry = onEntry
  }

  /** @throws ImageError `toc-invalid`, and what `onEntry` throws */
  push(chunk: Buffer): void {
    let start = 0
    for (let at = 0; at < chunk.length; at++) {
      const byte = chunk[at] as number
      if (this.#inText) this.#text(byte)
      else if (byte === QUOTE) this.#inText = true
      else if (byte === OPEN_OBJECT || byte === OPEN_ARRAY) {
        if (this.#depth++ === ENTRIES_DEPTH && byte === OPEN_OBJECT) {
          this.#around(chunk.subarray(start, at))
          this.#entry = []
          start = at
        }
      } else if (byte === CLOSE_OBJECT || byte === CLOSE_ARRAY) {
        if (--this.#depth === ENTRIES_DEPTH && this.#entry) {
          this.#inside(chunk.subarray(start, at + 1))
          this.#endEntry()
          start = at + 1
        }
      }
    }
    const rest = chunk.subarray(start)
    if (this.#entry) this.#inside(rest)
    else this.#around(rest)
  }

  /** Says that the table has ended. @throws ImageError `toc-invalid` unless it is a whole one */
  end(): void {
    const frame = new Fields(
      parse(this.#frame.subarray(0, this.#frameBytes)),
      "table of contents",
      "toc-invalid",
    )
    if (frame.raw("version") !== 1) throw invalidToc("its version is not 1")
    const entries = frame.array("entries", Number.POSITIVE_INFINITY)
    // Objects that stand anywhere else would have been taken for entries.
    if (entries?.length !== this.#entries || entries.some(entry => entry !== 0))
      throw invalidToc("something else stands where entries should")
  }

  #text(byte: number): void {
    if (this.#isEscaped) this.#isEscaped = false
    else if (byte === BACKSLASH) this.#isEscaped = true
    else if (byte === QUOTE) this.#inText = false
  }

  #inside(bytes: Buffer): void {
    this.#entryBytes += bytes.length
    if (this.#entryBytes > ENTRY_MAX) throw invalidToc(`an entry has more than ${ENTRY_MAX} bytes`)
    this.#entry?.push(Buffer.from(bytes))
  }

  #endEntry(): void {
    const entry = parse(Buffer.concat(this.#entry as Buffer[]))
    this.#entry = undefined
    this.#entryBytes = 0
    this.#entries++
    this.#around(PLACE)
    this.#onEntry(entry)
  }

  #around(bytes: Buffer): void {
    // A table that is indented has much space between its entries.
    const kept = bytes.length > 1 && isSeparator(bytes) ? SEPARATOR : bytes
    const size = this.#frameBytes + kept.length
    if (size > FRAME_MAX) throw invalidToc("there is too much around its entries")
    if (size > this.#frame.length) this.#frame = Buffer.concat([this.#frame], 2 * size)
    kept.copy(this.#frame, this.#frameBytes)
    this.#frameBytes = size
  }
}

/** Whether it is one comma between spaces. */
function isSeparator(bytes: Buffer): boolean {
  let commas = 0
  for (const byte of bytes) {
    if (byte === COMMA) commas++
    else if (byte !== 0x20 && byte !== 0x0a && byte !== 0x0d && byte !== 0x09) return false
  }
  return commas === 1
}

function parse(bytes: Buffer): unknown {
  try {
    return parseJson(bytes, "a part of it")
  } catch (cause) {
    throw invalidToc(isImageError(cause) ? cause.message : "cannot be parsed", cause)
  }
}
