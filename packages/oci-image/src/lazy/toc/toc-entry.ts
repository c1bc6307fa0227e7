import { type Digest, digestHex, parseDigest } from "../../digest.js"
import { MAX_ID, type TarEntry, type TarEntryType } from "../../layer/tar-entry.js"
import { checkLimit, type ImageLimits } from "../../limits.js"
import { Fields } from "../../spec/json.js"
import { invalidToc } from "./toc-place.js"

const TYPES: ReadonlyMap<string, TarEntryType> = new Map<string, TarEntryType>([
  ["reg", "file"],
  ["dir", "directory"],
  ["symlink", "symlink"],
  ["hardlink", "link"],
  ["char", "char"],
  ["block", "block"],
  ["fifo", "fifo"],
])
/** JSON cannot carry a name that is not UTF-8: writers put this in its place, and the name is lost. */
const REPLACEMENT = "\ufffd"
const XATTR_NAME_MAX = 255
const XATTR_VALUE_MAX = 0xffff
/** @see RFC 3339, 5.6 */
const TIME = /^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)$/

/** A piece of a file's content, as a table of contents tells of it. */
export interface TocChunk {
  /** Path of its file. */
  readonly path: string
  /** Where it stands in the file, and how many bytes it has; 0: all that is left. */
  readonly at: number
  readonly size: number
  /** Where what it is packed in begins in the blob, and what of that unpacks before it. */
  readonly offset: number
  readonly skip: number
  /** SHA-256 of the chunk; of its file, when it is the whole file's. */
  readonly digest: Buffer | undefined
  readonly fileDigest: Buffer | undefined
  /** Of nothing but zeros: there is nothing to fetch. */
  readonly isZeros: boolean
}

/** An entry of a table of contents: one of the tar stream, or a further chunk of the file before it. */
export type TocEntry =
  | { readonly kind: "tar"; readonly entry: TarEntry; readonly chunk: TocChunk | undefined }
  | { readonly kind: "chunk"; readonly chunk: TocChunk }

/**
 * Reads an entry in its only interpretation. Names are not checked as paths yet, nor chunks against each other.
 *
 * @throws ImageError `toc-invalid`, `digest-invalid`, `limit`
 * @see docs/estargz.md of `containerd/stargz-snapshotter`, "TOCEntry"
 */
export function readTocEntry(json: unknown, limits: ImageLimits): TocEntry {
  const fields = new Fields(json, "entry of a table of contents", "toc-invalid")
  const type = fields.string("type", 16) ?? ""
  const path = bytesText(fields, "name", limits) || "."
  const size = fields.countOr("size", 0)
  if (type === "chunk") return { kind: "chunk", chunk: readChunk(fields, path) }
  const known = TYPES.get(type)
  if (!known) throw fields.bad("type", "is unknown")
  if (size > 0 && known !== "file") throw fields.bad("size", "is not that of a file")
  const entry = readEntry(fields, known, { path, size }, limits)
  return { kind: "tar", entry, chunk: size > 0 ? readChunk(fields, path) : undefined }
}

function readEntry(
  fields: Fields,
  type: TarEntryType,
  { path, size }: Pick<TarEntry, "path" | "size">,
  limits: ImageLimits,
): TarEntry {
  return {
    type,
    path,
    size,
    linkPath: type === "link" || type === "symlink" ? bytesText(fields, "linkName", limits) : "",
    // Some writers leave the kind of file in it.
    mode: fields.countOr("mode", 0) & 0o7777,
    uid: readOwner(fields, "uid"),
    gid: readOwner(fields, "gid"),
    mtime: readTime(fields),
    devmajor: fields.countOr("devMajor", 0),
    devminor: fields.countOr("devMinor", 0),
    xattrs: readXattrs(fields, limits),
    sparse: undefined,
  }
}

function readChunk(fields: Fields, path: string): TocChunk {
  return {
    path,
    at: fields.countOr("chunkOffset", 0),
    size: fields.countOr("chunkSize", 0),
    offset: fields.countOr("offset", 0),
    skip: fields.countOr("innerOffset", 0),
    digest: readDigest(fields, "chunkDigest"),
    fileDigest: readDigest(fields, "digest"),
    isZeros: fields.string("chunkType", 16) === "zeros",
  }
}

/** Text as the bytes that a tar stream has. */
function bytesText(fields: Fields, key: string, limits: ImageLimits): string {
  const text = fields.string(key, limits.pathBytes) ?? ""
  if (text.includes(REPLACEMENT)) throw fields.bad(key, "is not UTF-8")
  return Buffer.from(text).toString("latin1")
}

function readOwner(fields: Fields, key: string): number {
  const id = fields.countOr(key, 0)
  if (id > MAX_ID) throw fields.bad(key, "is out of range")
  return id
}

function readDigest(fields: Fields, key: string): Buffer | undefined {
  const text = fields.string(key, 256)
  if (!text) return undefined
  const digest: Digest = parseDigest(text)
  return Buffer.from(digestHex(digest), "hex")
}

function readTime(fields: Fields): TarEntry["mtime"] {
  const text = fields.string("modtime", 64)
  if (!text) return { seconds: 0, nanoseconds: 0 }
  const [, time, fraction = "", zone] = TIME.exec(text) ?? []
  const seconds = Date.parse(`${time}${zone}`) / 1000
  if (!Number.isSafeInteger(seconds)) throw fields.bad("modtime", "is not a time")
  return { seconds, nanoseconds: Number(fraction.padEnd(9, "0")) }
}

function readXattrs(fields: Fields, limits: ImageLimits): TarEntry["xattrs"] {
  const texts = fields.stringMap("xattrs")
  if (!texts) return undefined
  const xattrs = new Map(
    Object.entries(texts).map(([name, text]) => [
      Buffer.from(name).toString("latin1"),
      Buffer.from(text, "base64"),
    ]),
  )
  let bytes = 0
  for (const [name, value] of xattrs) {
    bytes += name.length + value.length
    if (name === "" || name.length > XATTR_NAME_MAX || value.length > XATTR_VALUE_MAX)
      throw invalidToc("an attribute's name or value is too long")
  }
  checkLimit("xattrBytes", bytes, limits.xattrBytes, "size of an entry's extended attributes")
  return xattrs.size > 0 ? xattrs : undefined
}
