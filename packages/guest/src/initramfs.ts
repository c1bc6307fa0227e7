import { GuestError } from "./errors.js"

/**
 * One thing in an initramfs. Paths are relative to its root, without a leading slash; `mode` holds the
 * permission bits only. Owner is always root, and the time always 0, so that equal entries make equal bytes.
 */
export type InitramfsEntry =
  | { type: "file"; path: string; mode: number; data: Uint8Array }
  | { type: "directory"; path: string; mode: number }
  | { type: "symlink"; path: string; target: string }
  | { type: "character-device" | "block-device"; path: string; mode: number; major: number; minor: number }

const MAGIC = "070701"
const HEADER_SIZE = 110
const TRAILER = "TRAILER!!!"
const ALIGNMENT = 4
/** The kernel's PATH_MAX, with the closing NUL. */
const PATH_MAX = 4096
/** Sizes are eight hexadecimal digits. */
const FIELD_MAX = 0xffff_ffff

const FILE_TYPE = {
  file: 0o100000,
  directory: 0o040000,
  symlink: 0o120000,
  "character-device": 0o020000,
  "block-device": 0o060000,
} as const

/**
 * Writes an initramfs: a cpio archive in the "newc" format, uncompressed, reproducible.
 *
 * Parents have to come before what they hold: the kernel unpacks in order and makes no directories.
 *
 * @throws GuestError "invalid-argument" for a path the kernel could not unpack, or a value out of range
 * @see Documentation/driver-api/early-userspace/buffer-format.rst
 * @example
 * ```ts
 * const image = writeInitramfs([
 *   { type: "directory", path: "dev", mode: 0o755 },
 *   { type: "character-device", path: "dev/console", mode: 0o600, major: 5, minor: 1 },
 *   { type: "file", path: "init", mode: 0o755, data: await readFile("agent") },
 * ])
 * ```
 */
export function writeInitramfs(entries: readonly InitramfsEntry[]): Uint8Array {
  const seen = new Set<string>()
  const parts = entries.map((entry, index) => {
    checkPath(entry, seen)
    seen.add(entry.path)
    return encodeEntry(entry, index + 1)
  })
  parts.push(encodeRecord(TRAILER, new Uint8Array(), { ino: 0, mode: 0, nlink: 1 }))
  return Buffer.concat(parts)
}

function checkPath(entry: InitramfsEntry, seen: ReadonlySet<string>): void {
  const { path } = entry
  const names = path.split("/")
  const plain = names.every(name => name !== "" && name !== "." && name !== ".." && !name.includes("\0"))
  if (!plain || path === TRAILER || Buffer.byteLength(path) >= PATH_MAX) {
    throw new GuestError("invalid-argument", `initramfs path ${JSON.stringify(path)} cannot be unpacked`)
  }
  if (seen.has(path)) throw new GuestError("invalid-argument", `initramfs path ${path} occurs twice`)
  const parent = names.slice(0, -1).join("/")
  if (parent !== "" && !seen.has(parent)) {
    throw new GuestError("invalid-argument", `initramfs path ${path} comes before its directory`)
  }
}

function encodeEntry(entry: InitramfsEntry, ino: number): Uint8Array {
  const mode = FILE_TYPE[entry.type] | (entry.type === "symlink" ? 0o777 : entry.mode & 0o7777)
  switch (entry.type) {
    case "file":
      return encodeRecord(entry.path, entry.data, { ino, mode, nlink: 1 })
    case "directory":
      return encodeRecord(entry.path, new Uint8Array(), { ino, mode, nlink: 2 })
    case "symlink":
      return encodeRecord(entry.path, Buffer.from(entry.target), { ino, mode, nlink: 1 })
    default:
      return encodeRecord(entry.path, new Uint8Array(), { ...entry, ino, mode, nlink: 1 })
  }
}

interface Inode {
  ino: number
  mode: number
  nlink: number
  major?: number
  minor?: number
}

function encodeRecord(path: string, data: Uint8Array, inode: Inode): Uint8Array {
  const name = Buffer.from(`${path}\0`)
  const { ino, mode, nlink, major = 0, minor = 0 } = inode
  // ino, mode, uid, gid, nlink, mtime, size, dev (2), rdev (2), name size, check sum (unused)
  const fields = [ino, mode, 0, 0, nlink, 0, data.length, 0, 0, major, minor, name.length, 0]
  const dataAt = align(HEADER_SIZE + name.length)
  const record = Buffer.alloc(align(dataAt + data.length))
  record.write(MAGIC + fields.map(hexField).join(""), 0, "latin1")
  record.set(name, HEADER_SIZE)
  record.set(data, dataAt)
  return record
}

function hexField(value: number): string {
  if (!Number.isInteger(value) || value < 0 || value > FIELD_MAX) {
    throw new GuestError("invalid-argument", `${value} does not fit a field of an initramfs`)
  }
  return value.toString(16).padStart(8, "0")
}

function align(size: number): number {
  return Math.ceil(size / ALIGNMENT) * ALIGNMENT
}
