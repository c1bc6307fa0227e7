import {
  chmodSync,
  linkSync,
  lstatSync,
  mkdirSync,
  readFileSync,
  renameSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs"
import { constants } from "node:os"
import { afterEach, beforeEach, expect, test } from "vitest"
import { FATTR, FUSE } from "./protocol.js"
import { type Attached, ShareUnderTest } from "./share-under-test.js"
import { entryOf, type FuseDriver, mustBe, u32, u64 } from "./testing.js"

const { EBADF, EEXIST, ENODATA, ENOENT, EPERM, ESTALE } = constants.errno

let share: ShareUnderTest
let fs: FuseDriver
let device: Attached["device"]
beforeEach(async () => {
  share = new ShareUnderTest()
  share.put({ one: "one", secret: "secret" })
  mkdirSync(share.path("folder"))
  chmodSync(share.shared, 0o700)
  ;({ fs, device } = await share.attach({ path: share.path("one") }))
})
afterEach(async () => {
  share.checkOutside()
  await share[Symbol.asyncDispose]()
})

test("the file is there, is read and written", async () => {
  const node = await fs.node("one")
  const handle = await fs.open(node, 2)
  expect((await fs.write(node, handle, 0, Buffer.from("two"))).error).toBe(0)
  expect(readFileSync(share.path("one"), "utf8")).toBe("two")
  expect((await fs.setattr(node, FATTR.MODE, { 68: u32(0o600) })).error).toBe(0)
  expect(mustBe(await fs.create("one", { flags: 2 })).node).toBe(node)
})

test("its neighbours are neither named, counted nor reached", async () => {
  for (let i = 0; i < 300; i++) writeFileSync(share.path(`neighbour${i}`), "")
  for (const name of ["secret", "folder", "neighbour1", "missing"])
    expect(await fs.lookup(name)).toBe(-ENOENT)
  const handle = await fs.open(1, 0, FUSE.OPENDIR)
  for (const plus of [false, true]) {
    const { entries } = await fs.readdir(1, handle, { plus })
    expect(entries.map(({ name }) => name)).toEqual([".", "..", "one"])
    for (const { position } of entries) {
      const rest = await fs.readdir(1, handle, { plus, position })
      expect(rest.entries.map(({ name }) => name)).toEqual([".", "..", "one"].slice(Number(position)))
    }
    for (const position of [4n, 2n ** 40n, 2n ** 63n, 2n ** 64n - 1n])
      expect((await fs.readdir(1, handle, { plus, position })).entries).toEqual([])
  }
  expect(await fs.getattr(1)).toMatchObject({ mode: 0o040755, size: 0, links: 2 })
  expect((await fs.request(FUSE.GETATTR, 1, [new Uint8Array(16)])).body.getBigUint64(16 + 40, true)).toBe(0n)
})

test("F8: the folder's handle reads nothing under another node's number", async () => {
  const handle = await fs.open(1, 0, FUSE.OPENDIR)
  const node = await fs.node("one")
  for (const plus of [false, true])
    for (const of of [node, 0, 99]) expect((await fs.readdir(of, handle, { plus })).error).toBe(-EBADF)
})

test("nothing is made, renamed or removed beside it, and it stays", async () => {
  const node = await fs.node("one")
  expect(await fs.create("new")).toBe(-EPERM)
  expect(await fs.create("secret")).toBe(-EPERM)
  expect(await fs.create("one", { flags: 2 | 0o200 })).toBe(-EEXIST)
  expect(await fs.mkdir("new")).toBe(-EPERM)
  for (const name of ["new", "one", "secret"]) {
    const mknod = await fs.request(FUSE.MKNOD, 1, [u32(0o100600), u32(0), u32(0), u32(0), name])
    expect(entryOf(mknod)).toBe(-EPERM)
    expect((await fs.request(FUSE.SYMLINK, 1, [name, "x"])).error).toBe(-EPERM)
    expect((await fs.request(FUSE.LINK, 1, [u64(node), name])).error).toBe(-EPERM)
    expect((await fs.request(FUSE.UNLINK, 1, [name])).error).toBe(-EPERM)
    expect((await fs.request(FUSE.RMDIR, 1, [name])).error).toBe(-EPERM)
    expect((await fs.request(FUSE.RENAME, 1, [u64(1), "one", name])).error).toBe(-EPERM)
    expect((await fs.request(FUSE.RENAME, node, [u64(1), "x", name])).error).toBe(-EPERM)
  }
  expect((await fs.request(FUSE.TMPFILE, 1, [u32(2), u32(0o600), u64(0), ""])).error).toBe(-EPERM)
})

test("the host's folder around it stays as it is", async () => {
  const before = statSync(share.shared)
  const fields = { 68: u32(0o777), 76: u32(7), 80: u32(7), 32: u64(1), 40: u64(1) }
  for (const valid of [FATTR.MODE, FATTR.UID, FATTR.GID, FATTR.ATIME, FATTR.MTIME_NOW])
    expect((await fs.setattr(1, valid, fields)).error).toBe(-EPERM)
  expect((await fs.setattr(1, FATTR.SIZE)).error).toBeLessThan(0)
  const xattr = [u32(1), u32(0), "user.x", Buffer.from("x")]
  expect((await fs.request(FUSE.SETXATTR, 1, xattr)).error).toBe(-EPERM)
  expect((await fs.request(FUSE.REMOVEXATTR, 1, ["user.x"])).error).toBe(-EPERM)
  expect((await fs.request(FUSE.GETXATTR, 1, [u32(9), u32(0), "user.x"])).error).toBe(-ENODATA)
  expect((await fs.request(FUSE.LISTXATTR, 1, [u32(9), u32(0)])).body.byteLength).toBe(0)
  const { mode, uid, gid, mtimeMs, ctimeMs } = before
  expect(statSync(share.shared)).toMatchObject({ mode, uid, gid, mtimeMs, ctimeMs })
})

test("a file that is given as a symbolic link is the file that it leads to", async () => {
  symlinkSync("secret", share.path("alias"))
  const { fs: guest } = await share.attach({ path: share.path("alias") })
  const { node, attr } = mustBe(await guest.lookup("alias"))
  expect([attr.mode & 0o170000, attr.size]).toEqual([0o100000, 6])
  expect(await guest.lookup("secret")).toBe(-ENOENT)
  const handle = await guest.open(1, 0, FUSE.OPENDIR)
  expect((await guest.readdir(1, handle)).entries.map(({ name }) => name)).toEqual([".", "..", "alias"])
  expect((await guest.read(node, await guest.open(node), 0, 9)).body.byteLength).toBe(6)
})

test("what takes its place on the host is what the guest finds", async () => {
  linkSync(share.path("secret"), share.path("replacement"))
  const node = await fs.node("one")
  renameSync(share.path("replacement"), share.path("one"))
  expect(mustBe(await fs.lookup("one"))).toMatchObject({ attr: { size: 6 } })
  expect(await fs.node("one")).not.toBe(node)
  expect(await fs.lookup("x", node)).toBe(-ESTALE)
  expect(lstatSync(share.path("secret")).nlink).toBe(2)
  expect(device.counts.inodes).toBe(3)
})
