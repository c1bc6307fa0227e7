import { gzipSync } from "node:zlib"
import { join, mutate, type Random } from "./random.js"

export type LayerCompression = "none" | "gzip" | "zstd"

/** A layer blob as it comes from somewhere, and how it is said to be packed. */
export interface LayerCase {
  readonly bytes: Uint8Array
  readonly compression: LayerCompression
  /** Sizes of the pieces it arrives in, over and over. */
  readonly chunks: readonly number[]
  /** The digest is that of other bytes. */
  readonly wrongDigest: boolean
}

const GOOD_NAMES = [
  "a",
  "b",
  "c",
  "dir/",
  "dir/x",
  "dir/sub/y",
  "./a",
  "/a",
  "link",
  "dir/link",
  "dir/.wh.x",
  ".wh..wh..opq",
  ".wh.a",
]
/** What lies below a file or link, if those names came before. */
const BELOW_FILES = ["a/b", "link/x", "dir/link/x", "dir/x/deep/y"]
const BAD_NAMES = [
  ...GOOD_NAMES,
  "a/b",
  "../a",
  "dir/../a",
  "..",
  ".",
  "",
  "/",
  "a//b",
  "dir/./x",
  "dir/.wh..wh..opq",
  ".wh.",
  ".wh..",
  ".wh...",
  ".wh..wh.aufs",
  ".wh.a/b",
  "link/x",
  "__proto__",
  "constructor",
  "dir/__proto__/x",
  "\xff\xfe",
  "new\nline",
  "n".repeat(100),
  `${"d/".repeat(40)}f`,
]
const GOOD_TYPES = ["0", "0", "0", "0", "5", "5", "2", "1", "3", "6"]
const BAD_TYPES = [...GOOD_TYPES, "4", "7", "\0", "x", "g", "L", "K", "S", "V", "\xff"]

/** A writer of tar streams: a sane one now and then slips, a bad one means it. */
class Writer {
  readonly random: Random
  readonly #bad: boolean

  constructor(random: Random) {
    this.random = random
    this.#bad = random.oneIn(3)
  }

  /** Whether to do something odd here: once in `n` for a bad writer. */
  odd(n: number): boolean {
    return this.random.oneIn(this.#bad ? n : 40 * n)
  }

  name(): string {
    if (this.random.oneIn(30)) return this.random.pick(BELOW_FILES)
    return this.random.pick(this.#bad ? BAD_NAMES : GOOD_NAMES)
  }

  type(): string {
    return this.random.pick(this.#bad ? BAD_TYPES : GOOD_TYPES)
  }
}

/** A tar stream, packed or not, with damage on the outside, on the inside, or nowhere. */
export function randomLayer(random: Random): LayerCase {
  let tar = randomTar(new Writer(random))
  if (random.oneIn(8)) tar = mutate(random, tar)
  const compression = random.pick<LayerCompression>(["none", "none", "gzip", "zstd"])
  let bytes = pack(random, tar, compression)
  if (random.oneIn(10)) bytes = mutate(random, bytes)
  return {
    bytes,
    compression: random.oneIn(20) ? random.pick(["none", "gzip", "zstd"] as const) : compression,
    chunks: random.list(random.between(1, 3), () =>
      random.pick(random.oneIn(12) ? [1, 7, 100] : [511, 512, 513, 4096, 65536]),
    ),
    wrongDigest: random.oneIn(20),
  }
}

function pack(random: Random, tar: Uint8Array, compression: LayerCompression): Uint8Array {
  if (compression === "none") return tar
  if (compression === "zstd") return zstdFrames(random, tar)
  // Several members, as some writers make.
  const cut = random.oneIn(3) ? random.below(tar.length + 1) : tar.length
  const rest = tar.subarray(cut)
  return join(gzipSync(tar.subarray(0, cut)), rest.length > 0 ? gzipSync(rest) : new Uint8Array())
}

/** zstd with raw and run-length blocks: valid frames without a compressor. */
function zstdFrames(random: Random, tar: Uint8Array): Uint8Array {
  const parts: Uint8Array[] = []
  const window = random.oneIn(8) ? random.u32() & 0xff : 0x38
  parts.push(Uint8Array.of(0x28, 0xb5, 0x2f, 0xfd, random.oneIn(10) ? random.u32() : 0, window))
  for (let at = 0; at < tar.length; ) {
    const size = Math.min(tar.length - at, random.pick([1, 512, 4096, 0x1_0000]))
    parts.push(zstdBlock(0, size), tar.subarray(at, at + size))
    at += size
  }
  if (random.oneIn(4)) parts.push(zstdBlock(1, random.pick([0, 512, 0x1_0000, 0x1f_ffff])), Uint8Array.of(0))
  parts.push(Uint8Array.of(1, 0, 0))
  return join(...parts)
}

function zstdBlock(type: number, size: number): Uint8Array {
  const head = (size << 3) | (type << 1)
  return Uint8Array.of(head, head >>> 8, head >>> 16)
}

function randomTar(writer: Writer): Uint8Array {
  const { random } = writer
  const parts = random.list(random.below(14), () => randomEntry(writer))
  if (!random.oneIn(8)) parts.push(new Uint8Array(1024))
  if (random.oneIn(8)) parts.push(new Uint8Array(512 * random.below(20)))
  if (writer.odd(20)) parts.push(random.bytes(random.between(1, 600)))
  return join(...parts)
}

interface EntryFields {
  readonly name: string
  readonly type: string
  readonly link: string
  readonly size: number
  readonly content: Uint8Array
}

function randomEntry(writer: Writer): Uint8Array {
  if (writer.random.oneIn(4)) return join(paxHeader(writer), plainEntry(writer))
  if (writer.random.oneIn(12)) return join(longName(writer), plainEntry(writer))
  return plainEntry(writer)
}

function plainEntry(writer: Writer): Uint8Array {
  const { random } = writer
  const name = writer.name()
  const special = name.includes(".wh.") ? "0" : name.endsWith("/") ? "5" : undefined
  const type = special === undefined || writer.odd(4) ? writer.type() : special
  const isFile = type === "0" || type === "7" || type === "\0"
  const empty = name.includes(".wh.") && !writer.odd(4)
  const length = isFile && !empty ? random.pick([0, 1, 511, 512, 513, 4096, 9000]) : writer.odd(20) ? 100 : 0
  const size = writer.odd(40) ? random.edge() : length
  return encode(writer, { name, type, link: writer.name(), size, content: random.bytes(length) })
}

function longName(writer: Writer): Uint8Array {
  const text = writer.odd(3) ? "x".repeat(writer.random.pick([0, 255, 256, 4095, 5000])) : writer.name()
  const content = Buffer.from(writer.odd(8) ? text : `${text}\0`, "latin1")
  const type = writer.random.pick(["L", "K"])
  return encode(writer, { name: "././@LongLink", type, link: "", size: content.length, content })
}

const GOOD_KEYS = [
  "linkpath",
  "uid",
  "gid",
  "mtime",
  "SCHILY.xattr.user.x",
  "SCHILY.xattr.security.capability",
  "comment",
]
const BAD_KEYS = [
  ...GOOD_KEYS,
  "path",
  "size",
  "SCHILY.xattr.trusted.overlay.opaque",
  "SCHILY.xattr.",
  "GNU.sparse.major",
  "hdrcharset",
  "__proto__",
]

function paxHeader(writer: Writer): Uint8Array {
  const { random } = writer
  const records = random.list(random.below(4), () => {
    const key = random.pick(writer.odd(2) ? BAD_KEYS : GOOD_KEYS)
    return paxRecord(writer, key, paxValue(writer, key))
  })
  const content = Buffer.from(records.join(""), "latin1")
  const type = writer.odd(4) ? "g" : "x"
  return encode(writer, { name: "PaxHeader", type, link: "", size: content.length, content })
}

function paxValue(writer: Writer, key: string): string {
  const { random } = writer
  if (writer.odd(6)) return Buffer.from(random.bytes(random.below(40))).toString("latin1")
  if (key === "path" || key === "linkpath") return writer.name()
  if (key.startsWith("SCHILY")) return "v".repeat(random.pick([0, 1, 100, 4000]))
  if (writer.odd(2)) return random.pick(["4294967295", "99999999999999999999", "0x10", "", "-1", "1e9", "1."])
  return key === "mtime"
    ? random.pick(["1700000000.123456789", "-1", "-0.5"])
    : random.pick(["0", "1", "512", "4294967294"])
}

function paxRecord(writer: Writer, key: string, value: string): string {
  const body = ` ${key}=${value}\n`
  let length = body.length
  while (`${length}`.length + body.length !== length) length = `${length}`.length + body.length
  return `${writer.odd(20) ? length + writer.random.between(-3, 3) : length}${body}`
}

/** One entry: header, content, padding. Numbers are octal, or now and then base 256 or nonsense. */
function encode(writer: Writer, fields: EntryFields): Uint8Array {
  const { random } = writer
  const block = Buffer.alloc(512)
  block.write(fields.name.slice(0, 100), 0, "latin1")
  number(writer, block, 100, 8, random.pick([0o644, 0o755, 0o7777, 0o100644]))
  number(writer, block, 108, 8, random.pick([0, 1000, 0o7777777]))
  number(writer, block, 116, 8, 0)
  number(writer, block, 124, 12, fields.size)
  number(writer, block, 136, 12, 1_700_000_000)
  block.write(fields.type, 156, "latin1")
  block.write(fields.link.slice(0, 100), 157, "latin1")
  block.write(writer.odd(2) ? random.pick(["ustar  \0", "", "ustar\x0001"]) : "ustar\x0000", 257, "latin1")
  number(writer, block, 329, 8, random.pick(writer.odd(4) ? [4095, 4096] : [0, 1]))
  number(writer, block, 337, 8, random.pick(writer.odd(4) ? [1048575, 1048576] : [0, 3]))
  if (writer.odd(16)) block.write(random.pick(["prefix", "..", "/abs", "p".repeat(155)]), 345, "latin1")
  block.fill(0x20, 148, 156)
  const sum = block.reduce((total, byte) => total + byte, 0)
  block.write(`${sum.toString(8).padStart(6, "0")}\0 `, 148, "latin1")
  if (writer.odd(60)) block[random.below(512)] = random.u32()
  return join(block, fields.content, new Uint8Array(-fields.content.length & 511))
}

function number(writer: Writer, block: Buffer, at: number, size: number, value: number): void {
  if (writer.odd(80)) {
    block.set(writer.random.bytes(size), at)
  } else if (writer.random.oneIn(30)) {
    block[at] = 0x80
    for (let i = 1; i < size; i++) block[at + i] = Math.floor(value / 2 ** (8 * (size - 1 - i))) & 0xff
  } else {
    block.write(
      `${value
        .toString(8)
        .padStart(size - 1, "0")
        .slice(-(size - 1))}\0`,
      at,
      "latin1",
    )
  }
}
