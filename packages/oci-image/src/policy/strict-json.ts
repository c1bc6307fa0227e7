import { type ImageError, printable } from "../errors.js"

/** A JSON value that knows where in its document it stands. */
export interface PlacedJson {
  readonly value: string | number | boolean | null | readonly PlacedJson[] | ReadonlyMap<string, PlacedJson>
  /** From 1. */
  readonly line: number
  /** `rules[2].images`; empty for the whole document. */
  readonly path: string
}

/** Makes the error for something at a place. */
export type Refuse = (at: Pick<PlacedJson, "line" | "path">, why: string) => ImageError

/** Deeper than any document that is read here. */
const DEPTH_MAX = 16
const SPACE = /[ \t\n\r]*/y
/** Up to its end; what is lawful inside, `JSON.parse` knows. */
const STRING = /"(?:[^"\\]|\\.)*"/y
const WORD = /-?\d[\d.eE+-]*|true|false|null/y
const PLAIN_KEY = /^[\w-]+$/

/**
 * Parses JSON so that it has one meaning only, and every refusal a place: a key that occurs twice, which `JSON.parse`
 * takes silently, is an error.
 *
 * @param bytes - the document, already bounded by the caller
 * @throws what `refuse` makes
 * @see RFC 8259; RFC 7493, 2.3 (no duplicate names)
 */
export function parseStrictJson(bytes: Uint8Array, refuse: Refuse): PlacedJson {
  let text: string
  try {
    // A byte order mark stays, and is refused like any other text before the document.
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes)
  } catch {
    throw refuse({ line: 1, path: "" }, "is not UTF-8 text")
  }
  return new StrictParser(text, refuse).document()
}

class StrictParser {
  readonly #text: string
  readonly #refuse: Refuse
  #at = 0
  #line = 1

  constructor(text: string, refuse: Refuse) {
    this.#text = text
    this.#refuse = refuse
  }

  document(): PlacedJson {
    const value = this.#value("", 0)
    if (this.#peek() !== "") throw this.#bad("", "has more behind its end")
    return value
  }

  #value(path: string, depth: number): PlacedJson {
    const next = this.#peek()
    const line = this.#line
    if (depth > DEPTH_MAX) throw this.#bad(path, `is nested more than ${DEPTH_MAX} deep`)
    if (next === "{") return { value: this.#object(path, depth), line, path }
    if (next === "[") return { value: this.#array(path, depth), line, path }
    if (next === "") throw this.#bad(path, "ends too early")
    return { value: this.#take(next === '"' ? STRING : WORD, path), line, path }
  }

  #object(path: string, depth: number): ReadonlyMap<string, PlacedJson> {
    const entries = new Map<string, PlacedJson>()
    for (const _ of this.#items("{", "}", path)) {
      if (this.#peek() !== '"') throw this.#bad(path, "is not JSON here: a name in quotes is missing")
      const key = this.#take(STRING, path) as string
      const shown = PLAIN_KEY.test(key) ? key : printable(key)
      const inner = path === "" ? shown : `${path}.${shown}`
      if (entries.has(key)) throw this.#bad(inner, "is there twice")
      this.#expect(":", inner)
      entries.set(key, this.#value(inner, depth + 1))
    }
    return entries
  }

  #array(path: string, depth: number): readonly PlacedJson[] {
    const items: PlacedJson[] = []
    for (const _ of this.#items("[", "]", path))
      items.push(this.#value(`${path}[${items.length}]`, depth + 1))
    return items
  }

  /** Steps through what stands between brackets; the caller reads each item. */
  *#items(open: string, close: string, path: string): Generator<void> {
    this.#expect(open, path)
    if (this.#skip(close)) return
    do yield
    while (this.#skip(","))
    this.#expect(close, path)
  }

  #expect(character: string, path: string): void {
    if (!this.#skip(character)) throw this.#bad(path, `is not JSON here: ${character} is missing`)
  }

  #skip(character: string): boolean {
    if (this.#peek() !== character) return false
    this.#at++
    return true
  }

  /** The next character that is no white space; empty at the end. */
  #peek(): string {
    SPACE.lastIndex = this.#at
    const space = SPACE.exec(this.#text)?.[0] ?? ""
    this.#at += space.length
    for (const character of space) if (character === "\n") this.#line++
    return this.#text[this.#at] ?? ""
  }

  #take(pattern: RegExp, path: string): string | number | boolean | null {
    pattern.lastIndex = this.#at
    const token = pattern.exec(this.#text)?.[0] ?? ""
    this.#at += token.length
    try {
      return JSON.parse(token)
    } catch {
      throw this.#bad(path, "is not JSON here")
    }
  }

  #bad(path: string, why: string): ImageError {
    return this.#refuse({ line: this.#line, path }, why)
  }
}

/** Reads values of known kinds out of a {@link PlacedJson}. */
export class StrictReader {
  readonly #refuse: Refuse

  constructor(refuse: Refuse) {
    this.#refuse = refuse
  }

  /** The error for a place. */
  bad(at: PlacedJson, why: string): ImageError {
    return this.#refuse(at, why)
  }

  /** An object that has no other keys than `keys`; without them any. */
  object(at: PlacedJson, keys?: readonly string[]): ReadonlyMap<string, PlacedJson> {
    if (!(at.value instanceof Map)) throw this.bad(at, "is not an object")
    for (const [key, inner] of at.value as ReadonlyMap<string, PlacedJson>)
      if (keys && !keys.includes(key)) throw this.bad(inner, `is unknown; there is: ${keys.join(", ")}`)
    return at.value
  }

  /** A list of at most `max` items. */
  list(at: PlacedJson, max: number): readonly PlacedJson[] {
    if (!Array.isArray(at.value)) throw this.bad(at, "is not a list")
    if (at.value.length > max) throw this.bad(at, `has ${at.value.length} items, more than ${max}`)
    return at.value
  }

  /** A text of at most `max` characters without NUL. */
  text(at: PlacedJson, max: number): string {
    if (typeof at.value !== "string") throw this.bad(at, "is not a text")
    if (at.value.length > max) throw this.bad(at, `has ${at.value.length} characters, more than ${max}`)
    if (at.value.includes("\0")) throw this.bad(at, "has a NUL character")
    return at.value
  }

  /** What `key` of an object is. */
  need(at: PlacedJson, object: ReadonlyMap<string, PlacedJson>, key: string): PlacedJson {
    const found = object.get(key)
    if (found) return found
    throw this.bad(at, `has no ${key}`)
  }
}
