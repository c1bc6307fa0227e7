import { readFileSync } from "node:fs"

/** A file that scripts/make-fixtures.mjs made. */
export function fixture(name: string): Uint8Array {
  return readFileSync(new URL(`../../test/fixtures/${name}`, import.meta.url))
}
