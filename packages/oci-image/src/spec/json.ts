import { ImageError, type ImageErrorCode } from "../errors.js"

/** A JSON object of which nothing is known yet. */
export type JsonObject = { readonly [key: string]: unknown }

/** Strict UTF-8: a byte order mark or a bad sequence is an error, not a replacement character. */
const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true })

/**
 * Parses a document.
 *
 * @param bytes - the document, already bounded by the caller
 * @param what - names it in messages
 * @throws ImageError `json-invalid`
 */
export function parseJson(bytes: Uint8Array, what: string): unknown {
  try {
    return JSON.parse(utf8.decode(bytes))
  } catch (cause) {
    // The parser's own message quotes the document, which may be anything: it stays in the cause.
    throw new ImageError("json-invalid", `${what} is not JSON`, {}, { cause })
  }
}

/** Parses a document that must be one JSON object. @throws ImageError `json-invalid` */
export function parseJsonObject(bytes: Uint8Array, what: string): JsonObject {
  const value = parseJson(bytes, what)
  if (isObject(value)) return value
  throw new ImageError("json-invalid", `${what} is not a JSON object`)
}

export function isObject(value: unknown): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value)
}

/** Reads typed fields of one untrusted object; every refusal names the field. */
export class Fields {
  readonly #object: JsonObject
  readonly #what: string
  readonly #code: ImageErrorCode

  constructor(value: unknown, what: string, code: ImageErrorCode) {
    if (!isObject(value)) throw new ImageError(code, `${what} is not an object`)
    this.#object = value
    this.#what = what
    this.#code = code
  }

  /** The error for field `key`. */
  bad(key: string, why: string): ImageError {
    return new ImageError(this.#code, `${this.#what}: ${key} ${why}`, { field: key })
  }

  /** The raw value; inherited properties do not count and `null` reads as absent. */
  raw(key: string): unknown {
    return Object.hasOwn(this.#object, key) ? (this.#object[key] ?? undefined) : undefined
  }

  has(key: string): boolean {
    return this.raw(key) !== undefined
  }

  /** An optional string of at most `max` UTF-16 units without NUL. */
  string(key: string, max = 4096): string | undefined {
    const value = this.raw(key)
    return value === undefined ? undefined : this.#text(key, value, max)
  }

  /** A size or count: an integer in `[0, 2^53)`. */
  count(key: string): number {
    const value = this.raw(key)
    if (typeof value === "number" && Number.isSafeInteger(value) && value >= 0) return value
    throw this.bad(key, "is not a whole number")
  }

  /** An optional size or count, `absent` when it is not there. */
  countOr(key: string, absent: number): number {
    return this.has(key) ? this.count(key) : absent
  }

  /** An optional array of at most `max` items. */
  array(key: string, max: number): readonly unknown[] | undefined {
    const value = this.raw(key)
    if (value === undefined) return undefined
    if (!Array.isArray(value)) throw this.bad(key, "is not an array")
    if (value.length > max) throw this.bad(key, `has ${value.length} items, more than ${max}`)
    return value
  }

  strings(key: string, maxItems = 4096, maxLength = 131072): string[] | undefined {
    return this.array(key, maxItems)?.map(item => this.#text(key, item, maxLength))
  }

  /** An optional object whose values are strings. */
  stringMap(key: string, maxItems = 4096, maxLength = 131072): Record<string, string> | undefined {
    const value = this.raw(key)
    if (value === undefined) return undefined
    const entries = this.#entries(key, value, maxItems)
    return Object.fromEntries(entries.map(([name, text]) => [name, this.#text(key, text, maxLength)]))
  }

  /** The keys of an optional object (how Docker writes a set). */
  keySet(key: string, maxItems = 4096): string[] | undefined {
    const value = this.raw(key)
    return value === undefined
      ? undefined
      : this.#entries(key, value, maxItems).map(([name]) => this.#text(key, name, 4096))
  }

  #entries(key: string, value: unknown, maxItems: number): [string, unknown][] {
    if (!isObject(value)) throw this.bad(key, "is not an object")
    const entries = Object.entries(value)
    if (entries.length > maxItems) throw this.bad(key, `has ${entries.length} items, more than ${maxItems}`)
    return entries
  }

  #text(key: string, value: unknown, max: number): string {
    if (typeof value !== "string") throw this.bad(key, "is not text")
    if (value.length > max) throw this.bad(key, `has ${value.length} characters, more than ${max}`)
    if (value.includes("\0")) throw this.bad(key, "has a NUL character")
    return value
  }
}
