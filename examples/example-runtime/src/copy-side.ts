import { CliError } from "./exit.js"

/** One side of `cp`. */
export type CopySide =
  | { readonly kind: "stream" }
  | { readonly kind: "host"; readonly path: string }
  | { readonly kind: "sandbox"; readonly name: string; readonly path: string }

/** One side of `cp` as docker reads it: `-`, `SANDBOX:PATH`, or a path, which begins with `/` or `.` if it has a colon. */
export function parseCopySide(text: string): CopySide {
  if (text === "-") return { kind: "stream" }
  const colon = text.indexOf(":")
  if (colon < 0 || /^[/.]/.test(text)) {
    if (text === "") throw new CliError('invalid path "": it is empty')
    return { kind: "host", path: text }
  }
  const [name, path] = [text.slice(0, colon), text.slice(colon + 1)]
  if (name === "" || path === "")
    throw new CliError(
      `invalid ${JSON.stringify(text)}: give SANDBOX:PATH, or a path that begins with / or .`,
    )
  return { kind: "sandbox", name, path }
}
