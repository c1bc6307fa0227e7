import { ImageError } from "../errors.js"
import type { ImageLimits } from "../limits.js"
import { checkGlobalPax, type PaxRecords, parsePax } from "./pax.js"
import { TYPEFLAG } from "./tar-header.js"

/** What extension headers said about the entry after them. */
export interface EntryExtensions {
  readonly pax: PaxRecords | undefined
  readonly longName: string | undefined
  readonly longLink: string | undefined
}

const NONE: EntryExtensions = { pax: undefined, longName: undefined, longLink: undefined }

/** Whether an entry of this type says something about the entry after it. */
export function isExtension(typeflag: number): boolean {
  switch (typeflag) {
    case TYPEFLAG.pax:
    case TYPEFLAG.paxGlobal:
    case TYPEFLAG.gnuLongName:
    case TYPEFLAG.gnuLongLink:
      return true
  }
  return false
}

/** Collects the extension headers before an entry: at most one of a kind, and never PAX with GNU's. */
export class TarExtensions {
  readonly #limits: ImageLimits
  #next: EntryExtensions = NONE

  constructor(limits: ImageLimits) {
    this.#limits = limits
  }

  /** Whether an entry has to follow. */
  get isPending(): boolean {
    return this.#next !== NONE
  }

  /**
   * Refuses a header that repeats or contradicts one that is there.
   *
   * @param at - its offset in the stream, for messages
   * @throws ImageError `tar-pax`
   */
  expect(typeflag: number, at: number): void {
    const { pax, longName, longLink } = this.#next
    // Of two headers, only one long name and one long link go together.
    const isClear =
      typeflag === TYPEFLAG.gnuLongName
        ? !pax && longName === undefined
        : typeflag === TYPEFLAG.gnuLongLink
          ? !pax && longLink === undefined
          : !this.isPending
    if (!isClear)
      throw new ImageError("tar-pax", `two extension headers for one entry at offset ${at}`, { at })
  }

  /** @throws ImageError `tar-pax`, and what {@link parsePax} throws */
  add(typeflag: number, body: Buffer): void {
    switch (typeflag) {
      case TYPEFLAG.pax:
        this.#next = { ...this.#next, pax: parsePax(body, this.#limits.xattrBytes) }
        break
      case TYPEFLAG.paxGlobal:
        checkGlobalPax(body)
        break
      case TYPEFLAG.gnuLongName:
        this.#next = { ...this.#next, longName: longText(body) }
        break
      case TYPEFLAG.gnuLongLink:
        this.#next = { ...this.#next, longLink: longText(body) }
    }
  }

  /** Hands out what there is for the entry that has come. */
  take(): EntryExtensions {
    const taken = this.#next
    this.#next = NONE
    return taken
  }
}

/** GNU long names end in one NUL; a NUL before that would cut the name short for some readers. */
function longText(body: Buffer): string {
  const end = body.length > 0 && body[body.length - 1] === 0 ? body.length - 1 : body.length
  const text = body.toString("latin1", 0, end)
  if (text === "" || text.includes("\0")) throw new ImageError("tar-pax", "long name is empty or has a NUL")
  return text
}
