import { ImageError, printable } from "../errors.js"
import type { PaxRecords, PaxTime } from "./pax.js"
import type { SparseRegion } from "./sparse-map.js"
import type { EntryExtensions } from "./tar-extensions.js"
import { type RawHeader, TYPEFLAG } from "./tar-header.js"

/** What a tar entry is. */
export type TarEntryType = "file" | "link" | "symlink" | "char" | "block" | "directory" | "fifo"

/** One entry in its only interpretation. Names are bytes (latin1 text), not yet checked as paths. */
export interface TarEntry {
  readonly type: TarEntryType
  readonly path: string
  /** Symlink text, or the path that a hard link names. */
  readonly linkPath: string
  /** Permission bits with setuid, setgid and sticky: 12 bits. */
  readonly mode: number
  readonly uid: number
  readonly gid: number
  /** Bytes of content, which follow unless the file is sparse; 0 for everything but files. */
  readonly size: number
  readonly mtime: PaxTime
  readonly devmajor: number
  readonly devminor: number
  readonly xattrs: ReadonlyMap<string, Buffer> | undefined
  /** Sparse files: which parts of the content follow, in order, none of them empty. */
  readonly sparse: readonly SparseRegion[] | undefined
}

/** Highest uid or gid; 2^32 - 1 means "no change" to chown and is no owner. */
export const MAX_ID = 0xfffffffe
/** Largest size that an octal field holds. */
const MAX_OCTAL_SIZE = 0o77777777777

/**
 * Puts a header and the extensions before it together.
 *
 * @param at - the header's offset in the stream, for messages
 * @throws ImageError `tar-size`, `tar-disagrees`, `tar-type`, `tar-number`
 */
export function combineEntry(raw: RawHeader, extensions: EntryExtensions, at: number): TarEntry {
  const { pax, longName, longLink } = extensions
  const path = pax?.path ?? longName ?? raw.name
  const linkPath = pax?.linkpath ?? longLink ?? raw.linkname
  const size = agreedSize(raw, pax, at)
  const type = entryType(raw.typeflag, path, at)
  if (size !== 0 && type !== "file") {
    throw new ImageError("tar-size", `${type} ${printable(path)} has ${size} bytes of content`, { at, size })
  }
  return {
    type,
    path,
    linkPath: type === "link" || type === "symlink" ? linkPath : "",
    mode: raw.mode & 0o7777,
    uid: owner(pax?.uid ?? raw.uid, at),
    gid: owner(pax?.gid ?? raw.gid, at),
    size,
    mtime: pax?.mtime ?? { seconds: raw.mtime, nanoseconds: 0 },
    devmajor: raw.devmajor,
    devminor: raw.devminor,
    xattrs: pax?.xattrs,
    sparse: undefined,
  }
}

/** PAX wins, as POSIX says, but a writer that could have written the same size into the header must have. */
function agreedSize(raw: RawHeader, pax: PaxRecords | undefined, at: number): number {
  if (pax?.size === undefined || pax.size === raw.size) return raw.size
  if (pax.size <= MAX_OCTAL_SIZE) {
    throw new ImageError(
      "tar-disagrees",
      `tar header says ${raw.size} bytes, its PAX header ${pax.size}, at offset ${at}`,
      { at, header: raw.size, pax: pax.size },
    )
  }
  return pax.size
}

function entryType(typeflag: number, path: string, at: number): TarEntryType {
  switch (typeflag) {
    case TYPEFLAG.oldFile:
      return path.endsWith("/") ? "directory" : "file"
    case TYPEFLAG.file:
    case TYPEFLAG.contiguous:
    case TYPEFLAG.gnuSparse:
      return "file"
    case TYPEFLAG.link:
      return "link"
    case TYPEFLAG.symlink:
      return "symlink"
    case TYPEFLAG.char:
      return "char"
    case TYPEFLAG.block:
      return "block"
    case TYPEFLAG.directory:
      return "directory"
    case TYPEFLAG.fifo:
      return "fifo"
  }
  throw new ImageError("tar-type", `unknown tar entry type 0x${typeflag.toString(16)} at offset ${at}`, {
    at,
    typeflag,
  })
}

function owner(id: number, at: number): number {
  if (id >= 0 && id <= MAX_ID) return id
  throw new ImageError("tar-number", `owner ${id} is out of range at offset ${at}`, { at, id })
}
