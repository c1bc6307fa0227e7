import { mkdirSync, realpathSync, type Stats, statSync } from "node:fs"
import { basename, dirname, resolve } from "node:path"
import { copyError, fromCopyError } from "./copy-error.js"

/** `name` in `folder` takes the place of the copy's own first name; when it is empty, the folder itself does. */
export interface Landing {
  readonly folder: string
  readonly name: string
}

/** What is copied. */
export interface Landed {
  /** Its own name (text); `""` for the root of a container. */
  readonly name: string
  readonly isFolder: boolean
  /** Its contents are copied and not the folder. */
  readonly contents: boolean
}

/**
 * Where a copy lands on the host, by docker's rules. The target is the user's word: its links are followed.
 *
 * @throws SandboxError `copy-failed`
 */
export function findLanding(target: string, what: Landed): Landing {
  const there = look(target)
  if (there?.isDirectory()) return { folder: target, name: what.contents ? "" : what.name }
  if (there && what.isFolder) throw copyError(target, "cannot copy a directory to a file")
  if (there && !there.isFile()) throw copyError(target, "it is neither a folder nor a regular file")
  if (!there && !what.isFolder && target.endsWith("/")) throw copyError(target, "no such directory")
  const path = there ? realpathSync(target) : resolve(target)
  if (!look(dirname(path))?.isDirectory()) throw copyError(dirname(path), "no such directory")
  if (what.name !== "") return { folder: dirname(path), name: basename(path) }
  mkdirSync(path)
  return { folder: path, name: "" }
}

function look(path: string): Stats | undefined {
  try {
    return statSync(path, { throwIfNoEntry: false })
  } catch (error) {
    throw fromCopyError(error)
  }
}
