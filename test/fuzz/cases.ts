import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"

const CORPUS = fileURLToPath(new URL("corpus", import.meta.url))
/** Where failing cases and crash notes go. */
export const FOUND = join(tmpdir(), "ts-vmm-fuzz")

/** One file of `corpus/<target>/`: a case that failed once, and what about it. */
export interface SavedCase<C> {
  readonly note: string
  readonly case: C
}

/** A case as JSON: byte arrays and bigints survive. */
export function encodeCase(value: unknown): string {
  return JSON.stringify(
    value,
    (_, part: unknown) => {
      if (typeof part === "bigint") return { $bigint: part.toString() }
      if (part instanceof Uint8Array) return { $base64: Buffer.from(part).toString("base64") }
      return part
    },
    1,
  )
}

export function decodeCase<C>(text: string): C {
  return JSON.parse(text, (_, part: unknown) => {
    if (typeof part !== "object" || part === null) return part
    if ("$bigint" in part) return BigInt(part.$bigint as string)
    if ("$base64" in part) return new Uint8Array(Buffer.from(part.$base64 as string, "base64"))
    return part
  }) as C
}

/** The committed cases of a target, by file name. */
export function corpusOf<C>(target: string): [name: string, saved: SavedCase<C>][] {
  let names: string[]
  try {
    names = readdirSync(join(CORPUS, target)).sort()
  } catch {
    return []
  }
  return names.map(name => [name, decodeCase<SavedCase<C>>(readFileSync(join(CORPUS, target, name), "utf8"))])
}

/** Keeps a failing case for the corpus. @returns its path */
export function saveCase(target: string, name: string, note: string, value: unknown): string {
  mkdirSync(FOUND, { recursive: true })
  const path = join(FOUND, `${target}-${name}.json`)
  writeFileSync(path, encodeCase({ note, case: value }))
  return path
}
