import { execFileSync } from "node:child_process"
import { mkdirSync, symlinkSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { extract } from "tar-stream"
import { describe, expect, test } from "vitest"
import { DEFAULT_LIMITS } from "../limits.js"
import { codeOf, readTar, tarOf, temporaryFolder } from "../test-support/images.js"
import { base256, END, padded, paxRecord, rawEntry, rawHeader, rawPax } from "../test-support/raw-tar.js"

const concat = (...parts: Buffer[]) => Buffer.concat(parts)

describe("well-formed streams", () => {
  test("hands out the same entries however the stream is cut", () => {
    const stream = tarOf([
      { path: "dir/", mode: 0o1777 },
      { path: `dir/${"n".repeat(150)}`, content: "x".repeat(1000), uid: 3_000_000, mtime: -1.25 },
      { path: "s", target: "t".repeat(200) },
      { path: "x", content: "y", xattrs: { "user.a": Buffer.from([0, 255]) } },
    ])
    const whole = readTar(stream)
    expect(whole.map(([e]) => [e.type, e.path.length])).toEqual([
      ["directory", 4],
      ["file", 154],
      ["symlink", 1],
      ["file", 1],
    ])
    expect(whole[1]?.[0]).toMatchObject({
      uid: 3_000_000,
      size: 1000,
      mtime: { seconds: -2, nanoseconds: 750_000_000 },
    })
    expect(whole[3]?.[0].xattrs?.get("user.a")).toEqual(Buffer.from([0, 255]))
    for (const size of [1, 7, 511, 512, 513, 4096]) expect(readTar(stream, size)).toEqual(whole)
  })

  test.each(["gnu", "posix", "ustar", "v7"])(
    "reads what GNU tar writes as %s, as tar-stream does",
    async format => {
      const folder = temporaryFolder()
      const deep = "d".repeat(40)
      mkdirSync(join(folder, deep))
      writeFileSync(join(folder, deep, "e".repeat(50)), "content")
      symlinkSync("target", join(folder, "link"))
      if (format === "gnu" || format === "posix") writeFileSync(join(folder, deep, "f".repeat(200)), "long")
      const stream = execFileSync("tar", [`--format=${format}`, "--sort=name", "-C", folder, "-c", "."])

      const ours = readTar(stream).map(([e, content]) => [e.path, e.type, e.size, e.mode, e.uid, content])

      expect(ours).toEqual(await withTarStream(stream))
    },
  )

  test("accepts a stream without end mark, and an empty one", () => {
    expect(readTar(rawEntry({}, "abc"))).toHaveLength(1)
    expect(readTar(Buffer.alloc(0))).toHaveLength(0)
  })

  test("I4: reads base-256 numbers", () => {
    const size = base256(5n, 12)
    const header = rawHeader({ size, uid: base256(4_000_000_000n, 8), mtime: base256(-5n, 12) })
    const [[entry, content] = []] = readTar(concat(header, padded("hello"), END))
    expect(entry).toMatchObject({ size: 5, uid: 4_000_000_000, mtime: { seconds: -5 } })
    expect(content).toBe("hello")
  })

  test("I4: a PAX size above what the header can hold counts, and the header's does not (CVE-2025-62518)", () => {
    const stream = concat(rawPax(paxRecord("size", "8589934592")), rawHeader({ size: 0 }))
    expect(() => readTar(stream)).toThrow(/ends inside an entry/)
  })
})

async function withTarStream(stream: Buffer): Promise<unknown[]> {
  const entries: unknown[] = []
  const options: object = { allowUnknownFormat: true, filenameEncoding: "latin1" }
  const parser = extract(options)
  parser.end(stream)
  for await (const entry of parser) {
    let content = ""
    for await (const chunk of entry) content += (chunk as Buffer).toString("latin1")
    const { name, type, size, mode, uid } = entry.header
    entries.push([name, type, size, (mode ?? 0) & 0o7777, uid, content])
  }
  return entries
}

describe("hostile streams", () => {
  const hidden = rawEntry({ name: "hidden" }, "inner")
  const cases: readonly (readonly [string, string, Buffer])[] = [
    [
      "I4: PAX size and header size disagree",
      "tar-disagrees",
      concat(rawPax(paxRecord("size", "512")), rawHeader({ size: 0 }), hidden),
    ],
    [
      "I4: PAX size before a GNU long name",
      "tar-pax",
      concat(rawPax(paxRecord("size", "9")), rawEntry({ type: "L" }, "name\0")),
    ],
    [
      "I4: PAX header before a PAX header",
      "tar-pax",
      concat(rawPax(paxRecord("uid", "1")), rawPax(paxRecord("uid", "2")), rawEntry({})),
    ],
    ["I4: PAX header with nothing after it", "tar-truncated", concat(rawPax(paxRecord("uid", "1")), END)],
    ["I4: NUL in a PAX path", "tar-pax", concat(rawPax(paxRecord("path", "a\0b")), rawEntry({}))],
    [
      "I4: NUL in a PAX link path",
      "tar-pax",
      concat(rawPax(paxRecord("linkpath", "a\0b")), rawEntry({ type: "2", linkname: "l" })),
    ],
    ["I4: NUL in a PAX key", "tar-pax", concat(rawPax(paxRecord("pa\0th", "a")), rawEntry({}))],
    ["I4: NUL in a GNU long name", "tar-pax", concat(rawEntry({ type: "L" }, "a\0b\0"), rawEntry({}))],
    ["I4: empty PAX path", "tar-pax", concat(rawPax(paxRecord("path", "")), rawEntry({}))],
    ["I4: PAX record longer than its header", "tar-pax", concat(rawPax("99 path=a\n"), rawEntry({}))],
    ["I4: PAX record without line end", "tar-pax", concat(rawPax("9 path=ab"), rawEntry({}))],
    ["I4: PAX record of length 0", "tar-pax", concat(rawPax("0 path=a\n"), rawEntry({}))],
    ["I4: PAX record without key", "tar-pax", concat(rawPax("5 =a\n"), rawEntry({}))],
    ["I4: PAX record with a sign in its length", "tar-pax", concat(rawPax("+9 path=a\n"), rawEntry({}))],
    ["I4: negative PAX size", "tar-number", concat(rawPax(paxRecord("size", "-1")), rawEntry({}))],
    ["I4: PAX size in hex", "tar-number", concat(rawPax(paxRecord("size", "0x10")), rawEntry({}))],
    [
      "I4: PAX size beyond 2^53",
      "tar-number",
      concat(rawPax(paxRecord("size", "9007199254740993")), rawEntry({})),
    ],
    [
      "I4: global PAX header with a path",
      "tar-pax",
      concat(rawPax(paxRecord("path", "evil"), "g"), rawEntry({})),
    ],
    [
      "I4: global PAX header with a size",
      "tar-pax",
      concat(rawPax(paxRecord("size", "4096"), "g"), rawEntry({})),
    ],
    ["I4: negative size in base-256", "tar-number", rawHeader({ size: base256(-512n, 12) })],
    ["I4: negative size of a meta entry", "tar-number", rawHeader({ type: "x", size: base256(-512n, 12) })],
    ["I4: size beyond 2^53 in base-256", "tar-number", rawHeader({ size: base256(2n ** 60n, 12) })],
    ["I4: minus sign in an octal field", "tar-number", rawHeader({ size: "-0000000512" })],
    ["I4: digit 8 in an octal field", "tar-number", rawHeader({ size: "00000000018" })],
    ["I4: negative owner", "tar-number", rawHeader({ uid: base256(-1n, 8) })],
    ["I4: owner 2^32-1", "tar-number", rawHeader({ uid: base256(0xffffffffn, 8) })],
    ["I4: wrong checksum", "tar-checksum", rawHeader({ checksum: "0000001\0" })],
    ["I4: not a tar stream", "tar-header", Buffer.alloc(1024, 0x41)],
    ["I4: sparse file, old GNU format", "tar-sparse", rawHeader({ type: "S" })],
    [
      "I4: sparse file, PAX format",
      "tar-sparse",
      concat(rawPax(paxRecord("GNU.sparse.major", "1")), rawEntry({})),
    ],
    ["I4: sparse file with a million regions", "tar-sparse", concat(rawPax(sparseMap(90_000)), rawEntry({}))],
    ["I4: directory with content", "tar-size", rawHeader({ name: "d/", type: "5", size: 512 })],
    ["I4: hard link with content", "tar-size", rawHeader({ type: "1", linkname: "a", size: 512 })],
    ["I4: symlink with content", "tar-size", rawHeader({ type: "2", linkname: "a", size: 512 })],
    ["I4: multi-volume entry", "tar-type", rawHeader({ type: "M" })],
    ["I4: unknown type", "tar-type", rawHeader({ type: "Z" })],
    ["I5: stream ends inside content", "tar-truncated", rawHeader({ size: 100 })],
    ["I5: stream ends inside a header", "tar-truncated", rawHeader({}).subarray(0, 100)],
    ["I5: data after the end mark", "tar-trailing-data", concat(END, rawEntry({ name: "late" }))],
    [
      "I5: header after one zero block",
      "tar-trailing-data",
      concat(END.subarray(512), rawEntry({ name: "late" })),
    ],
    ["I5: megabytes of zeros after the end mark", "limit", Buffer.alloc(DEFAULT_LIMITS.paddingBytes + 4096)],
    ["I5: huge PAX header", "limit", rawHeader({ type: "x", size: DEFAULT_LIMITS.paxBytes + 1 })],
    ["I6: huge attributes", "limit", concat(rawPax(attributes(3, 40_000)), rawEntry({}))],
    ["I6: attribute value above 64 KiB", "entry-xattr", concat(rawPax(attributes(1, 65_536)), rawEntry({}))],
  ]

  test.each(cases)("%s: %s", async (_name, code, stream) => {
    expect(await codeOf(() => readTar(stream))).toBe(code)
    expect(await codeOf(() => readTar(stream, 333))).toBe(code)
  })

  test("I4: a global PAX header that says nothing of importance is ignored", () => {
    expect(
      readTar(concat(rawPax(paxRecord("comment", "0123"), "g"), rawEntry({ name: "a" }), END)),
    ).toHaveLength(1)
  })

  test("I6: a million empty entries end at the limit", async () => {
    const limits = { ...DEFAULT_LIMITS, entries: 100 }
    const stream = concat(...Array.from({ length: 300 }, (_, i) => rawEntry({ name: `f${i}` })))
    expect(await codeOf(() => readTar(stream, 4096, limits))).toBe("limit")
  })
})

function sparseMap(regions: number): string {
  return (
    paxRecord("GNU.sparse.numblocks", `${regions}`) +
    paxRecord("GNU.sparse.map", "0,1,".repeat(regions).slice(0, -1))
  )
}

function attributes(count: number, size: number): string {
  return Array.from({ length: count }, (_, i) => paxRecord(`SCHILY.xattr.user.a${i}`, "v".repeat(size))).join(
    "",
  )
}
