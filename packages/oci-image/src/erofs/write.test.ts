import { execFileSync } from "node:child_process"
import { createHash } from "node:crypto"
import { lstatSync, readdirSync, readFileSync, readlinkSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { describe, expect, test } from "vitest"
import type { PackFile } from "../pack/items.js"
import { packImage } from "../pack/pack-image.js"
import { ImageStore } from "../store/store.js"
import { readDiskBytes, readErofs } from "../test-support/erofs-reader.js"
import { hasProgram, temporaryFolder } from "../test-support/images.js"
import { crc32c } from "./crc32c.js"

/** Builds an image of layers and returns its disk. */
async function diskOf(...layers: (readonly PackFile[])[]): Promise<Buffer> {
  const folder = temporaryFolder()
  await packImage(join(folder, "image"), { layers: layers.map(files => ({ files })) })
  const store = await ImageStore.open(join(folder, "store"))
  return readDiskBytes((await store.load(`oci:${join(folder, "image")}`)).disk())
}

/** A tree like a small distribution's: 2,000 files of all kinds and sizes, deep and flat, the same every time. */
function realisticTree(): PackFile[] {
  const files: PackFile[] = [{ path: "./", mode: 0o755, mtime: 1_700_000_000 }]
  const random = (n: number) => createHash("sha256").update(`${n}`).digest()
  for (const [i, d] of [
    "bin",
    "etc",
    "lib",
    "usr",
    "usr/bin",
    "usr/lib",
    "usr/share",
    "tmp",
    "var/cache",
  ].entries()) {
    files.push({ path: `${d}/`, mode: d === "tmp" ? 0o1777 : 0o755, mtime: 1_600_000_000 + i + 0.123456789 })
  }
  for (let i = 0; i < 1700; i++) {
    const bytes = random(i)
    const size =
      i % 10 === 0
        ? bytes.readUInt16LE(0) * 3
        : i % 7 === 0
          ? (bytes[0] as number) % 3
            ? 4096
            : 0
          : bytes.readUInt16LE(2) % 5000
    const content = Buffer.alloc(size, bytes)
    const path = `usr/share/d${i % 23}/e${i % 5}/file-${i}${"n".repeat(i % 190)}`
    files.push({
      path,
      content,
      mode: (bytes[4] as number) % 2 ? 0o644 : 0o755,
      uid: i % 3 ? 0 : 100_000 + i,
      gid: i % 60_000,
      mtime: 1.6e9 + i,
    })
  }
  for (let i = 0; i < 200; i++)
    files.push({ path: `usr/lib/link-${i}`, target: `../share/${"x".repeat(i * 20 + 1)}`, mtime: i })
  for (let i = 0; i < 40; i++)
    files.push({
      path: `bin/hard-${i}`,
      type: "link",
      target: `usr/share/d${i % 23}/e${i % 5}/file-${i}${"n".repeat(i % 190)}`,
    })
  files.push({ path: "bin/su", content: "setuid", mode: 0o4755 }, { path: "var/pipe", type: "fifo" })
  files.push({ path: Buffer.from("etc/\xe9t\xe9\n!", "latin1"), content: "bytes" })
  files.push({
    path: "usr/bin/ping",
    content: "p",
    xattrs: { "security.capability": Buffer.from([1, 0, 0, 2, 0, 32, 0, 0, 255]) },
  })
  return files
}

function contentHash(bytes: Buffer): string {
  return createHash("sha256").update(bytes).digest("hex")
}

describe("a realistic tree", () => {
  test("reads back as it was written, file by file", async () => {
    const files = realisticTree()
    const seen = readErofs(await diskOf(files))
    const byPath = new Map(files.map(f => [name(f), f]))
    for (const file of files) {
      const node = seen.get(name(file))
      const source = file.type === "link" ? (byPath.get(`${file.target}`) as PackFile) : file
      const bytes = Buffer.from((source.target ?? source.content ?? "") as string)
      expect(node, name(file)).toBeDefined()
      expect({ mode: (node?.mode ?? 0) & 0o7777, uid: node?.uid, gid: node?.gid }, name(file)).toEqual({
        mode: source.mode ?? (source.target ? 0o777 : 0o644),
        uid: source.uid ?? 0,
        gid: source.gid ?? 0,
      })
      expect((node?.mtime ?? 0) + (node?.nsec ?? 0) / 1e9, name(file)).toBeCloseTo(source.mtime ?? 0, 6)
      if (!name(file).endsWith("/") && !isDirectory(file))
        expect(node?.content.equals(bytes), name(file)).toBe(true)
    }
    const hard = seen.get("bin/hard-7")
    expect(hard?.nid).toBe(seen.get(`${byPath.get("bin/hard-7")?.target}`)?.nid)
    expect(hard?.nlink).toBe(2)
    expect(seen.get("usr/bin/ping")?.xattrs).toEqual(
      new Map([["security.capability", "\x01\0\0\x02\0 \0\0\xff"]]),
    )
  })

  const noFsck = hasProgram("fsck.erofs") ? false : "fsck.erofs is not installed (package erofs-utils)"
  test.skipIf(noFsck)(
    `is accepted and extracted by fsck.erofs${noFsck ? ` (skipped: ${noFsck})` : ""}`,
    async () => {
      const folder = temporaryFolder()
      const disk = await diskOf(realisticTree(), [
        { path: "usr/share/d1/.wh..wh..opq" },
        { path: "etc/new", content: "n" },
      ])
      writeFileSync(join(folder, "disk"), disk)

      execFileSync("fsck.erofs", [join(folder, "disk")], { stdio: "pipe" })
      execFileSync(
        "fsck.erofs",
        [`--extract=${join(folder, "out")}`, "--no-preserve-owner", join(folder, "disk")],
        { stdio: "pipe" },
      )

      const out = join(folder, "out")
      const seen = readErofs(disk)
      const extracted = readdirSync(out, { recursive: true, encoding: "latin1" })
      expect(new Set(extracted)).toEqual(new Set([...seen.keys()].filter(p => p !== "")))
      for (const [path, file] of seen) compareExtracted(join(out), path, file.mode, file.content)
    },
  )
})

function compareExtracted(out: string, path: string, mode: number, content: Buffer): void {
  const at = Buffer.concat([Buffer.from(`${out}/`), Buffer.from(path, "latin1")])
  const stats = lstatSync(at)
  expect(stats.mode & 0o170000, path).toBe(mode & 0o170000)
  if (stats.isSymbolicLink()) expect(readlinkSync(at, "latin1"), path).toBe(content.toString("latin1"))
  else if (stats.isFile()) expect(contentHash(readFileSync(at)), path).toBe(contentHash(content))
}

function name(file: PackFile): string {
  const path = Buffer.from(file.path as string).toString("latin1")
  return path === "./" ? "" : path.replace(/\/$/, "")
}

function isDirectory(file: PackFile): boolean {
  return Buffer.from(file.path as string)
    .toString("latin1")
    .endsWith("/")
}

describe("corner cases of the format", () => {
  test("an image without layers is an empty root", async () => {
    const seen = readErofs(await diskOf())
    expect([...seen.keys()]).toEqual([""])
    expect(seen.get("")).toMatchObject({ mode: 0o040755, nlink: 2 })
  })

  test("directories whose size is just below, at, and above a block", async () => {
    for (let length = 150; length <= 255; length += 5) {
      const files = Array.from({ length: 40 }, (_, i) => ({ path: `d/${String(i).padStart(length, "x")}` }))
      expect(readErofs(await diskOf(files)).size).toBe(42)
    }
  })

  test("a directory of 20,000 names keeps byte order", async () => {
    const files = Array.from({ length: 20_000 }, (_, i) => ({ path: `d/${i}` }))
    const seen = readErofs(await diskOf(files))
    expect(seen.size).toBe(20_002)
  }, 30_000)

  test("names before and after . and .. sort where the kernel looks for them", async () => {
    const names = ["!", "-", ".", "..a", ".a", "...", "/x", "~", "\u00e9"].filter(
      n => n !== "." && !n.includes("/"),
    )
    const seen = readErofs(await diskOf(names.map(path => ({ path }))))
    expect(seen.size).toBe(names.length + 1)
  })

  test("symlinks of every length, inline and not", async () => {
    const files = [1, 63, 3999, 4031, 4032, 4033, 4095].map(n => ({ path: `l${n}`, target: "t".repeat(n) }))
    const seen = readErofs(await diskOf(files))
    for (const { path, target } of files) expect(seen.get(path)?.content.toString()).toBe(target)
  })

  test("attributes that reach over several blocks, on files, directories and symlinks", async () => {
    const xattrs = Object.fromEntries(
      Array.from({ length: 12 }, (_, i) => [`user.key${i}`, `${i}`.repeat(4000)]),
    )
    const disk = await diskOf([
      { path: "f", xattrs, content: "x" },
      { path: "d/", xattrs },
      { path: "d/x" },
      { path: "l", target: "t", xattrs },
    ])
    const seen = readErofs(disk)
    for (const path of ["f", "d", "l"])
      expect(Object.fromEntries(seen.get(path)?.xattrs ?? [])).toEqual(xattrs)
    expect(seen.get("l")?.content.toString()).toBe("t")
    expect(seen.has("d/x")).toBe(true)
  })

  test("device numbers as Linux encodes them", async () => {
    const seen = readErofs(
      await diskOf([
        { path: "a", type: "char", major: 1, minor: 3 },
        { path: "b", type: "block", major: 259, minor: 0x12345 },
      ]),
    )
    expect(seen.get("a")).toMatchObject({ mode: 0o020644, rdev: 0x103 })
    expect(seen.get("b")).toMatchObject({
      mode: 0o060644,
      rdev: (0x12345 & 0xff) | (259 << 8) | ((0x12345 & ~0xff) << 12),
    })
  })

  test("times before 1970 and after 2106", async () => {
    const seen = readErofs(
      await diskOf([
        { path: "old", mtime: -86_400.5 },
        { path: "new", mtime: 2 ** 33 },
      ]),
    )
    expect(seen.get("old")).toMatchObject({ mtime: -86_401, nsec: 500_000_000 })
    expect(seen.get("new")).toMatchObject({ mtime: 2 ** 33, nsec: 0 })
  })

  test("link counts: directories count their subdirectories, files their names", async () => {
    const seen = readErofs(
      await diskOf(
        [{ path: "d/a/" }, { path: "d/b/" }, { path: "f" }],
        [{ path: "g", type: "link", target: "f" }],
      ),
    )
    expect(seen.get("")?.nlink).toBe(3)
    expect(seen.get("d")?.nlink).toBe(4)
    expect(seen.get("f")?.nlink).toBe(2)
  })

  test("equal layers give equal disks", async () => {
    const tree = realisticTree()
    expect(contentHash(await diskOf(tree))).toBe(contentHash(await diskOf(tree)))
  })

  test("crc32c has the value every implementation gives, without the final inversion", () => {
    expect(~crc32c(0xffffffff, Buffer.from("123456789")) >>> 0).toBe(0xe3069283)
  })
})
