import { CniError, type CniErrorCode } from "./errors.js"

/** An object of JSON, not yet looked at. */
export type JsonObject = Readonly<Record<string, unknown>>

/** Deeper than any configuration: writing what was read is recursive, and must not run out of stack. */
const MAX_DEPTH = 64

/** Reads fields of one document and names the field that is wrong. */
export class Reader {
  readonly #code: CniErrorCode
  readonly #what: string

  /** @param what - whose document it is, for messages */
  constructor(code: CniErrorCode, what: string) {
    this.#code = code
    this.#what = what
  }

  error(why: string): CniError {
    return new CniError(this.#code, `${this.#what}: ${why}`)
  }

  /** @throws CniError with the reader's code */
  parse(text: string): JsonObject {
    if (depthOf(text) > MAX_DEPTH) throw this.error(`nested more than ${MAX_DEPTH} deep`)
    try {
      return this.object(JSON.parse(text), "it")
    } catch (error) {
      if (error instanceof CniError) throw error
      throw this.error("not JSON")
    }
  }

  object(value: unknown, where: string): JsonObject {
    if (typeof value === "object" && value !== null && !Array.isArray(value)) return value as JsonObject
    throw this.error(`${where} is no object`)
  }

  /** Go writes null for a list that is none. */
  list(value: unknown, where: string, most: number): readonly unknown[] {
    if (value === undefined || value === null) return []
    if (!Array.isArray(value)) throw this.error(`${where} is no list`)
    if (value.length > most) throw this.error(`${where} has ${value.length} entries, more than ${most}`)
    return value
  }

  objects(value: unknown, where: string, most: number): readonly JsonObject[] {
    return this.list(value, where, most).map((one, index) => this.object(one, `${where}[${index}]`))
  }

  /** Undefined for what is absent, null or empty. */
  optional<T extends string>(value: unknown, where: string, is: (text: unknown) => text is T): T | undefined {
    if (value === undefined || value === null || value === "") return undefined
    if (is(value)) return value
    throw this.error(`${where} is ${shown(value)}`)
  }
}

/** A value for a message: short, and in one line. */
export function shown(value: unknown): string {
  const text = typeof value === "string" ? JSON.stringify(value.slice(0, 80)) : `of type ${typeof value}`
  return `not right: ${text}`
}

/** How deep brackets are nested outside of strings. */
function depthOf(text: string): number {
  let depth = 0
  let deepest = 0
  let isString = false
  for (let i = 0; i < text.length; i++) {
    const c = text[i]
    if (isString && c === "\\") i++
    else if (c === '"') isString = !isString
    else if (!isString && (c === "{" || c === "[")) deepest = Math.max(deepest, ++depth)
    else if (!isString && (c === "}" || c === "]")) depth--
  }
  return deepest
}
