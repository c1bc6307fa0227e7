import { ImageError, printable } from "../errors.js"
import { checkLimit } from "../limits.js"
import { PaxSparse } from "./pax-sparse.js"

/** What one PAX extended header says about the entry after it. Text is bytes (latin1). */
export interface PaxRecords {
  path?: string
  linkpath?: string
  size?: number
  uid?: number
  gid?: number
  mtime?: PaxTime
  xattrs?: Map<string, Buffer>
  /** What GNU's sparse records say. */
  sparse?: PaxSparse
}

/** Seconds since the epoch, rounded down, and nanoseconds `[0, 10^9)`. */
export interface PaxTime {
  readonly seconds: number
  readonly nanoseconds: number
}

const XATTR = "SCHILY.xattr."
const SPACE = 0x20
const EQUALS = 0x3d
const NEWLINE = 0x0a

/**
 * Reads the records of a PAX extended header: `LENGTH KEY=VALUE\n`, the length counting all of it. Later
 * records win, as POSIX says.
 *
 * @param data - the whole header body
 * @param maxXattrBytes - bound on all extended attributes together, names included
 * @throws ImageError `tar-pax`, `tar-sparse`, `tar-number`, `entry-xattr`, `limit`
 * @see POSIX.1-2017 pax, "pax Extended Header"
 */
export function parsePax(data: Buffer, maxXattrBytes: number): PaxRecords {
  const records: PaxRecords = {}
  let xattrBytes = 0
  eachRecord(data, (key, value) => {
    applyRecord(records, key, value)
    if (!key.startsWith(XATTR)) return
    xattrBytes += key.length - XATTR.length + value.length
    checkLimit("xattrBytes", xattrBytes, maxXattrBytes, "extended attributes of an entry")
  })
  return records
}

/**
 * Checks a PAX global header: it may say nothing that this package reads, since readers disagree on what a
 * global path or size would mean.
 *
 * @throws ImageError `tar-pax`
 */
export function checkGlobalPax(data: Buffer): void {
  const empty = JSON.stringify({})
  eachRecord(data, (key, value) => {
    const records: PaxRecords = {}
    applyRecord(records, key, value)
    if (JSON.stringify(records) !== empty) throw badPax(`global ${printable(key)}`)
  })
}

function eachRecord(data: Buffer, record: (key: string, value: Buffer) => void): void {
  for (let at = 0; at < data.length; ) {
    let space = at
    while (space < data.length && space < at + 9 && data[space] !== SPACE) space++
    const digits = data.toString("latin1", at, space)
    const length = /^[1-9][0-9]*$/.test(digits) ? Number(digits) : 0
    const end = at + length
    if (length === 0 || end > data.length || data[end - 1] !== NEWLINE) throw badPax("wrong record length")
    const equals = data.indexOf(EQUALS, space)
    if (equals <= space + 1 || equals >= end) throw badPax("record without key")
    const key = data.toString("latin1", space + 1, equals)
    if (key.includes("\0")) throw badPax("NUL in key")
    record(key, data.subarray(equals + 1, end - 1))
    at = end
  }
}

function applyRecord(records: PaxRecords, key: string, value: Buffer): void {
  switch (key) {
    case "path":
    case "linkpath":
      records[key] = pathValue(key, value)
      return
    case "size":
    case "uid":
    case "gid":
      records[key] = decimal(key, value)
      return
    case "mtime":
      records.mtime = time(value)
      return
  }
  if (key.startsWith(PaxSparse.PREFIX)) {
    records.sparse ??= new PaxSparse()
    records.sparse.add(key.slice(PaxSparse.PREFIX.length), value.toString("latin1"))
    return
  }
  if (key.startsWith(XATTR)) addXattr(records, key.slice(XATTR.length), value)
}

function pathValue(key: string, value: Buffer): string {
  if (value.length === 0 || value.includes(0)) throw badPax(`${key} is empty or has a NUL`)
  return value.toString("latin1")
}

function decimal(key: string, value: Buffer): number {
  const text = value.toString("latin1")
  const number = /^[0-9]{1,16}$/.test(text) ? Number(text) : Number.NaN
  if (Number.isSafeInteger(number)) return number
  throw new ImageError("tar-number", `PAX ${key} is not a number: ${printable(text)}`, { field: key })
}

function time(value: Buffer): PaxTime {
  const match = /^(-?)([0-9]{1,15})(?:\.([0-9]{0,30}))?$/.exec(value.toString("latin1"))
  if (!match)
    throw new ImageError("tar-number", `PAX mtime is not a time: ${printable(value.toString("latin1"))}`, {
      field: "mtime",
    })
  const seconds = Number(match[2])
  const nanoseconds = Number((match[3] ?? "").padEnd(9, "0").slice(0, 9))
  if (!match[1]) return { seconds, nanoseconds }
  return nanoseconds === 0
    ? { seconds: 0 - seconds, nanoseconds }
    : { seconds: -seconds - 1, nanoseconds: 1e9 - nanoseconds }
}

function addXattr(records: PaxRecords, name: string, value: Buffer): void {
  if (name === "" || name.length > 255)
    throw new ImageError("entry-xattr", `wrong attribute name ${printable(name)}`)
  if (value.length > 0xffff) {
    throw new ImageError("entry-xattr", `value of attribute ${printable(name)} is longer than 65535 bytes`, {
      size: value.length,
    })
  }
  records.xattrs ??= new Map()
  records.xattrs.set(name, Buffer.from(value))
}

function badPax(why: string): ImageError {
  return new ImageError("tar-pax", `wrong PAX header: ${why}`)
}
