import { TAR_BLOCK, TYPEFLAG } from "../layer/tar-header.js"
import type { TarEntryType } from "../layer/tar-reader.js"

/** An entry to write. Names are bytes (latin1 text). */
export interface TarHeaderFields {
  readonly type: TarEntryType
  readonly path: string
  readonly linkPath: string
  readonly mode: number
  readonly uid: number
  readonly gid: number
  readonly size: number
  /** Seconds and nanoseconds since the epoch. */
  readonly mtime: { readonly seconds: number; readonly nanoseconds: number }
  readonly devmajor: number
  readonly devminor: number
  readonly xattrs: ReadonlyMap<string, Buffer> | undefined
}

const FLAG: Readonly<Record<TarEntryType, number>> = {
  file: TYPEFLAG.file,
  link: TYPEFLAG.link,
  symlink: TYPEFLAG.symlink,
  char: TYPEFLAG.char,
  block: TYPEFLAG.block,
  directory: TYPEFLAG.directory,
  fifo: TYPEFLAG.fifo,
}

const NAME_SIZE = 100
const ID_MAX = 0o7777777
const SIZE_MAX = 0o77777777777

/** The two zero blocks at the end of a tar stream. */
export function tarEnd(): Buffer {
  return Buffer.alloc(2 * TAR_BLOCK)
}

/** Zero bytes after content of `size` bytes. */
export function tarPadding(size: number): Buffer {
  return Buffer.alloc(-size & (TAR_BLOCK - 1))
}

/**
 * Encodes an entry's header: one ustar block, behind a PAX header when a field does not fit. Equal entries
 * give equal bytes.
 */
export function encodeTarHeader(entry: TarHeaderFields): Buffer {
  const pax = paxRecords(entry)
  const main = ustarBlock(entry, FLAG[entry.type], entry.path, entry.size)
  if (pax.length === 0) return main
  const body = Buffer.concat(pax)
  const about = { ...entry, linkPath: "", mode: 0o644, uid: 0, gid: 0, mtime: { seconds: 0, nanoseconds: 0 } }
  return Buffer.concat([
    ustarBlock(about, TYPEFLAG.pax, "PaxHeader", body.length),
    body,
    tarPadding(body.length),
    main,
  ])
}

function paxRecords(entry: TarHeaderFields): Buffer[] {
  const records: Buffer[] = []
  const add = (key: string, value: string | Buffer) =>
    records.push(paxRecord(key, Buffer.from(value as string, "latin1")))
  if (entry.path.length > NAME_SIZE) add("path", entry.path)
  if (entry.linkPath.length > NAME_SIZE) add("linkpath", entry.linkPath)
  if (entry.size > SIZE_MAX) add("size", `${entry.size}`)
  if (entry.uid > ID_MAX) add("uid", `${entry.uid}`)
  if (entry.gid > ID_MAX) add("gid", `${entry.gid}`)
  const { seconds, nanoseconds } = entry.mtime
  if (nanoseconds !== 0 || seconds < 0 || seconds > SIZE_MAX) add("mtime", paxTime(seconds, nanoseconds))
  for (const [name, value] of entry.xattrs ?? []) add(`SCHILY.xattr.${name}`, value)
  return records
}

/** Decimal text of a time; before the epoch the fraction counts the other way. */
function paxTime(seconds: number, nanoseconds: number): string {
  const fraction = (n: number) => (n === 0 ? "" : `.${String(n).padStart(9, "0").replace(/0+$/, "")}`)
  if (seconds >= 0) return `${seconds}${fraction(nanoseconds)}`
  return nanoseconds === 0 ? `${seconds}` : `-${-seconds - 1}${fraction(1e9 - nanoseconds)}`
}

/** `LENGTH KEY=VALUE\n`, where LENGTH counts its own digits too. */
function paxRecord(key: string, value: Buffer): Buffer {
  const rest = Buffer.concat([Buffer.from(` ${key}=`, "latin1"), value, Buffer.from("\n")])
  let length = rest.length + 1
  while (`${length}`.length + rest.length > length) length++
  return Buffer.concat([Buffer.from(`${length}`), rest])
}

function ustarBlock(entry: TarHeaderFields, typeflag: number, path: string, size: number): Buffer {
  const block = Buffer.alloc(TAR_BLOCK)
  block.write(path.slice(0, NAME_SIZE), 0, "latin1")
  octal(block, entry.mode & 0o7777, 100, 8)
  octal(block, entry.uid > ID_MAX ? 0 : entry.uid, 108, 8)
  octal(block, entry.gid > ID_MAX ? 0 : entry.gid, 116, 8)
  octal(block, size > SIZE_MAX ? 0 : size, 124, 12)
  octal(block, Math.min(Math.max(0, entry.mtime.seconds), SIZE_MAX), 136, 12)
  block[156] = typeflag
  block.write(entry.linkPath.slice(0, NAME_SIZE), 157, "latin1")
  block.write("ustar\x0000", 257, "latin1")
  octal(block, entry.devmajor, 329, 8)
  octal(block, entry.devminor, 337, 8)
  block.fill(0x20, 148, 156)
  let sum = 0
  for (const byte of block) sum += byte
  block.write(`${sum.toString(8).padStart(6, "0")}\0 `, 148, "latin1")
  return block
}

function octal(block: Buffer, value: number, at: number, size: number): void {
  block.write(value.toString(8).padStart(size - 1, "0"), at, "latin1")
}
