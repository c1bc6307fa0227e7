import { ImageError, printable } from "../errors.js"
import { checkLimit, type ImageLimits } from "../limits.js"

/** Longest file name of Linux and of EROFS. */
export const NAME_MAX = 255

/** Names that start so are whiteouts. @see OCI image spec 1.1, layer.md, "Whiteouts" */
export const WHITEOUT_PREFIX = ".wh."
/** Hides everything that lower layers have in this directory. */
export const OPAQUE_WHITEOUT = ".wh..wh..opq"
/** AUFS book-keeping, to be ignored, as every reader does. */
const WHITEOUT_META_PREFIX = ".wh..wh."

/**
 * Splits an entry's path into components. Leading slashes and `.` components mean the root and nothing, as in
 * every reader of layers; `..` is refused, it has no business there.
 *
 * @param path - bytes (latin1 text) from the tar stream
 * @returns the components; none for the root itself
 * @throws ImageError `entry-name`, `entry-escapes`, `limit`
 */
export function splitPath(path: string, limits: ImageLimits): string[] {
  if (path === "" || path.includes("\0"))
    throw new ImageError("entry-name", `entry name is empty or has a NUL: ${printable(path)}`)
  checkLimit("pathBytes", path.length, limits.pathBytes, "length of an entry's path")
  const components: string[] = []
  for (const name of path.split("/")) {
    if (name === "" || name === ".") continue
    if (name === "..")
      throw new ImageError("entry-escapes", `entry name has "..": ${printable(path)}`, {
        path: printable(path),
      })
    if (name.length > NAME_MAX) {
      throw new ImageError("entry-name", `entry name is longer than ${NAME_MAX} bytes: ${printable(name)}`, {
        length: name.length,
      })
    }
    components.push(name)
  }
  checkLimit("depth", components.length, limits.depth, "depth of an entry")
  return components
}

/** What a file name says besides being a name. */
export type NameMeaning =
  | { readonly kind: "plain" }
  | { readonly kind: "opaque" }
  | { readonly kind: "ignored" }
  | { readonly kind: "whiteout"; readonly hides: string }

/**
 * Reads the whiteout conventions in a path.
 *
 * @param components - a checked path, not the root
 * @throws ImageError `whiteout` for a whiteout of nothing, of `.` or of `..`, and for one in the middle of a path
 */
export function nameMeaning(components: readonly string[]): NameMeaning {
  for (const [i, name] of components.entries()) {
    if (!name.startsWith(WHITEOUT_PREFIX)) continue
    const last = i === components.length - 1
    if (last && name === OPAQUE_WHITEOUT) return { kind: "opaque" }
    if (name.startsWith(WHITEOUT_META_PREFIX) && name !== OPAQUE_WHITEOUT) return { kind: "ignored" }
    const hides = name.slice(WHITEOUT_PREFIX.length)
    if (last && hides !== "" && hides !== "." && hides !== "..") return { kind: "whiteout", hides }
    throw new ImageError("whiteout", `wrong whiteout: ${printable(components.join("/"))}`, {
      path: printable(components.join("/")),
    })
  }
  return { kind: "plain" }
}
