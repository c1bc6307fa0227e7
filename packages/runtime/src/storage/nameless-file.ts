import { closeSync, constants, ftruncateSync, openSync, unlinkSync } from "node:fs"
import { join } from "node:path"

/** `O_TMPFILE` without `O_DIRECTORY`, asm-generic/fcntl.h; the same number on every architecture there is a Node for. */
const TMPFILE_BIT = 0o20000000

/** Of file systems that have no files without a name (Node says ENOTSUP for EOPNOTSUPP), or of folders that take none. */
const CANNOT: readonly (string | undefined)[] = ["ENOTSUP", "EISDIR", "ENOENT", "EACCES", "EPERM", "EROFS"]

/** A file that has no name, or none any more: it is gone when the last fd is closed, however that comes. */
export interface NamelessFile {
  readonly fd: number
  /** The folder on whose file system it lies. */
  readonly folder: string
}

/**
 * Makes a sparse file without a name, mode 0600, on the file system of `folder`; where that cannot be, one in `fallback`
 * whose name is taken away at once.
 *
 * @param size bytes
 */
export function makeNamelessFile(folder: string, fallback: string, size: number): NamelessFile {
  const file = openTemporary(folder) ?? openUnlinked(fallback)
  try {
    ftruncateSync(file.fd, size)
    return file
  } catch (error) {
    closeSync(file.fd)
    throw error
  }
}

function openTemporary(folder: string): NamelessFile | undefined {
  try {
    return { fd: openSync(folder, TMPFILE_BIT | constants.O_DIRECTORY | constants.O_RDWR, 0o600), folder }
  } catch (error) {
    if (CANNOT.includes((error as NodeJS.ErrnoException).code)) return undefined
    throw error
  }
}

function openUnlinked(folder: string): NamelessFile {
  const path = join(folder, "disk")
  const fd = openSync(path, constants.O_RDWR | constants.O_CREAT | constants.O_EXCL, 0o600)
  unlinkSync(path)
  return { fd, folder }
}
