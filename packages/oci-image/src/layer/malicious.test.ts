import { randomBytes } from "node:crypto"
import { mkdirSync, statSync, symlinkSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { gzipSync } from "node:zlib"
import { describe, expect, test } from "vitest"
import { isImageError } from "../errors.js"
import type { PackFile } from "../pack/items.js"
import { snapshot, tarOf, temporaryFolder } from "../test-support/images.js"
import { type LayerBlob, type MadePart, PartMaker, rleFrame } from "../test-support/layers.js"
import { base256, END, padded, paxRecord, rawEntry, rawHeader, rawPax } from "../test-support/raw-tar.js"
import type { TreeNode } from "./tree.js"

const MIB = 2 ** 20
/** What a bomb may cost above a layer of one small file. */
const MEMORY_MAX = 64 * MIB

const concat = (...parts: Buffer[]) => Buffer.concat(parts)
const dir = (path: string): PackFile => ({ path: `${path}/` })
const file = (path: string, content = ""): PackFile => ({ path, content })
const link = (path: string, target: string): PackFile => ({ path, type: "link", target })
const symlink = (path: string, target: string): PackFile => ({ path, type: "symlink", target })
const raw = (...parts: Buffer[]): LayerBlob => ({ blob: concat(...parts, END) })
const files = (...list: PackFile[]): LayerBlob => ({ blob: tarOf(list) })
const gzip = (tar: Buffer): LayerBlob => ({ blob: gzipSync(tar), tar, compression: "gzip" })
const gzipOf = (blob: Buffer): LayerBlob => ({ blob, compression: "gzip" })

/** Does not get smaller, so that it fills more than a header. */
const noise = randomBytes(2000).toString("latin1")

/** A name, a layer, and its code or what the one reading of it is. */
type Case = readonly [name: string, layer: LayerBlob, outcome: string]

const breakouts: readonly Case[] = [
  ["I1: absolute name", files(file("/etc/passwd", "x")), "etc/ etc/passwd"],
  ["I1: many slashes", files(file("///etc///passwd", "x")), "etc/ etc/passwd"],
  ["I1: dots in a name", files(file("./././etc/./passwd", "x")), "etc/ etc/passwd"],
  ["I1: .. at the start", files(file("../guard/file", "x")), "entry-escapes"],
  ["I1: .. in the middle", files(file("a/../../guard/file", "x")), "entry-escapes"],
  ["I1: .. at the end", files(dir("a/..")), "entry-escapes"],
  ["I1: absolute ..", files(file("/../../guard/file", "x")), "entry-escapes"],
  [
    "I1: .. out of a PAX path",
    raw(rawPax(paxRecord("path", "../guard/file")), rawEntry({}, "x")),
    "entry-escapes",
  ],
  [
    "I1: .. out of a GNU long name",
    raw(rawEntry({ type: "L" }, "../guard/file\0"), rawEntry({}, "x")),
    "entry-escapes",
  ],
  ["I1: .. out of the ustar prefix", raw(rawEntry({ prefix: "..", name: "guard" }, "x")), "entry-escapes"],
  ["I1: through an absolute symlink", files(symlink("l", "/"), file("l/guard", "x")), "entry-through-link"],
  [
    "I1: through a relative symlink",
    files(symlink("l", "../.."), file("l/guard", "x")),
    "entry-through-link",
  ],
  [
    "I1: through two symlinks",
    files(symlink("a", "/"), symlink("b", "a"), file("b/x")),
    "entry-through-link",
  ],
  ["I1: symlink below a symlink", files(symlink("a", "/tmp"), symlink("a/b", "/")), "entry-through-link"],
  [
    "I1: hard link below a symlink",
    files(symlink("a", "/"), file("f"), link("a/b", "f")),
    "entry-through-link",
  ],
  ["I1: hard link to an absolute path", files(link("a", "/etc/passwd")), "a->etc/passwd"],
  ["I1: hard link to ..", files(link("a", "../guard/file")), "entry-escapes"],
  ["I1: hard link through a symlink", files(symlink("l", "/"), link("a", "l/etc/passwd")), "link-target"],
  ["I1: hard link to the root", files(link("a", "/")), "link-target"],
  [
    "I1: file over a hard link to a symlink",
    files(symlink("l", "/guard"), link("h", "l"), file("h", "x")),
    "h l@",
  ],
  ["I1: directory becomes a symlink", files(dir("d"), symlink("d", "/"), file("d/x")), "entry-through-link"],
  ["I1: symlink becomes a directory", files(symlink("d", "/"), dir("d"), file("d/x")), "d/ d/x"],
  ["I1: file becomes a directory by a name below", files(file("a"), file("a/b")), "entry-through-link"],
  ["I1: root is a symlink", files(symlink("./", "/")), "entry-name"],
  ["I1: NUL in a symlink", raw(rawPax(paxRecord("linkpath", "a\0b")), rawEntry({ type: "2" })), "tar-pax"],
]

const links: readonly Case[] = [
  ["I2: setuid through a hard link", files(file("a"), { ...link("b", "a"), mode: 0o4777 }), "a b"],
  ["I2: symlink with a mode", files({ ...symlink("a", "/etc/shadow"), mode: 0o4777 }), "a@"],
  ["I2: hard link with content", raw(rawEntry({ name: "b", type: "1", linkname: "a" }, "x")), "tar-size"],
  ["I3: whiteout of nothing", files(file(".wh.")), "whiteout"],
  ["I3: whiteout of .", files(file("d/.wh..")), "whiteout"],
  ["I3: whiteout of ..", files(file("d/.wh...")), "whiteout"],
  ["I3: whiteout through a symlink", files(symlink("l", "/"), file("l/.wh.guard")), "entry-through-link"],
  ["I3: opaque mark on a file", files(file("a"), file("a/.wh..wh..opq")), "entry-through-link"],
  ["I3: whiteout that is a symlink", files(symlink(".wh.a", "/")), "whiteout"],
  ["I3: whiteout in the middle", files(file("d/.wh.a/b")), "whiteout"],
  ["I3: opaque root", files(file(".wh..wh..opq")), ""],
]

const formats: readonly Case[] = [
  ["I4: PAX and header size disagree", raw(rawPax(paxRecord("size", "9")), rawEntry({})), "tar-disagrees"],
  ["I4: PAX on a meta entry", raw(rawPax(paxRecord("size", "9")), rawEntry({ type: "L" }, "n\0")), "tar-pax"],
  ["I4: PAX on a PAX header", raw(rawPax(paxRecord("size", "9")), rawPax(paxRecord("uid", "1"))), "tar-pax"],
  ["I4: NUL in a PAX path", raw(rawPax(paxRecord("path", "a\0b")), rawEntry({})), "tar-pax"],
  ["I4: negative PAX size", raw(rawPax(paxRecord("size", "-1")), rawEntry({})), "tar-number"],
  ["I4: negative base-256 size", raw(rawHeader({ size: base256(-1n, 12) })), "tar-number"],
  ["I4: base-256 size of 2^60", raw(rawHeader({ size: base256(2n ** 60n, 12) })), "tar-number"],
  ["I4: base-256 owner of 2^32", raw(rawHeader({ uid: base256(2n ** 32n, 8) })), "tar-number"],
  ["I4: base-256 that is right", raw(rawHeader({ size: base256(3n, 12) }), padded("abc")), "file"],
  ["I4: wrong checksum", raw(rawHeader({ checksum: "0000000\0" })), "tar-checksum"],
  ["I4: checksum in text", raw(rawHeader({ checksum: "xxxxxxx\0" })), "tar-header"],
  ["I4: global PAX path", raw(rawPax(paxRecord("path", "a"), "g"), rawEntry({})), "tar-pax"],
  ["I4: PAX length beyond the header", raw(rawPax("999 path=a\n"), rawEntry({})), "tar-pax"],
  ["I4: directory with content", raw(rawEntry({ name: "d/", type: "5" }, "x")), "tar-size"],
  ["I4: multi-volume", raw(rawEntry({ type: "M" })), "tar-type"],
  ["I5: cut in a header", { blob: rawHeader({}).subarray(0, 99) }, "tar-truncated"],
  ["I5: cut in content", { blob: rawHeader({ size: 9999 }) }, "tar-truncated"],
  ["I5: data after the end", raw(END, rawEntry({})), "tar-trailing-data"],
  ["I5: gzip in gzip", gzip(gzipSync(tarOf([file("a", noise)]))), "tar-header"],
  [
    "I5: gzip cut off",
    gzipOf(gzipSync(tarOf([file("a", "x".repeat(9999))])).subarray(0, 60)),
    "compression-invalid",
  ],
  ["I5: gzip with a wrong check sum", gzipOf(wrongEnd(gzipSync(tarOf([file("a")])))), "compression-invalid"],
  [
    "I5: gzip with rubbish behind it",
    gzipOf(concat(gzipSync(tarOf([file("a")])), Buffer.from("x"))),
    "compression-invalid",
  ],
  ["I5: two gzip members are one stream", members([file("a")], [file("b")]), "a b"],
  ["I5: second member after the end mark", members([file("a")], [file("b")], true), "tar-trailing-data"],
  ["I5: declared plain, is gzip", { blob: gzipSync(END) }, "media-type"],
  ["I5: declared gzip, is plain", gzipOf(tarOf([file("a")])), "media-type"],
  ["I6: bytes that are no UTF-8", files({ path: Buffer.from([0xff, 0xc0, 0x80]) }), "\xff\xc0\x80"],
  ["I6: line end and escape in a name", files(file("a\n\x1b[2J")), "a\n\x1b[2J"],
  ["I6: __proto__", files(file("__proto__/constructor")), "__proto__/ __proto__/constructor"],
  ["I6: names that differ in case", files(file("A"), file("a")), "A a"],
  ["I6: name of 256 bytes", files(file("n".repeat(256))), "entry-name"],
  [
    "I7: devices are facts",
    files({ path: "sda", type: "block", major: 8 }, { path: "mem", type: "char", major: 1 }),
    "mem! sda!",
  ],
  ["I7: device number out of range", files({ path: "x", type: "char", major: 5000 }), "entry-device"],
  [
    "I7: device through a symlink",
    files(symlink("l", "/dev"), { path: "l/x", type: "char" }),
    "entry-through-link",
  ],
  ["I7: fifo", files({ path: "p", type: "fifo" }), "p!"],
  ["I7: socket", raw(rawEntry({ type: "s" })), "tar-type"],
  [
    "I7: attribute of overlayfs is left out",
    files({ path: "d/", xattrs: { "trusted.overlay.opaque": "y" } }),
    "d/",
  ],
]

function wrongEnd(bytes: Buffer): Buffer {
  const bad = Buffer.from(bytes)
  bad[bad.length - 6] = (bad[bad.length - 6] as number) ^ 1
  return bad
}

function members(first: PackFile[], second: PackFile[], ended = false): LayerBlob {
  const one = tarOf(first)
  const head = ended ? one : one.subarray(0, -END.length)
  const parts = [head, tarOf(second)]
  return { blob: concat(...parts.map(part => gzipSync(part))), tar: concat(...parts), compression: "gzip" }
}

/** Made when the test runs: some are large. */
const bombs: readonly (readonly [name: string, make: () => LayerBlob, outcome: string])[] = [
  [
    "I5: 300 MiB of zeros in a file",
    () => gzip(concat(rawHeader({ size: 300 * MIB }), Buffer.alloc(300 * MIB), END)),
    "limit",
  ],
  [
    "I5: 100 MiB of zeros after the end",
    () => gzip(concat(tarOf([file("a")]), Buffer.alloc(100 * MIB))),
    "limit",
  ],
  [
    "I5: PAX header of 100 MiB",
    () => gzip(concat(rawHeader({ type: "x", size: 100 * MIB }), Buffer.alloc(100 * MIB))),
    "limit",
  ],
  [
    "I5: a thousand gzip members of zeros",
    () => gzipOf(concat(...Array(1000).fill(gzipSync(Buffer.alloc(MIB))))),
    "limit",
  ],
  [
    "I5: 10 GiB of zeros in 320 KB of zstd",
    () => ({ blob: rleFrame(80_000, 128 * 1024), compression: "zstd" }),
    "limit",
  ],
  ["I5: sparse file of 64 TiB", () => raw(sparse(2 ** 46)), "limit"],
  [
    "I5: a thousand sparse files of a TiB",
    () => raw(...Array.from({ length: 1000 }, () => sparse(2 ** 40))),
    "limit",
  ],
  ["I4: a sparse file of 80,000 regions", () => gzip(concat(sparse(2 ** 31, 80_000), END)), "file"],
  ["I6: 2,000 directories in one another", () => files(dir("d/".repeat(2000))), "limit"],
  [
    "I6: 10^5 hard links",
    () => gzip(tarOf([file("a"), ...Array.from({ length: 1e5 }, (_, i) => link(`l${i}`, "a"))])),
    "100001 names",
  ],
  [
    "I6: 10^5 PAX headers without an entry",
    () => gzip(concat(...Array(1e5).fill(rawPax(paxRecord("comment", "x"), "g")))),
    "",
  ],
  ["I6: attributes of 60 KiB on 400 files", () => gzip(attributes(400)), "limit"],
  ["I6: 120,000 names", () => gzip(many(120_000)), "limit"],
  ["I6: 60,000 names", () => gzip(many(60_000)), "60000 names"],
  ["I6: 10^6 directories that 2,500 names make up", () => gzip(madeUp(2500)), "limit"],
  ["I6: 5,000 symlinks of 4,000 bytes", () => gzip(longLinks(5000)), "limit"],
  ["I6: 5,000 names of 4,000 bytes", () => gzip(longNames(5000)), "5000 names"],
]

function sparse(size: number, regions = 0): Buffer {
  const map = Array.from({ length: regions }, (_, i) => `${i * 2},1`).join(",")
  const records = { size: `${size}`, numblocks: `${regions}`, map }
  const pax = Object.entries(records).map(([key, value]) => paxRecord(`GNU.sparse.${key}`, value))
  return concat(rawPax(pax.join("")), rawEntry({}, "x".repeat(regions)))
}

function attributes(count: number): Buffer {
  const pax = rawPax(paxRecord("SCHILY.xattr.user.a", "v".repeat(60_000)))
  return concat(...Array.from({ length: count }, (_, i) => concat(pax, rawEntry({ name: `${i}` }))))
}

function many(count: number): Buffer {
  return Buffer.concat(Array.from({ length: count }, (_, i) => rawHeader({ name: `${i}` })))
}

/** Every name has 400 directories of its own above it. */
function madeUp(count: number): Buffer {
  const below = "d/".repeat(400)
  return concat(
    ...Array.from({ length: count }, (_, i) =>
      concat(rawPax(paxRecord("path", `${i}/${below}f`)), rawHeader({})),
    ),
  )
}

function longLinks(count: number): Buffer {
  return concat(
    ...Array.from({ length: count }, (_, i) =>
      concat(rawPax(paxRecord("linkpath", `${i}`.padEnd(4000, "x"))), rawHeader({ name: `${i}`, type: "2" })),
    ),
  )
}

function longNames(count: number): Buffer {
  const path = `${"n".repeat(249)}/`.repeat(15)
  return concat(
    ...Array.from({ length: count }, (_, i) =>
      concat(rawPax(paxRecord("path", `${path}${i}`)), rawHeader({})),
    ),
  )
}

/** What a part says, in short; a number where it is much. */
function reading({ root }: MadePart): string {
  const names = describeTree(root, "")
  return names.length > 100
    ? `${names.filter(name => !name.endsWith("/")).length} names`
    : names.sort().join(" ")
}

function describeTree(node: TreeNode, at: string): string[] {
  return [...(node.children ?? [])].flatMap(([name, child]) => {
    const path = `${at}${name}`
    switch (child.kind) {
      case "directory":
        return [`${path}/`, ...describeTree(child, `${path}/`)]
      case "link":
        return [`${path}->${child.target}`]
      case "symlink":
        return [`${path}@`]
      default:
        return [child.kind === "file" ? path : `${path}!`]
    }
  })
}

async function outcomeOf(maker: PartMaker, layer: LayerBlob): Promise<string> {
  try {
    return reading(await maker.make(layer))
  } catch (error) {
    if (isImageError(error)) return error.code
    throw error
  }
}

/** A store, and beside it a folder that nothing may touch, with links that lead from the one to the other. */
async function guardedStore(inSeries = false): Promise<{ maker: PartMaker; expectUntouched(): void }> {
  const folder = temporaryFolder()
  const maker = await PartMaker.open(join(folder, "store"), inSeries)
  const guard = join(folder, "guard")
  mkdirSync(guard)
  writeFileSync(join(guard, "file"), "guarded", { mode: 0o600 })
  symlinkSync("../guard", join(folder, "store/guard"))
  const state = () =>
    [...snapshot(folder)].map(([path, hash]) => [path, hash, statSync(path).mode, statSync(path).mtimeMs])
  const before = state()
  return { maker, expectUntouched: () => expect(state()).toEqual(before) }
}

describe("malicious layers have one outcome, and it is inside the store", () => {
  test.each([...breakouts, ...links, ...formats])("%s", async (_name, layer, outcome) => {
    const { maker, expectUntouched } = await guardedStore()
    expect(await outcomeOf(maker, layer)).toBe(outcome)
    expectUntouched()
  })
})

describe.each([
  ["of a process of their own", false],
  ["of the process that read another layer before", true],
])("bombs take bounded memory %s", (_whose, inSeries) => {
  test.each(bombs)("%s", async (_name, make, outcome) => {
    const { maker, expectUntouched } = await guardedStore(inSeries)
    await using _ = maker
    const { peak: baseline } = await maker.make(files(file("a", "x")))
    const layer = make()
    const before = process.memoryUsage().rss
    let parent = before
    const watch = setInterval(() => {
      parent = Math.max(parent, process.memoryUsage().rss)
    }, 20)
    expect(await outcomeOf(maker, layer)).toBe(outcome)
    clearInterval(watch)
    expectUntouched()
    expect(maker.peak).toBeGreaterThan(baseline / 2)
    expect(maker.peak - baseline).toBeLessThan(MEMORY_MAX)
    expect(parent - before).toBeLessThan(MEMORY_MAX)
  })
})
