import { execFileSync } from "node:child_process"
import { closeSync, openSync, readFileSync, truncateSync, writeFileSync, writeSync } from "node:fs"
import { join } from "node:path"
import { describe, expect, test } from "vitest"
import { writeMetadata } from "../erofs/write.js"
import { ImageError } from "../errors.js"
import { TarReader } from "../layer/tar-reader.js"
import { TreeNode } from "../layer/tree.js"
import { DEFAULT_LIMITS } from "../limits.js"
import type { PackFile } from "../pack/items.js"
import { packImage } from "../pack/pack-image.js"
import { ImageStore } from "../store/store.js"
import type { ImageDisk } from "../store/stored-image.js"
import { readDiskBytes, readErofs } from "../test-support/erofs-reader.js"
import { codeOf, hasProgram, readTar, temporaryFolder } from "../test-support/images.js"
import { rootTar } from "./index.js"

async function diskOf(...layers: PackFile[][]): Promise<ImageDisk> {
  const folder = temporaryFolder()
  await packImage(join(folder, "image"), { layers: layers.map(files => ({ files })) })
  const store = await ImageStore.open(join(folder, "store"))
  return (await store.load(`oci:${join(folder, "image")}`)).disk()
}

async function tarOf(disk: ImageDisk): Promise<Buffer> {
  const pieces: Buffer[] = []
  for await (const piece of rootTar(disk)) pieces.push(piece)
  return Buffer.concat(pieces)
}

const nothing = () => undefined

const FILES: PackFile[] = [
  { path: "bin/" },
  {
    path: "bin/tool",
    content: "#!/bin/sh\n",
    mode: 0o4755,
    xattrs: { "security.capability": "\u0001\u0000" },
  },
  { path: "bin/alias", type: "link", target: "bin/tool" },
  { path: "big", content: "x".repeat(300_001), uid: 1000, gid: 100, mtime: 1.25 },
  { path: "empty" },
  { path: "dev/null", type: "char", major: 1, minor: 3 },
  { path: "dev/far", type: "block", major: 4095, minor: 1_048_575 },
  { path: "pipe", type: "fifo" },
  { path: "link", target: "../../etc/shadow" },
  { path: `${"long/".repeat(40)}name`, content: "deep" },
  { path: Buffer.from("caf\xe9", "latin1"), content: "bytes" },
]

describe("the root of an image as a tar stream", () => {
  test("is what a guest sees, in the order of names", async () => {
    const disk = await diskOf(FILES)
    const seen = readErofs(readDiskBytes(disk))
    const entries = readTar(await tarOf(disk))
    expect(entries.map(([entry]) => entry.path.replace(/\/$/, ""))).toEqual([...seen.keys()].filter(Boolean))
    for (const [{ path, mode, uid, gid, mtime, type }, content] of entries) {
      const file = seen.get(path.replace(/\/$/, ""))
      expect([mode, uid, gid, mtime.seconds, mtime.nanoseconds]).toEqual([
        file?.mode && file.mode & 0o7777,
        file?.uid,
        file?.gid,
        file?.mtime,
        file?.nsec,
      ])
      if (type === "file") expect(content).toBe(file?.content.toString("latin1"))
    }
  })

  test("keeps links, devices and attributes", async () => {
    const entries = new Map(readTar(await tarOf(await diskOf(FILES))).map(([entry]) => [entry.path, entry]))
    expect(entries.get("bin/alias")).toMatchObject({ type: "file", mode: 0o4755 })
    expect(entries.get("bin/tool")).toMatchObject({ type: "link", linkPath: "bin/alias" })
    expect(entries.get("bin/alias")?.xattrs?.get("security.capability")).toEqual(Buffer.from([1, 0]))
    expect(entries.get("link")).toMatchObject({ type: "symlink", linkPath: "../../etc/shadow" })
    expect(entries.get("dev/null")).toMatchObject({ type: "char", devmajor: 1, devminor: 3 })
    expect(entries.get("dev/far")).toMatchObject({ type: "block", devmajor: 4095, devminor: 1_048_575 })
    expect(entries.get("pipe")).toMatchObject({ type: "fifo" })
    expect(entries.get("caf\xe9")).toMatchObject({ type: "file" })
  })

  test("has its layers merged, and nothing of what is hidden", async () => {
    const disk = await diskOf(
      [{ path: "a", content: "old" }, { path: "gone", content: "secret" }, { path: "dir/x" }],
      [{ path: "a", content: "new" }, { path: ".wh.gone" }, { path: "dir/.wh..wh..opq" }, { path: "dir/y" }],
    )
    const entries = readTar(await tarOf(disk)).map(([entry, content]) => [entry.path, content])
    expect(entries).toEqual([
      ["a", "new"],
      ["dir/", ""],
      ["dir/y", ""],
    ])
  })

  test("of thousands of files has them all, once", async () => {
    const files = Array.from({ length: 3000 }, (_, i) => ({
      path: `many/${"n".repeat(i % 90)}${i}`,
      content: `${i}`,
    }))
    const entries = readTar(await tarOf(await diskOf(files)))
    expect(
      new Map(entries.filter(([entry]) => entry.type === "file").map(([e, content]) => [e.path, content])),
    ).toEqual(new Map(files.map(file => [file.path, file.content])))
    expect(entries).toHaveLength(3001)
  })

  test.skipIf(!hasProgram("tar"))("is read by tar (needs the program tar)", async () => {
    const file = join(temporaryFolder(), "root.tar")
    writeFileSync(file, await tarOf(await diskOf(FILES)))
    const listed = execFileSync("tar", ["-tf", file], { encoding: "utf8" }).trim().split("\n")
    expect(listed).toContain(`${"long/".repeat(40)}name`)
    expect(execFileSync("tar", ["-xOf", file, "big"]).length).toBe(300_001)
  })

  test("waits for content that has not arrived yet, and takes no zeros for it", async () => {
    const content = "y".repeat(2_500_000)
    const disk = await diskOf([{ path: "late", content }])
    const [metadata, data] = disk.parts as [ImageDisk["parts"][number], ImageDisk["parts"][number]]
    const bytes = readFileSync(data.path)
    writeFileSync(data.path, Buffer.alloc(bytes.length))
    const asked: [number, number][] = []
    const prepare = async (at: number, length: number) => {
      asked.push([at, length])
      const file = openSync(data.path, "r+")
      writeSync(file, bytes, at, length, at)
      closeSync(file)
    }
    const tar = await tarOf({ ...disk, parts: [metadata, { ...data, prepare }] as ImageDisk["parts"] })
    expect(readTar(tar).map(([entry, text]) => [entry.path, text === content])).toEqual([["late", true]])
    expect(asked).toHaveLength(3)
    expect(asked.every(([at, length]) => at % 4096 === 0 && length % 4096 === 0)).toBe(true)
    const gone = () => Promise.reject(new ImageError("registry-unavailable", "gone"))
    const broken = { ...disk, parts: [metadata, { ...data, prepare: gone }] as ImageDisk["parts"] }
    expect(await codeOf(() => tarOf(broken))).toBe("registry-unavailable")
  })

  test("has zeros where sparse files have holes", async () => {
    const folder = temporaryFolder()
    const root = new TreeNode("directory")
    const file = new TreeNode("file")
    Object.assign(file, { size: 30_000, part: 0, block: 0, runs: [0, 1, 5, 2] })
    root.children?.set("sparse", file)
    const metadata = Buffer.concat([
      ...writeMetadata({ root, partSizes: [3 * 4096], uuid: Buffer.alloc(16) }),
    ])
    const data = Buffer.concat([Buffer.alloc(4096, "a"), Buffer.alloc(4096, "b"), Buffer.alloc(4096, "c")])
    const parts = [metadata, data].map((bytes, i) => {
      const path = join(folder, `${i}`)
      writeFileSync(path, bytes)
      return { path, size: bytes.length }
    })
    const content = Buffer.alloc(30_000)
    data.copy(content, 0, 0, 4096)
    data.copy(content, 5 * 4096, 4096)
    const entries = readTar(await tarOf({ parts, size: metadata.length + data.length }))
    expect(entries.map(([entry, text]) => [entry.path, text === content.toString("latin1")])).toEqual([
      ["sparse", true],
    ])
  })

  test("of an empty image is an empty tar", async () => {
    expect(readTar(await tarOf(await diskOf([])))).toEqual([])
  })

  test("of a damaged store is an error, not half a root", async () => {
    const short = await diskOf(FILES)
    truncateSync(short.parts[1]?.path as string, 4096)
    expect(await codeOf(() => tarOf(short))).toBe("store-corrupt")
    const gone = await diskOf(FILES)
    expect(await codeOf(() => tarOf({ ...gone, parts: [{ path: "/nowhere", size: 4096 }] }))).toBe("io")
    expect(await codeOf(() => tarOf({ ...gone, parts: gone.parts.slice(0, 1) }))).toBe("store-corrupt")
  })

  test("of a store with any byte changed ends, in a tar or an error", async () => {
    const disk = await diskOf([
      { path: "a/b/c", content: "x" },
      { path: "a/d", xattrs: { "user.a": "b" } },
    ])
    const path = disk.parts[0]?.path as string
    const bytes = readFileSync(path)
    for (let at = 1024; at < bytes.length; at += 7) {
      const wrong = Buffer.from(bytes)
      wrong.writeUInt8(wrong.readUInt8(at) ^ 0xff, at)
      writeFileSync(path, wrong)
      const code = await codeOf(async () => {
        const reader = new TarReader({ entry: nothing, data: nothing, entryEnd: nothing }, DEFAULT_LIMITS)
        for await (const piece of rootTar(disk)) reader.push(piece)
        reader.end()
      })
      expect([undefined, "store-corrupt", "tar-number", "tar-pax", "tar-disagrees", "limit"]).toContain(code)
    }
  })
})
