// Tables of contents that are wrong or lie. What can be seen before the layer is there keeps the image from being begun
// with, and it is loaded as any other; what cannot is found when all is there, and the image is not kept.
import { randomBytes } from "node:crypto"
import { describe, expect, test } from "vitest"
import type { ImageErrorCode } from "../../errors.js"
import type { PackFile } from "../../pack/items.js"
import { codeOf } from "../../test-support/images.js"
import { lazyStore } from "../../test-support/lazy-store.js"
import {
  estargzFooter,
  estargzLayer,
  type TocJson,
  type TocLayerOptions,
  zstdChunkedLayer,
} from "../../test-support/toc-layers.js"

const FILES: PackFile[] = [
  { path: "a/" },
  { path: "a/one", content: Buffer.alloc(2500, "one ") },
  { path: "a/two", content: randomBytes(1500) },
  { path: "link", target: "a/one" },
  { path: "hard", type: "link", target: "a/one" },
  { path: "b", content: "b" },
]
const OTHER = `sha256:${"0".repeat(64)}`

/** Changes the entry of a path. */
const entry =
  (path: string, change: TocJson): TocLayerOptions["change"] =>
  entries =>
    entries.map(one => (one.name === path && one.type !== "chunk" ? { ...one, ...change } : one))
/** Changes a further chunk of `a/one`: there are two. */
const chunk =
  (number: number, change: TocJson): TocLayerOptions["change"] =>
  entries => {
    const at = entries.findIndex(one => one.type === "chunk") + number
    return entries.with(at, { ...entries[at], ...change })
  }
const more =
  (...added: unknown[]): TocLayerOptions["change"] =>
  entries => [...entries, ...added]
const without =
  (match: (one: TocJson) => boolean): TocLayerOptions["change"] =>
  entries =>
    entries.filter(one => !match(one))
const text =
  (make: (entries: unknown[]) => string): TocLayerOptions["json"] =>
  entries =>
    Buffer.from(make(entries))
const withOffsets =
  (offsetOf: (one: TocJson, all: TocJson[]) => unknown): TocLayerOptions["change"] =>
  entries =>
    entries.map(one => (one.offset === undefined ? one : { ...one, offset: offsetOf(one, entries) }))

const reg = (name: string, more: TocJson = {}) => ({ type: "reg", name, ...more })

/** Cases of both formats: what is wrong, how, and as what it is refused. */
const REFUSED: [string, TocLayerOptions, ImageErrorCode][] = [
  [
    "I8: a table with another digest",
    { annotate: each(v => (v.startsWith("sha256:") ? OTHER : v)) },
    "digest-mismatch",
  ],
  ["I8: a digest that is none", { annotate: each(v => v.replace(/^sha256:.*/, "md5:00")) }, "digest-invalid"],
  ["no JSON", { json: text(() => "{") }, "toc-invalid"],
  ["JSON that is no object", { json: text(() => "[[],{}]") }, "toc-invalid"],
  ["an empty file", { json: text(() => " ") }, "toc-invalid"],
  ["no entries", { json: text(() => '{"version":1}') }, "toc-invalid"],
  ["another version", { json: text(entries => JSON.stringify({ version: 2, entries })) }, "toc-invalid"],
  [
    "entries in two places",
    { json: text(e => JSON.stringify({ version: 1, entries: e, more: e })) },
    "toc-invalid",
  ],
  [
    "two lists of entries",
    { json: text(e => `{"version":1,"entries":${JSON.stringify(e)},"entries":[]}`) },
    "toc-invalid",
  ],
  ["entries that are no objects", { change: more(1, "x", null) }, "toc-invalid"],
  ["a list among the entries", { change: more([reg("x")]) }, "toc-invalid"],
  [
    "text that is not UTF-8",
    {
      json: e =>
        Buffer.concat([Buffer.from(JSON.stringify({ version: 1, entries: e })), Buffer.from([0xff])]),
    },
    "toc-invalid",
  ],
  ["an unknown type", { change: more({ type: "socket", name: "x" }) }, "toc-invalid"],
  ["a size below zero", { change: entry("b", { size: -1 }) }, "toc-invalid"],
  ["a size that is no number", { change: entry("b", { size: "1" }) }, "toc-invalid"],
  ["a size of 2^63", { change: entry("b", { size: 2 ** 63 }) }, "toc-invalid"],
  ["a directory with content", { change: entry("a/", { size: 5 }) }, "toc-invalid"],
  ["an owner beyond what there is", { change: entry("b", { uid: 2 ** 32 }) }, "toc-invalid"],
  ["a time that is none", { change: entry("b", { modtime: "yesterday" }) }, "toc-invalid"],
  ["I1: a name out of the root", { change: more(reg("../x")) }, "entry-escapes"],
  ["I1: a name out of the root in the middle", { change: more(reg("a/../../x")) }, "entry-escapes"],
  ["a name with NUL", { change: more(reg("a\0b")) }, "toc-invalid"],
  ["a name that was not UTF-8", { change: more(reg("\ufffd")) }, "toc-invalid"],
  ["a name of 300 bytes", { change: more(reg("n".repeat(300))) }, "entry-name"],
  ["a path of 5000 bytes", { change: more(reg("n/".repeat(2500))) }, "toc-invalid"],
  ["I2: a name below a symlink", { change: more(reg("link/x")) }, "entry-through-link"],
  ["I2: a name below a file", { change: more(reg("a/one/x")) }, "entry-through-link"],
  [
    "I3: a hard link to itself",
    { change: more({ type: "hardlink", name: "x", linkName: "x" }) },
    "link-target",
  ],
  [
    "I3: a hard link out of the root",
    { change: more({ type: "hardlink", name: "x", linkName: "../x" }) },
    "entry-escapes",
  ],
  [
    "I3: a hard link to a directory",
    { change: more({ type: "hardlink", name: "x", linkName: "a" }) },
    "link-target",
  ],
  [
    "I3: hard links in a circle",
    {
      change: more(
        { type: "hardlink", name: "x", linkName: "y" },
        { type: "hardlink", name: "y", linkName: "x" },
      ),
    },
    "toc-invalid",
  ],
  ["a symlink without text", { change: more({ type: "symlink", name: "x" }) }, "entry-name"],
  ["I4: a whiteout of the directory above", { change: more(reg("a/.wh...")) }, "whiteout"],
  ["I4: a whiteout with content", { change: entry("b", { name: "a/.wh.one" }) }, "whiteout"],
  [
    "I7: a device of a number that there is not",
    { change: more({ type: "char", name: "x", devMajor: 2 ** 20 }) },
    "entry-device",
  ],
  ["the root as a file", { change: more(reg("./")) }, "entry-name"],
  [
    "an attribute of 100 kB",
    { change: entry("b", { xattrs: { "user.x": "A".repeat(140_000) } }) },
    "toc-invalid",
  ],
  ["a chunk without a digest", { change: chunk(0, { chunkDigest: "" }) }, "toc-invalid"],
  ["a file without any digest", { change: entry("b", { chunkDigest: "", digest: "" }) }, "toc-invalid"],
  ["a digest of another algorithm", { change: chunk(0, { chunkDigest: "sha512:00" }) }, "digest-invalid"],
  ["a chunk of another file", { change: chunk(0, { name: "a/two" }) }, "toc-invalid"],
  [
    "a chunk that comes first",
    { change: entries => [entries.find(one => one.type === "chunk"), ...entries] },
    "toc-invalid",
  ],
  [
    "a chunk after a directory",
    { change: entries => [...entries, { type: "dir", name: "c" }, { type: "chunk", name: "b", offset: 9 }] },
    "toc-invalid",
  ],
  [
    "chunks that leave a gap",
    { change: without(one => one.type === "chunk" && one.chunkOffset === 1000) },
    "toc-invalid",
  ],
  ["chunks that are too few", { change: without(one => one.type === "chunk") }, "toc-invalid"],
  ["chunks of more than the file", { change: chunk(1, { chunkSize: 501 }) }, "toc-invalid"],
  ["chunks that overlap in the file", { change: chunk(0, { chunkOffset: 999 }) }, "toc-invalid"],
  [
    "a chunk of nothing more",
    {
      change: entries =>
        entries.flatMap(one =>
          one.chunkOffset === 2000 ? [one, { ...one, chunkOffset: 2500, chunkSize: 0 }] : [one],
        ),
    },
    "toc-invalid",
  ],
  [
    "chunks in another order",
    { change: withOffsets((one, all) => 1 + all.length - all.indexOf(one)) },
    "toc-invalid",
  ],
  ["chunks at one place", { change: withOffsets(() => 7) }, "toc-invalid"],
  ["a chunk behind the layer", { change: entry("b", { offset: 2 ** 40 }) }, "toc-invalid"],
  ["a chunk that is larger than can be unpacked", { change: entry("b", { size: 2 ** 30 }) }, "toc-invalid"],
  ["a chunk deep inside of what is packed", { change: entry("b", { innerOffset: 2 ** 30 }) }, "toc-invalid"],
  ["I5: files of more than an image may have", { change: more(...zeros(9)) }, "limit"],
  ["I5: holes of more than there may be", { change: more(...zeros(5)) }, "limit"],
  [
    "I5: an entry of a megabyte",
    { change: more({ ...reg("x"), more: "x".repeat(1_000_000) }) },
    "toc-invalid",
  ],
  [
    "I5: an entry that is nested deeply",
    { json: text(() => `{"version":1,"entries":[{"type":${"[".repeat(100_000)}`) },
    "toc-invalid",
  ],
  [
    "I5: much around the entries",
    { json: text(e => `{"version":1,"x":"${"x".repeat(5_000_000)}","entries":${JSON.stringify(e)}}`) },
    "toc-invalid",
  ],
  [
    "I5: a table of 60 MB",
    { json: text(() => `{"version":1,${" ".repeat(60_000_000)}"entries":[]}`) },
    "limit",
  ],
]

/** Cases of one format. */
const REFUSED_ESTARGZ: typeof REFUSED = [
  [
    "a footer that is none",
    { spoil: (blob, { end }) => Buffer.concat([blob.subarray(0, end), Buffer.alloc(51)]) },
    "toc-invalid",
  ],
  ["a footer that points behind the layer", { spoil: footer(() => 2 ** 40) }, "toc-invalid"],
  ["a footer that points at the footer", { spoil: footer(({ end }) => end) }, "toc-invalid"],
  ["a footer that points at other content", { spoil: footer(() => 0) }, "toc-invalid"],
  ["a footer that points into the middle", { spoil: footer(({ start }) => start + 3) }, "media-type"],
]
const position = (to: string) => ({
  annotate: each(value => (value.includes(":1") && !value.startsWith("sha") ? to : value)),
})
const REFUSED_ZSTD: typeof REFUSED = [
  ["a position that is none", position("1:2"), "toc-invalid"],
  ["a position behind the layer", position("999999999:10:10:1"), "toc-invalid"],
  ["a position of nothing", position("0:0:0:1"), "toc-invalid"],
  ["a table of another type", position("8:10:10:2"), "toc-invalid"],
  ["a table at another position", position("8:10:10:1"), "digest-mismatch"],
  ["a table that says it is large", position("8:10:99999999999:1"), "limit"],
]

function each(change: (value: string) => string): TocLayerOptions["annotate"] {
  return annotations =>
    Object.fromEntries(Object.entries(annotations).map(([key, value]) => [key, change(value)]))
}

function footer(place: (toc: { start: number; end: number }) => number): TocLayerOptions["spoil"] {
  return (blob, toc) => Buffer.concat([blob.subarray(0, toc.end), estargzFooter(place(toc))])
}

/** Files of 4 GiB of nothing. */
function zeros(count: number): TocJson[] {
  const size = 2 ** 32
  return Array.from({ length: 2 * count }, (_, i) =>
    reg(`zeros${i}`, { size, chunkSize: size, chunkType: "zeros" }),
  )
}

describe.each([
  ["estargz", estargzLayer, [...REFUSED, ...REFUSED_ESTARGZ]],
  ["zstd:chunked", zstdChunkedLayer, [...REFUSED, ...REFUSED_ZSTD]],
] as const)("a layer of format %s is loaded whole when its table has", (_, layerOf, cases) => {
  test.each(cases)("%s", async (_what, options, code) => {
    const layer = layerOf(FILES, options)
    const { source, store, reports, open, temporary } = await lazyStore([layer])
    expect(await open()).toBeUndefined()
    expect(reports.map(({ by, reason }) => [by, reason?.code])).toEqual([["whole", code]])
    expect(temporary()).toEqual([])
    if (!options.spoil) await store.load(source)
  })
})

test("I5: a table of more entries than a layer of its size may have is not read on", async () => {
  const limits = { entriesFloor: 3 }
  const { reports, open } = await lazyStore([estargzLayer(many(200))], { limits })
  expect(await open()).toBeUndefined()
  expect(reports[0]?.reason?.code).toBe("limit")
})

/** Files that pack well. */
function many(count: number): PackFile[] {
  return Array.from({ length: count }, (_, i) => ({ path: `many/${i}` }))
}

/** Tables that hold together, and are not of the layer that they are in. */
const LIES: [string, TocLayerOptions["change"]][] = [
  ["a file that there is not", more(reg("more"))],
  ["less than there is", without(one => one.name === "b")],
  ["another name", entry("b", { name: "c" })],
  ["another mode", entry("b", { mode: 0o4755 })],
  ["another owner", entry("b", { uid: 1000 })],
  ["another time", entry("b", { modtime: "2001-01-01T00:00:00Z" })],
  ["an attribute", entry("b", { xattrs: { "security.capability": "AQAAAgAAAAA=" } })],
  ["another symlink", entry("link", { linkName: "/etc/shadow" })],
  ["a file in place of a link", entry("hard", { type: "reg", linkName: undefined })],
  ["a link to another file", entry("hard", { linkName: "a/two" })],
  ["a whiteout", more(reg("a/.wh.lower"))],
  ["a directory that hides all below", more(reg("a/.wh..wh..opq"))],
  ["zeros in place of content", chunk(0, { chunkType: "zeros" })],
]

describe.each([
  ["estargz", estargzLayer],
  ["zstd:chunked", zstdChunkedLayer],
] as const)("a layer of format %s is not kept when its table tells of", (_, layerOf) => {
  test.each(LIES)("%s", async (_what, change) => {
    const { source, store, open, temporary } = await lazyStore([layerOf(FILES, { change })])
    const image = await open()
    expect(await codeOf(() => image?.fill())).toBe("toc-disagrees")
    expect(await store.list()).toEqual([])
    await image?.[Symbol.asyncDispose]()
    expect(temporary()).toEqual([])
    // Loaded, it is what it is; what was read of it is true.
    await store.load(source)
    expect(await open()).toBeUndefined()
  })

  test("the right files, in a blob with another digest", async () => {
    const { source, store, open, temporary } = await lazyStore([layerOf(FILES)])
    const image = await open()
    source.change = bytes => bytes.map((byte, i) => (i === 5 ? byte ^ 1 : byte)) as Buffer
    expect(await codeOf(() => image?.fill())).toBe("digest-mismatch")
    expect(await store.list()).toEqual([])
    await image?.[Symbol.asyncDispose]()
    expect(temporary()).toEqual([])
  })

  test("the right files, of another tar stream than the image has", async () => {
    const { store, open, temporary } = await lazyStore([{ ...layerOf(FILES), tar: Buffer.from("other") }])
    const image = await open()
    expect(await codeOf(() => image?.fill())).toBe("digest-mismatch")
    expect(await store.list()).toEqual([])
    await image?.[Symbol.asyncDispose]()
    expect(temporary()).toEqual([])
  })
})
