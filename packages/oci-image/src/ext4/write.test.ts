import { execFileSync } from "node:child_process"
import { createHash } from "node:crypto"
import { closeSync, ftruncateSync, openSync, readdirSync, readFileSync, statSync, writeSync } from "node:fs"
import { join } from "node:path"
import { describe, expect, test } from "vitest"
import type { PackFile } from "../pack/items.js"
import { packImage } from "../pack/pack-image.js"
import { ImageStore } from "../store/store.js"
import { Ext4Disk, e2fsprogsObstacle } from "../test-support/ext4-disk.js"
import { codeOf, MEMORY, tarOf, temporaryFolder } from "../test-support/images.js"

const MIB = 1024 * 1024
const SMALL = { size: 16 * MIB }
const diskOf = (files: readonly PackFile[], options = SMALL) =>
  Ext4Disk.of(tarOf(files), temporaryFolder(), options)
const obstacle = e2fsprogsObstacle()

/** An access list as programs set it, with a number in entries that are about nobody: user::rw-, user:1000:r--, group::r--, mask::r--, other::---. */
function acl(nobody = 0xffffffff): Buffer {
  const out = Buffer.alloc(4 + 5 * 8)
  out.writeUInt32LE(2)
  const entries = [
    [0x01, 6, nobody],
    [0x02, 4, 1000],
    [0x04, 4, nobody],
    [0x10, 4, nobody],
    [0x20, 0, nobody],
  ]
  for (const [i, [tag, perm, id]] of (entries as [number, number, number][]).entries()) {
    out.writeUInt16LE(tag, 4 + i * 8)
    out.writeUInt16LE(perm, 6 + i * 8)
    out.writeUInt32LE(id, 8 + i * 8)
  }
  return out
}

/** A tar stream of one sparse file of so many runs of 4 KiB, each followed by a hole. */
function sparseTar(folder: string, runs: number, size: number): Buffer {
  const fd = openSync(join(folder, "sparse"), "w")
  for (let i = 0; i < runs; i++) writeSync(fd, Buffer.alloc(4096, `${i}-`), 0, 4096, i * 8192)
  ftruncateSync(fd, size)
  writeSync(fd, "end", size - 3)
  closeSync(fd)
  return execFileSync("tar", ["--format=posix", "--sparse", "-C", folder, "-c", "sparse"], {
    maxBuffer: 2 ** 28,
  })
}

describe.skipIf(obstacle)(`an ext4 disk of an image${obstacle ? ` (skipped: ${obstacle})` : ""}`, () => {
  test("has every kind of file with its owner, mode and time", async () => {
    const disk = await diskOf([
      { path: "empty" },
      { path: "file", content: "content", mode: 0o4751, uid: 100_000, gid: 70_000, mtime: 1_700_000_000.25 },
      { path: "short", target: "x".repeat(59) },
      { path: "long", target: "y".repeat(60) },
      { path: "longest", target: "z".repeat(4000) },
      { path: "char", type: "char", major: 5, minor: 1 },
      { path: "block", type: "block", major: 259, minor: 70_000, mode: 0o660 },
      { path: "fifo", type: "fifo" },
      { path: "sticky/", mode: 0o1777 },
      { path: "sticky/sub/file", content: "deep" },
    ])
    expect(disk.faults()).toBe("")
    expect(disk.content("/file").toString()).toBe("content")
    expect(disk.stat("/file")).toMatch(
      /Type: regular Mode: 04751 .* User: 100000 Group: 70000 .* Size: 7 .* Links: 1 Blockcount: 8/,
    )
    expect(disk.stat("/file")).toMatch(/mtime: 0x6553f100:3b9aca00/)
    expect(disk.stat("/short")).toContain(`Fast link dest: "${"x".repeat(59)}"`)
    expect(disk.stat("/long")).toMatch(/Type: symlink .* Size: 60 .* Blockcount: 8/)
    expect(disk.content("/longest").toString()).toBe("z".repeat(4000))
    expect(disk.stat("/char")).toMatch(/Type: character special .* Device major\/minor number: 05:01/)
    expect(disk.stat("/block")).toMatch(
      /Type: block special Mode: 0660 .* Device major\/minor number: 259:70000/,
    )
    expect(disk.stat("/fifo")).toContain("Type: FIFO")
    expect(disk.stat("/sticky")).toMatch(/Type: directory Mode: 01777 .* Links: 3/)
    expect(disk.content("/sticky/sub/file").toString()).toBe("deep")
    expect(disk.names("/")).toContain("lost+found")
  })

  test.each([
    [-86_400, "0xfffeae80:00000000"],
    [2 ** 33 + 5, "0x00000005:00000002"],
    [2 ** 35, "0x7fffffff:00000003"],
  ])("a time %i seconds from 1970 is kept, or cut down to the last one", async (mtime, shown) => {
    const disk = await diskOf([{ path: "file", mtime }])
    expect(disk.faults()).toBe("")
    expect(disk.stat("/file")).toContain(`mtime: ${shown}`)
  })

  test("names of one file are one inode, and a folder of the image called lost+found is the image's", async () => {
    const disk = await diskOf([
      { path: "one", content: "x" },
      { path: "two", type: "link", target: "one" },
      { path: "lost+found/", mode: 0o755 },
      { path: "lost+found/three", type: "link", target: "one" },
    ])
    expect(disk.faults()).toBe("")
    expect(disk.stat("/one")).toContain("Links: 3")
    expect(disk.stat("/lost+found/three")).toBe(disk.stat("/one"))
    expect(disk.stat("/lost+found")).toContain("Mode: 0755")
    expect(disk.names("/").filter(name => name === "lost+found")).toHaveLength(1)
  })

  test("large folders and long names take more blocks", async () => {
    const names = Array.from({ length: 3000 }, (_, i) => `${"n".repeat(i % 250)}${i}`)
    const files = names.map(name => ({ path: `many/${name}`, content: name }))
    const disk = await diskOf(files, { size: 64 * MIB })
    expect(disk.faults()).toBe("")
    expect(disk.names("/many").sort()).toEqual(names.sort())
    expect(disk.content(`/many/${names[2999]}`).toString()).toBe(names[2999])
  })

  test("attributes stand in the inode, in a block, or in both; access lists in ext4's form", async () => {
    const folder = temporaryFolder()
    const capability = Buffer.from("0100000200040000000000000000000000000000", "hex")
    const disk = await diskOf([
      { path: "capable", xattrs: { "security.capability": capability } },
      { path: "listed", mode: 0o640, xattrs: { "system.posix_acl_access": acl() } },
      { path: "large", xattrs: { "user.large": "v".repeat(3000) } },
      { path: "both", xattrs: { "user.a": "1", "user.b": "", "user.c": "w".repeat(200), "trusted.d": "4" } },
      { path: "folder/", xattrs: { "user.of": "a folder" } },
    ])
    expect(disk.faults()).toBe("")
    expect(disk.attribute("/capable", "security.capability", folder)).toEqual(capability)
    expect(disk.stat("/capable")).toMatch(/File ACL: 0/)
    expect(disk.attribute("/listed", "system.posix_acl_access", folder)).toEqual(acl(0))
    expect(disk.attribute("/large", "user.large", folder).toString()).toBe("v".repeat(3000))
    expect(disk.stat("/large")).not.toMatch(/File ACL: 0 /)
    for (const [name, value] of [
      ["user.a", "1"],
      ["user.b", ""],
      ["user.c", "w".repeat(200)],
      ["trusted.d", "4"],
    ])
      expect(disk.attribute("/both", name as string, folder).toString()).toBe(value)
    expect(disk.attribute("/folder", "user.of", folder).toString()).toBe("a folder")
  })

  test("more attributes than a block holds, or an access list that is none, are refused", async () => {
    const big = { path: "file", xattrs: { "user.one": "x".repeat(2500), "user.two": "y".repeat(2500) } }
    expect(await codeOf(() => diskOf([big]))).toBe("limit")
    const list = { path: "file", xattrs: { "system.posix_acl_access": "none" } }
    expect(await codeOf(() => diskOf([list]))).toBe("entry-xattr")
  })

  test("sparse files keep their holes, whatever the depth of their tree of extents", async () => {
    for (const runs of [3, 5, 700, 1500]) {
      const folder = temporaryFolder()
      const disk = await Ext4Disk.of(sparseTar(folder, runs, 16 * MIB), folder, { size: 64 * MIB })
      expect(disk.faults()).toBe("")
      expect(disk.content("/sparse").equals(readFileSync(join(folder, "sparse")))).toBe(true)
      expect(Number(/Blockcount: (\d+)/.exec(disk.stat("/sparse"))?.[1])).toBeLessThan((runs + 8) * 8)
    }
  })

  test("a sparse file may be larger than 4 GiB, and than the disk", async () => {
    const folder = temporaryFolder()
    const disk = await Ext4Disk.of(sparseTar(folder, 2, 6 * 1024 * MIB), folder, SMALL)
    expect(disk.faults()).toBe("")
    expect(disk.stat("/sparse")).toMatch(/Size: 6442450944 .* Blockcount: 24/)
  })

  test("a file that a copy of the superblock divides is whole", async () => {
    const content = Buffer.alloc(110 * MIB)
    for (let at = 0; at < content.length; at += 4096) content.writeUInt32LE(at, at)
    const disk = await Ext4Disk.of(
      tarOf([
        { path: "big", content },
        { path: "after", content: "after" },
      ]),
      temporaryFolder(MEMORY),
      { size: 160 * MIB },
    )
    expect(disk.faults()).toBe("")
    expect(disk.content("/big").equals(content)).toBe(true)
    expect(disk.stat("/big")).toMatch(/EXTENTS: \(0-\d+\):\d+-32767, \(/)
    expect(disk.content("/after").toString()).toBe("after")
  }, 120_000)

  test.each([
    ["of one group", 100 * MIB],
    ["with a last group too small to be one", 128 * MIB + 4 * MIB],
    ["with a last group of its own", 128 * MIB + 20 * MIB],
    ["of ten groups and a bit, not in whole blocks", 1300 * MIB + 777],
    ["of a terabyte", 2 ** 40],
  ])("a disk %s is without a fault, and free space takes none", async (_, size) => {
    const disk = await diskOf([{ path: "etc/file", content: "content" }], { size })
    expect(disk.faults()).toBe("")
    expect(disk.content("/etc/file").toString()).toBe("content")
    expect(statSync(disk.path).size).toBeLessThanOrEqual(size)
    expect(statSync(disk.path).size).toBeGreaterThan(size - 8 * MIB)
    expect(statSync(disk.path).blocks * 512).toBeLessThan(8 * MIB)
    if (size > 140 * MIB) {
      expect(disk.superblock(32_768)).toMatch(/Filesystem state: +clean/)
      expect(disk.block(32_769)).toEqual(disk.block(1))
    }
  })

  test("a gigabyte is free on a disk whose size nobody gave", async () => {
    const disk = await Ext4Disk.of(tarOf([{ path: "file" }]), temporaryFolder())
    const free = /Free blocks: +(\d+)/.exec(disk.debugfs("show_super_stats -h").toString())?.[1]
    expect(Number(free) * 4096).toBeGreaterThanOrEqual(1024 * MIB)
  })

  test("a disk that is too small is refused with the size that is enough, and nothing is left", async () => {
    const folder = temporaryFolder()
    const files = [{ path: "file", content: Buffer.alloc(10 * MIB) }]
    await packImage(join(folder, "image"), { layers: [{ files }] })
    const store = await ImageStore.open(join(folder, "store"))
    const { digest } = await store.load(`oci:${join(folder, "image")}`)
    const target = join(folder, "disk")
    const failed = await store.exportExt4(digest, target, { size: 8 * MIB }).catch(error => error)
    expect(failed).toMatchObject({ code: "limit", fields: { size: 8 * MIB, enough: expect.any(Number) } })
    for (const size of [0, -1, 0.5, Number.NaN, 2 ** 45])
      expect(await codeOf(() => store.exportExt4(digest, target, { size }))).toBe("limit")
    expect(await codeOf(() => store.exportExt4("none", target))).toBe("not-found")
    expect(await codeOf(() => store.exportExt4(digest, "/dev/null"))).toBe("io")
    const aborted = store.exportExt4(digest, target, { signal: AbortSignal.abort(new Error("enough")) })
    await expect(aborted).rejects.toThrow("enough")
    expect(readdirSync(folder).sort()).toEqual(["image", "store"])
    await store.exportExt4(digest, target, { size: failed.fields.enough })
    expect(new Ext4Disk(target).faults()).toBe("")
  })

  test("equal images give equal bytes, other images other ones", async () => {
    const sum = async (content: string) => {
      const disk = await diskOf([
        { path: "a/file", content },
        { path: "b", target: "a" },
      ])
      return createHash("sha256").update(disk.bytes()).digest("hex")
    }
    expect(await sum("x")).toBe(await sum("x"))
    expect(await sum("x")).not.toBe(await sum("y"))
  })

  test("layers are one tree: what an upper one deleted is not there", async () => {
    const folder = temporaryFolder()
    const layers = [
      {
        files: [
          { path: "etc/one", content: "1" },
          { path: "etc/two", content: "2" },
        ],
      },
      { files: [{ path: "etc/.wh.one" }, { path: "etc/two", content: "changed" }] },
    ]
    await packImage(join(folder, "image"), { layers })
    const store = await ImageStore.open(join(folder, "store"))
    const { digest } = await store.load(`oci:${join(folder, "image")}`)
    await store.exportExt4(digest, join(folder, "disk"), SMALL)
    const disk = new Ext4Disk(join(folder, "disk"))
    expect(disk.names("/etc")).toEqual(["two"])
    expect(disk.content("/etc/two").toString()).toBe("changed")
  })
})
