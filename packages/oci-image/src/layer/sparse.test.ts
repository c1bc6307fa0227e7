import { execFileSync, spawnSync } from "node:child_process"
import {
  appendFileSync,
  closeSync,
  existsSync,
  ftruncateSync,
  openSync,
  readFileSync,
  writeFileSync,
  writeSync,
} from "node:fs"
import { join } from "node:path"
import { describe, expect, test } from "vitest"
import { buildSpanIndex } from "../lazy/build-span-index.js"
import { DEFAULT_LIMITS } from "../limits.js"
import { ImageStore } from "../store/store.js"
import { readDiskBytes, readErofs } from "../test-support/erofs-reader.js"
import { codeOf, hasProgram, readTar, TestLayout, temporaryFolder } from "../test-support/images.js"
import { PartMaker } from "../test-support/layers.js"
import { base256, END, padded, paxRecord, rawEntry, rawHeader, rawPax } from "../test-support/raw-tar.js"

const KIB = 1024
const MIB = 1024 * KIB
const concat = (...parts: Buffer[]) => Buffer.concat(parts)

/** A file of 9 MiB and a bit with content at odd places, in more regions than a header holds. */
function sparseFile(path: string): Buffer {
  const fd = openSync(path, "w+")
  for (let i = 0; i < 40; i++) writeSync(fd, Buffer.alloc(5000, `${i}-`), 0, 5000, i * 200 * KIB + i * 77)
  ftruncateSync(fd, 9 * MIB + 123)
  closeSync(fd)
  return readFileSync(path)
}

async function diskOf(tar: Buffer): Promise<Buffer> {
  const folder = temporaryFolder()
  const layout = new TestLayout(join(folder, "image"))
  layout.image([{ blob: tar, tar }])
  const store = await ImageStore.open(join(folder, "store"))
  return readDiskBytes((await store.load(`oci:${layout.path}`)).disk())
}

describe("sparse files as GNU tar writes them", () => {
  const formats: readonly (readonly [string, readonly string[]])[] = [
    ["old GNU format", ["--format=gnu"]],
    ["PAX format 0.0", ["--format=posix", "--sparse-version=0.0"]],
    ["PAX format 0.1", ["--format=posix", "--sparse-version=0.1"]],
    ["PAX format 1.0", ["--format=posix", "--sparse-version=1.0"]],
  ]

  test.each(formats)(
    "I4: %s: the guest sees the file, the disk has no block for its holes",
    async (_name, options) => {
      const folder = temporaryFolder()
      const content = sparseFile(join(folder, "sparse"))
      writeFileSync(join(folder, "hole"), "")
      execFileSync("truncate", ["-s", "5000001", join(folder, "hole")])
      writeFileSync(join(folder, "after"), "after")
      const names = ["sparse", "hole", "after"]
      const disk = await diskOf(execFileSync("tar", [...options, "--sparse", "-C", folder, "-c", ...names]))

      const seen = readErofs(disk)
      expect(seen.get("sparse")?.content.equals(content)).toBe(true)
      expect(seen.get("hole")?.content.equals(Buffer.alloc(5_000_001))).toBe(true)
      expect(seen.get("after")?.content.toString()).toBe("after")
      expect(disk.length).toBeLessThan(2 * MIB)
    },
  )

  const noFsck = hasProgram("fsck.erofs") ? false : "fsck.erofs is not installed (package erofs-utils)"
  // Extraction by version 1.5 leaves holes out, which moves what is behind them: it is not compared.
  test.skipIf(noFsck)(`are accepted by fsck.erofs${noFsck ? ` (skipped: ${noFsck})` : ""}`, async () => {
    const folder = temporaryFolder()
    sparseFile(join(folder, "sparse"))
    const tar = execFileSync("tar", ["--format=gnu", "--sparse", "-C", folder, "-c", "sparse"])
    writeFileSync(join(folder, "disk"), await diskOf(tar))
    expect(() => execFileSync("fsck.erofs", [join(folder, "disk")], { stdio: "pipe" })).not.toThrow()
  })

  const noMount = mountObstacle()
  test.skipIf(noMount)(`are read by this kernel${noMount ? ` (skipped: ${noMount})` : ""}`, async () => {
    const folder = temporaryFolder()
    const content = sparseFile(join(folder, "sparse"))
    // Large chunks: the only content begins at 32 MiB.
    writeFileSync(join(folder, "late"), "")
    execFileSync("truncate", ["-s", "32M", join(folder, "late")])
    appendFileSync(join(folder, "late"), "late")
    execFileSync("truncate", ["-s", "50M", join(folder, "late")])
    writeFileSync(join(folder, "plain"), content)
    const tar = join(folder, "tar")
    execFileSync("tar", ["--format=gnu", "-S", "-C", folder, "-cf", tar, "sparse", "late", "plain"])
    writeFileSync(join(folder, "disk"), await diskOf(readFileSync(tar)))

    const script = `mount -t erofs -o ro,loop disk . && cd . && sha256sum sparse late plain`
    const seen = execFileSync("unshare", ["--mount", "sh", "-c", script], { cwd: folder, encoding: "utf8" })

    expect(seen).toBe(
      execFileSync("sha256sum", ["sparse", "late", "plain"], { cwd: folder, encoding: "utf8" }),
    )
  })
})

/** Why this machine cannot mount an image in a mount namespace of its own; false when it can. */
function mountObstacle(): string | false {
  if (!/\berofs$/m.test(readFileSync("/proc/filesystems", "latin1"))) return "the kernel has no EROFS"
  if (!existsSync("/dev/loop-control")) return "the kernel has no loop devices"
  const { status } = spawnSync("unshare", ["--mount", "true"], { stdio: "ignore" })
  return status === 0 ? false : "mounting is not allowed"
}

/** A full list of regions without a byte. */
const nothing = [0, 1, 2, 3].map(offset => [offset, 0] as const)

/** An old GNU header with up to four regions. */
function oldHeader(regions: readonly (readonly [number, number])[], realSize: number, more = false): Buffer {
  const size = regions.reduce((sum, [, count]) => sum + count, 0)
  const header = rawHeader({ type: "S", size, magic: "ustar  \0" })
  for (const [i, [offset, count]] of regions.entries()) {
    base256(BigInt(offset), 12).copy(header, 386 + i * 24)
    base256(BigInt(count), 12).copy(header, 398 + i * 24)
  }
  header[482] = more ? 1 : 0
  base256(BigInt(realSize), 12).copy(header, 483)
  header.fill(0x20, 148, 156)
  const sum = header.reduce((a, b) => a + b, 0)
  header.write(`${sum.toString(8).padStart(6, "0")}\0 `, 148, "latin1")
  return header
}

const pax0 = (map: string, count: number, size: number) =>
  rawPax(
    paxRecord("GNU.sparse.size", `${size}`) +
      paxRecord("GNU.sparse.numblocks", `${count}`) +
      paxRecord("GNU.sparse.map", map),
  )
const pax1 = (size: number | string, more = "") =>
  rawPax(
    paxRecord("GNU.sparse.major", "1") +
      paxRecord("GNU.sparse.minor", "0") +
      paxRecord("GNU.sparse.name", "real") +
      paxRecord("GNU.sparse.realsize", `${size}`) +
      more,
  )
const mapped = (map: string, content: string) =>
  rawEntry(
    { name: "made-up", size: padded(map).length + content.length },
    padded(map).toString("latin1") + content,
  )

describe("hostile sparse files", () => {
  const cases: readonly (readonly [string, string, Buffer])[] = [
    ["regions overlap", "tar-sparse", concat(pax0("0,5,4,5", 2, 100), rawEntry({}, "x".repeat(10)))],
    ["regions out of order", "tar-sparse", concat(pax0("50,5,4,5", 2, 100), rawEntry({}, "x".repeat(10)))],
    ["region beyond the file", "tar-sparse", concat(pax0("98,5", 1, 100), rawEntry({}, "x".repeat(5)))],
    ["regions and content disagree", "tar-sparse", concat(pax0("0,5", 1, 100), rawEntry({}, "x".repeat(6)))],
    ["more regions than said", "tar-sparse", concat(pax0("0,1,2,1", 1, 100), rawEntry({}, "xx"))],
    ["half a region", "tar-sparse", concat(pax0("0,1,2", 1, 100), rawEntry({}, "x"))],
    ["negative offset", "tar-sparse", concat(pax0("-1,1", 1, 100), rawEntry({}, "x"))],
    ["offset beyond 2^53", "tar-sparse", concat(pax0("9007199254740993,1", 1, 100), rawEntry({}, "x"))],
    ["map with text", "tar-sparse", concat(pax0("0,x", 1, 100), rawEntry({}, "x"))],
    ["map of a directory", "tar-sparse", concat(pax0("", 0, 100), rawEntry({ name: "d/", type: "5" }))],
    ["map of an old GNU entry", "tar-sparse", concat(pax0("", 0, 100), oldHeader([], 100))],
    ["file larger than a layer", "limit", concat(pax0("", 0, 2 ** 50), rawEntry({}))],
    ["more holes than allowed", "limit", concat(pax0("", 0, DEFAULT_LIMITS.holeBytes + 1), rawEntry({}))],
    [
      "many files that have more holes together",
      "limit",
      concat(...[1, 2, 3].map(i => concat(pax0("", 0, 6 * 2 ** 30), rawEntry({ name: `${i}` })))),
    ],
    [
      "10^6 regions in a 1.0 map",
      "limit",
      concat(pax1(2e6), mapped(`1000000\n${"0\n0\n".repeat(1000)}`, "")),
    ],
    [
      "10^6 regions in extension headers",
      "limit",
      concat(oldHeader(nothing, 2e9, true), ...Array.from({ length: 6000 }, (_, i) => extension(i + 1))),
    ],
    [
      "extension after the end of the map",
      "tar-sparse",
      concat(oldHeader([[0, 1]], 9, true), extension(1), padded("x")),
    ],
    ["real size below the content", "tar-sparse", concat(oldHeader([[0, 8]], 7), padded("xxxxxxxx"))],
    ["negative real size", "tar-sparse", concat(oldHeader([], -1))],
    ["old map where a POSIX header has its prefix", "tar-sparse", rawEntry({ type: "S" })],
    [
      "negative region",
      "tar-sparse",
      concat(
        oldHeader(
          [
            [0, 5],
            [5, -5],
            [9, 1],
          ],
          10,
        ),
      ),
    ],
    ["1.0 without map", "tar-sparse", concat(pax1(10), rawEntry({ size: 0 }), rawEntry({ name: "next" }))],
    ["1.0 with a map that does not end", "tar-sparse", concat(pax1(10), mapped("3\n0\n1\n", "x"))],
    ["1.0 with text in the map", "tar-sparse", concat(pax1(10), mapped("x\n", "x"))],
    ["1.0 with an endless number", "tar-sparse", concat(pax1(10), mapped("0".repeat(400), "x"))],
    [
      "1.0 of an unknown version",
      "tar-sparse",
      concat(rawPax(paxRecord("GNU.sparse.major", "2")), rawEntry({})),
    ],
    [
      "1.0 and 0.1 at once",
      "tar-sparse",
      concat(pax1(10, paxRecord("GNU.sparse.map", "0,1")), rawEntry({}, "x")),
    ],
    ["two sizes", "tar-sparse", concat(pax1(10, paxRecord("GNU.sparse.realsize", "9")), rawEntry({}, "x"))],
    ["name with NUL", "tar-sparse", concat(rawPax(paxRecord("GNU.sparse.name", "a\0b")), rawEntry({}))],
    ["name that leaves the root", "entry-escapes", escaping()],
    [
      "records of a global header",
      "tar-pax",
      concat(rawPax(paxRecord("GNU.sparse.size", "9"), "g"), rawEntry({})),
    ],
    [
      "numbytes before offset",
      "tar-sparse",
      concat(rawPax(paxRecord("GNU.sparse.numbytes", "9")), rawEntry({})),
    ],
  ]

  test.each(cases)("I4: %s: %s", async (_name, code, tar) => {
    const maker = await PartMaker.open(temporaryFolder())
    expect(await codeOf(() => maker.make({ blob: concat(tar, END) }))).toBe(code)
  })

  test("I4: a stream that ends before an extension header is cut off", async () => {
    expect(
      await codeOf(() => readTar(oldHeader(nothing, 9, true), 512, DEFAULT_LIMITS, { sparse: true })),
    ).toBe("tar-truncated")
  })

  test("I4: the largest hole that is allowed costs no block of data and a few bytes of map", async () => {
    const maker = await PartMaker.open(temporaryFolder())
    const blob = concat(pax0("", 0, DEFAULT_LIMITS.holeBytes), rawEntry({ name: "h" }), END)
    const { data, root } = await maker.make({ blob })
    expect(data.length).toBe(0)
    expect(root.children?.get("h")).toMatchObject({ size: DEFAULT_LIMITS.holeBytes, runs: [] })
  })

  test("a layer with one is nowhere in one piece: it is not divided for a lazy start", async () => {
    const folder = temporaryFolder()
    const blob = join(folder, "blob")
    const tar = concat(pax0("8192,1", 1, 9000), rawEntry({}, "x"), rawEntry({ name: "b" }, "y"), END)
    writeFileSync(blob, tar)
    const { data, root } = await (await PartMaker.open(join(folder, "store"))).make({ blob: tar })
    writeFileSync(join(folder, "data"), data)
    const layer = {
      blob,
      data: join(folder, "data"),
      root,
      compression: "none",
      limits: DEFAULT_LIMITS,
    } as const
    expect(await buildSpanIndex(layer)).toBeUndefined()
  })

  test("the name in the map counts, and regions of no bytes are no blocks", async () => {
    const maker = await PartMaker.open(temporaryFolder())
    const blob = concat(pax1(20_000), mapped("3\n0\n0\n8191\n2\n20000\n0\n", "xy"), END)
    const { data, root } = await maker.make({ blob })
    expect([...(root.children?.keys() ?? [])]).toEqual(["real"])
    expect(root.children?.get("real")).toMatchObject({ size: 20_000, runs: [1, 2], block: 0 })
    expect(data.length).toBe(8192)
    expect(data.toString("latin1", 4095, 4097)).toBe("xy")
  })

  test("a file whose regions leave no block out is an ordinary one", async () => {
    const maker = await PartMaker.open(temporaryFolder())
    const { root } = await maker.make({
      blob: concat(pax0("0,4096,5000,1", 2, 5001), rawEntry({}, "x".repeat(4097)), END),
    })
    expect(root.children?.get("file")?.runs).toBeUndefined()
  })
})

function escaping(): Buffer {
  const pax = rawPax(
    paxRecord("GNU.sparse.major", "1") +
      paxRecord("GNU.sparse.minor", "0") +
      paxRecord("GNU.sparse.name", "../real") +
      paxRecord("GNU.sparse.realsize", "4"),
  )
  return concat(pax, mapped("1\n0\n4\n", "good"))
}

/** 21 regions without a byte, in a block that says that another one follows. */
function extension(number: number): Buffer {
  const block = Buffer.alloc(512)
  for (let i = 0; i < 21; i++) {
    base256(BigInt(number * 21 + i), 12).copy(block, i * 24)
    base256(0n, 12).copy(block, i * 24 + 12)
  }
  block[504] = 1
  return block
}
