// What each operation does when it is asked for properly: seen by the guest, and on the host.
import {
  chmodSync,
  existsSync,
  linkSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs"
import { constants } from "node:os"
import { afterEach, beforeEach, describe, expect, test } from "vitest"
import { FATTR, FUSE } from "./protocol.js"
import { type Attached, ShareUnderTest } from "./share-under-test.js"
import { type Dirent, entryOf, type FuseDriver, mustBe, u32, u64 } from "./testing.js"

const { EBADF, EEXIST, EINVAL, ENODATA, ENOENT, ENOTDIR, ENOTEMPTY, ENXIO, ERANGE } = constants.errno

let share: ShareUnderTest
let fs: FuseDriver
let device: Attached["device"]
beforeEach(async () => {
  share = new ShareUnderTest()
  share.put({ file: "0123456789" })
  mkdirSync(share.path("dir"))
  ;({ fs, device } = await share.attach())
})
afterEach(async () => {
  share.checkOutside()
  await share[Symbol.asyncDispose]()
})

const text = ({ body }: { body: DataView }) =>
  Buffer.from(body.buffer, body.byteOffset, body.byteLength).toString()

describe("names", () => {
  test("LOOKUP and GETATTR tell what stat tells", async () => {
    const { attr, node } = mustBe(await fs.lookup("file"))
    const stat = statSync(share.path("file"), { bigint: true })
    expect(attr).toMatchObject({
      inode: stat.ino,
      size: 10,
      mode: Number(stat.mode),
      links: 1,
      uid: 0,
    })
    expect(await fs.getattr(node)).toEqual(attr)
    expect(await fs.lookup("missing")).toBe(-ENOENT)
    expect(await fs.lookup("x", node)).toBe(-ENOTDIR)
  })

  test("a file is the same node under each of its names, until it was forgotten as often as it was found", async () => {
    linkSync(share.path("file"), share.path("second"))
    const node = await fs.node("file")
    expect(await fs.node("second")).toBe(node)
    expect(device.counts.inodes).toBe(2)
    await fs.forget(node, 1)
    expect(device.counts.inodes).toBe(2)
    await fs.forget(node, 1)
    expect(device.counts.inodes).toBe(1)
    expect(await fs.node("file")).not.toBe(node)
  })

  test("BATCH_FORGET forgets several", async () => {
    const nodes = [await fs.node("file"), await fs.node("dir")]
    const items = nodes.flatMap(node => [u64(node), u64(1)])
    expect(await fs.request(FUSE.BATCH_FORGET, 0, [u32(2), u32(0), ...items], { room: 0 })).toMatchObject({
      used: 0,
    })
    expect(device.counts.inodes).toBe(1)
  })

  test("MKDIR, MKNOD, SYMLINK, READLINK", async () => {
    expect(mustBe(await fs.mkdir("new", 1, 0o750)).attr.mode).toBe(0o040750)
    expect(statSync(share.path("new")).mode & 0o7777).toBe(0o750)
    for (const [name, mode] of [
      ["regular", 0o100640],
      ["fifo", 0o010600],
      ["socket", 0o140700],
    ] as const) {
      const made = entryOf(await fs.request(FUSE.MKNOD, 1, [u32(mode), u32(0), u32(0), u32(0), name]))
      expect(mustBe(made).attr.mode).toBe(mode)
      expect(lstatSync(share.path(name)).mode).toBe(mode)
    }
    const link = mustBe(entryOf(await fs.request(FUSE.SYMLINK, 1, ["link", "../outside/canary"])))
    expect(readlinkSync(share.path("link"))).toBe("../outside/canary")
    expect(text(await fs.request(FUSE.READLINK, link.node))).toBe("../outside/canary")
    expect((await fs.request(FUSE.READLINK, 1)).error).toBe(-EINVAL)
    expect(await fs.mkdir("new")).toBe(-EEXIST)
  })

  test("LINK, UNLINK, RMDIR", async () => {
    const [file, dir] = [await fs.node("file"), await fs.node("dir")]
    const linked = mustBe(entryOf(await fs.request(FUSE.LINK, dir, [u64(file), "hard"])))
    expect(linked).toMatchObject({ node: file, attr: { links: 2 } })
    expect((await fs.request(FUSE.RMDIR, 1, ["dir"])).error).toBe(-ENOTEMPTY)
    expect((await fs.request(FUSE.UNLINK, dir, ["hard"])).error).toBe(0)
    expect((await fs.request(FUSE.RMDIR, 1, ["dir"])).error).toBe(0)
    expect((await fs.request(FUSE.UNLINK, 1, ["dir"])).error).toBe(-ENOENT)
    expect(readdirSync(share.shared)).toEqual(["file"])
  })

  test("RENAME and RENAME2", async () => {
    const dir = await fs.node("dir")
    expect((await fs.request(FUSE.RENAME, 1, [u64(dir), "file", "moved"])).error).toBe(0)
    expect(readFileSync(share.path("dir", "moved"), "utf8")).toBe("0123456789")
    share.put({ other: "other" })
    const rename2 = (flags: number) =>
      fs.request(FUSE.RENAME2, 1, [u64(dir), u32(flags), u32(0), "other", "moved"])
    expect((await rename2(1)).error).toBe(-EEXIST)
    expect((await rename2(2)).error).toBe(0)
    expect(readFileSync(share.path("other"), "utf8")).toBe("0123456789")
    for (const flags of [3, 4, 8, 0xffff_ffff]) expect((await rename2(flags)).error).toBe(-EINVAL)
    expect((await rename2(0)).error).toBe(0)
    expect(readFileSync(share.path("dir", "moved"), "utf8")).toBe("0123456789")
  })
})

describe("attributes", () => {
  test("SETATTR changes mode, size, times", async () => {
    const node = await fs.node("file")
    expect((await fs.setattr(node, FATTR.MODE, { 68: u32(0o100604) })).error).toBe(0)
    expect((await fs.setattr(node, FATTR.SIZE, { 16: u64(3) })).error).toBe(0)
    const times = { 32: u64(1_000_000_000), 40: u64(-5), 56: u32(7), 60: u32(999_999_999) }
    expect((await fs.setattr(node, FATTR.ATIME | FATTR.MTIME, times)).error).toBe(0)
    const stat = statSync(share.path("file"), { bigint: true })
    expect(stat).toMatchObject({ mode: 0o100604n, size: 3n, atimeNs: 1_000_000_000_000_000_007n })
    expect(stat.mtimeNs).toBe(-4_000_000_001n)
    expect((await fs.setattr(node, FATTR.MTIME | FATTR.MTIME_NOW)).error).toBe(0)
    expect(Math.abs(statSync(share.path("file")).mtimeMs - Date.now())).toBeLessThan(60_000)
    expect(statSync(share.path("file"), { bigint: true }).atimeNs).toBe(stat.atimeNs)
  })

  test("SETATTR truncates an open file that has no name any more", async () => {
    const { node, handle } = mustBe(await fs.create("gone"))
    await fs.write(node, handle, 0, Buffer.from("text"))
    await fs.request(FUSE.UNLINK, 1, ["gone"])
    expect((await fs.setattr(node, FATTR.SIZE | FATTR.FH, { 8: u64(handle), 16: u64(2) })).error).toBe(0)
    expect((await fs.setattr(node, FATTR.SIZE, { 16: u64(1) })).error).toBe(0)
    expect(text(await fs.read(node, handle, 0, 9))).toBe("t")
    expect((await fs.getattr(node)).links).toBe(0)
  })

  test("STATFS tells of the host's file system", async () => {
    const { error, body } = await fs.request(FUSE.STATFS, 1)
    expect(error).toBe(0)
    expect(body.byteLength).toBe(80)
    expect(body.getBigUint64(0, true)).toBeGreaterThan(0n)
    expect(body.getUint32(44, true)).toBe(255)
  })

  test("extended attributes are set, read, listed and removed", async () => {
    const node = await fs.node("file")
    const set = (value: string, flags = 0) =>
      fs.request(FUSE.SETXATTR, node, [u32(value.length), u32(flags), "user.key", Buffer.from(value)])
    expect((await set("value")).error).toBe(0)
    expect((await set("again", 1)).error).toBe(-EEXIST)
    const get = (size: number) => fs.request(FUSE.GETXATTR, node, [u32(size), u32(0), "user.key"])
    expect((await get(0)).body.getUint32(0, true)).toBe(5)
    expect(text(await get(5))).toBe("value")
    expect((await get(4)).error).toBe(-ERANGE)
    expect(text(await fs.request(FUSE.LISTXATTR, node, [u32(100), u32(0)]))).toBe("user.key\0")
    expect((await fs.request(FUSE.REMOVEXATTR, node, ["user.key"])).error).toBe(0)
    expect((await get(0)).error).toBe(-ENODATA)
  })
})

describe("files", () => {
  test("CREATE, WRITE, READ, RELEASE", async () => {
    const { node, handle, attr } = mustBe(await fs.create("new", { mode: 0o100640 }))
    expect(attr).toMatchObject({ mode: 0o100640, size: 0 })
    expect((await fs.write(node, handle, 4, Buffer.from("text"))).body.getUint32(0, true)).toBe(4)
    expect(text(await fs.read(node, handle, 2, 10))).toBe("\0\0text")
    expect((await fs.release(node, handle)).error).toBe(0)
    expect((await fs.read(node, handle, 2, 10)).error).toBe(-EBADF)
    expect(device.counts).toEqual({ inodes: 2, handles: 0 })
  })

  test("CREATE opens what is there unless O_EXCL says not to", async () => {
    const { handle, attr } = mustBe(await fs.create("file"))
    expect(handle).toBeGreaterThan(0)
    expect(attr.size).toBe(10)
    expect(await fs.create("file", { flags: 2 | 0o200 })).toBe(-EEXIST)
    expect(mustBe(await fs.create("file", { flags: 2 | 0o1000 })).attr.size).toBe(0)
  })

  test("OPEN gives what was asked for: reading, writing, truncating", async () => {
    const node = await fs.node("file")
    const readable = await fs.open(node, 0)
    expect((await fs.write(node, readable, 0, Buffer.from("x"))).error).toBe(-EBADF)
    const writable = await fs.open(node, 1)
    expect((await fs.read(node, writable, 0, 1)).error).toBe(-EBADF)
    expect((await fs.write(node, writable, 0, Buffer.from("x"))).error).toBe(0)
    await fs.open(node, 1 | 0o1000)
    expect(statSync(share.path("file")).size).toBe(0)
  })

  test("TMPFILE makes a file without a name, which LINK can give one", async () => {
    const parts = [u32(2), u32(0o100600), u32(0), u32(0), ""]
    const { node, handle } = mustBe(entryOf(await fs.request(FUSE.TMPFILE, 1, parts)))
    await fs.write(node, handle, 0, Buffer.from("text"))
    expect(readdirSync(share.shared).sort()).toEqual(["dir", "file"])
    expect((await fs.request(FUSE.LINK, 1, [u64(node), "named"])).error).toBe(0)
    expect(readFileSync(share.path("named"), "utf8")).toBe("text")
  })

  test("FALLOCATE, LSEEK", async () => {
    const { node, handle } = mustBe(await fs.create("sparse"))
    const allocate = (mode: number, offset: number, length: number) =>
      fs.request(FUSE.FALLOCATE, node, [u64(handle), u64(offset), u64(length), u32(mode), u32(0)])
    expect((await allocate(0, 0, 65536)).error).toBe(0)
    expect(statSync(share.path("sparse"))).toMatchObject({ size: 65536 })
    await fs.write(node, handle, 0, new Uint8Array(65536).fill(1))
    expect((await allocate(3, 4096, 8192)).error).toBe(0)
    const seek = async (offset: number, whence: number) => {
      const { error, body } = await fs.request(FUSE.LSEEK, node, [
        u64(handle),
        u64(offset),
        u32(whence),
        u32(0),
      ])
      return error === 0 ? Number(body.getBigUint64(0, true)) : error
    }
    expect([await seek(0, 4), await seek(4096, 3), await seek(65536, 3)]).toEqual([4096, 12288, -ENXIO])
  })

  test("COPY_FILE_RANGE copies inside the host", async () => {
    const from = await fs.node("file")
    const source = await fs.open(from)
    const { node, handle } = mustBe(await fs.create("copy"))
    const parts = [u64(source), u64(2), u64(node), u64(handle), u64(1), u64(5), u64(0)]
    expect((await fs.request(FUSE.COPY_FILE_RANGE, from, parts)).body.getUint32(0, true)).toBe(5)
    expect(readFileSync(share.path("copy"), "utf8")).toBe("\x0023456")
  })

  test("FSYNC of data and of all, FSYNCDIR", async () => {
    const { node, handle } = mustBe(await fs.create("new"))
    for (const flags of [0, 1])
      expect((await fs.request(FUSE.FSYNC, node, [u64(handle), u32(flags), u32(0)])).error).toBe(0)
    const directory = await fs.open(1, 0, FUSE.OPENDIR)
    expect((await fs.request(FUSE.FSYNCDIR, 1, [u64(directory), u32(0), u32(0)])).error).toBe(0)
  })
})

describe("directories", () => {
  test.each([false, true])("OPENDIR, READDIR (plus: %s), RELEASEDIR", async plus => {
    symlinkSync("x", share.path("link"))
    const handle = await fs.open(1, 0, FUSE.OPENDIR)
    const { entries } = await fs.readdir(1, handle, { plus })
    const types = Object.fromEntries(entries.map(({ name, type }) => [name, type]))
    expect(types).toEqual({ ".": 4, "..": 4, dir: 4, file: 8, link: 10 })
    if (plus) {
      expect(entries.find(({ name }) => name === "file")?.node).toBe(await fs.node("file"))
      expect(entries.filter(({ name }) => name.startsWith(".")).every(({ node }) => node === 0)).toBe(true)
    }
    expect((await fs.request(FUSE.RELEASEDIR, 1, [u64(handle), new Uint8Array(16)])).error).toBe(0)
    expect(device.counts).toEqual({ inodes: plus ? 4 : 1, handles: 0 })
  })

  test.each([false, true])("a large directory is read once over in small pieces (plus: %s)", async plus => {
    const names = Array.from({ length: 1500 }, (_, i) => `a name that takes some room ${i}`)
    for (const name of names) writeFileSync(share.path("dir", name), "")
    const node = await fs.node("dir")
    const handle = await fs.open(node, 0, FUSE.OPENDIR)
    const all: Dirent[] = []
    for (let position = 0n; ; ) {
      const { error, entries } = await fs.readdir(node, handle, { position, plus, size: 4096 })
      expect(error).toBe(0)
      if (entries.length === 0) break
      all.push(...entries)
      position = entries.at(-1)!.position
    }
    const found = all.map(({ name }) => name).filter(name => !name.startsWith("."))
    expect(found.sort()).toEqual(names.sort())
    // Two that read at a time, one from behind the other, see the same.
    const second = await fs.open(node, 0, FUSE.OPENDIR)
    for (const index of [10, 700, 20, 1490]) {
      for (const of of [handle, second, handle]) {
        const { entries } = await fs.readdir(node, of, { position: all[index]!.position, plus })
        expect(entries[0]?.name).toBe(all[index + 1]?.name)
      }
    }
    // From a position in the middle the same names follow again.
    const { entries } = await fs.readdir(node, handle, { position: all[99]!.position, plus })
    expect(entries[0]?.name).toBe(all[100]?.name)
  })

  test("names of any bytes, up to 255 of them", async () => {
    const odd = [Buffer.from([0xff, 0xfe, 0x0a]), Buffer.alloc(255, "x"), Buffer.from("...")]
    for (const name of odd) mustBe(await fs.create(Buffer.concat([name, Buffer.of(0)])))
    expect(readdirSync(share.shared, { encoding: "buffer" })).toEqual(expect.arrayContaining(odd))
  })

  test("a folder without permissions is a folder", async () => {
    chmodSync(share.path("dir"), 0)
    expect((await fs.getattr(await fs.node("dir"))).mode).toBe(0o040000)
    expect(existsSync(share.path("dir"))).toBe(true)
  })
})
