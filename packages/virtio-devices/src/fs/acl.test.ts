import { chmodSync, lstatSync, mkdtempSync, rmSync } from "node:fs"
import { constants, tmpdir } from "node:os"
import { join } from "node:path"
import { files } from "@ts-vmm/native"
import { afterEach, beforeEach, describe, expect, test } from "vitest"
import { FUSE, FUSE_SETXATTR_ACL_KILL_SGID } from "./protocol.js"
import { ShareUnderTest } from "./share-under-test.js"
import { entryOf, type FuseDriver, mustBe, u32 } from "./testing.js"

const { ENODATA, EOPNOTSUPP, EROFS } = constants.errno
const ACCESS = "system.posix_acl_access"
const DEFAULT = "system.posix_acl_default"
/** Tags of a list's entries: include/uapi/linux/posix_acl.h. */
const TAG = { userObject: 1, user: 2, groupObject: 4, mask: 16, other: 32 } as const
const NO_ID = 0xffff_ffff
const isRoot = process.getuid?.() === 0
const text = (value: string) => Buffer.from(value)

/** struct posix_acl_xattr_header and entries of tag, permissions, id. */
function list(...entries: readonly (readonly [number, number, number?])[]): Uint8Array {
  const view = new DataView(new ArrayBuffer(4 + entries.length * 8))
  view.setUint32(0, 2, true)
  for (const [index, [tag, permissions, id = NO_ID]] of entries.entries()) {
    view.setUint16(4 + index * 8, tag, true)
    view.setUint16(6 + index * 8, permissions, true)
    view.setUint32(8 + index * 8, id, true)
  }
  return new Uint8Array(view.buffer)
}

/** Owner rwx, user 1000 rwx, group r-x, mask rwx, others nothing. */
const SHARED_WITH_1000 = list(
  [TAG.userObject, 7],
  [TAG.user, 7, 1000],
  [TAG.groupObject, 5],
  [TAG.mask, 7],
  [TAG.other, 0],
)

const hasLists = (() => {
  const folder = mkdtempSync(join(tmpdir(), "tsvmm-acl-"))
  const result = files.setxattr(text(folder), text(DEFAULT), SHARED_WITH_1000, 0)
  rmSync(folder, { recursive: true })
  return result === 0
})()

describe.skipIf(!isRoot || !hasLists)("access lists (need root, and a file system that has them)", () => {
  let share: ShareUnderTest
  let fs: FuseDriver

  beforeEach(async () => {
    share = new ShareUnderTest()
    share.put({ file: "" })
    chmodSync(share.path("file"), 0o640)
    ;({ fs } = await share.attach({ acl: true, owners: "keep" }))
  })
  afterEach(async () => {
    process.umask(0o022)
    share.checkOutside()
    await share[Symbol.asyncDispose]()
  })

  const set = async (node: number, name: string, value: Uint8Array, flags = 0) => {
    const parts = [u32(value.length), u32(0), u32(flags), u32(0), name, value]
    return (await fs.request(FUSE.SETXATTR, node, parts)).error
  }
  const get = async (node: number, name: string) => {
    const { error, body } = await fs.request(FUSE.GETXATTR, node, [u32(4096), u32(0), name])
    return error === 0 ? new Uint8Array(body.buffer, body.byteOffset, body.byteLength) : error
  }
  const onHost = (name: string, attribute: string) => {
    const value = new Uint8Array(4096)
    const length = files.getxattr(text(share.path(name)), text(attribute), value)
    return length < 0 ? length : value.slice(0, length)
  }
  const modeOf = (name: string) => lstatSync(share.path(name)).mode & 0o7777

  test("one that the guest sets is the host's, and changes the mode", async () => {
    const node = await fs.node("file")
    expect(await get(node, ACCESS)).toBe(-ENODATA)
    expect(await set(node, ACCESS, SHARED_WITH_1000)).toBe(0)
    expect(onHost("file", ACCESS)).toEqual(SHARED_WITH_1000)
    expect(await get(node, ACCESS)).toEqual(SHARED_WITH_1000)
    expect((await fs.getattr(node)).mode & 0o777).toBe(0o770)
    const { body } = await fs.request(FUSE.LISTXATTR, node, [u32(4096), u32(0)])
    expect(Buffer.from(body.buffer, body.byteOffset, body.byteLength).toString()).toBe(`${ACCESS}\0`)
    expect((await fs.request(FUSE.REMOVEXATTR, node, [ACCESS])).error).toBe(0)
    expect(await get(node, ACCESS)).toBe(-ENODATA)
  })

  test("what a folder hands on decides, and no mask of anybody's", async () => {
    process.umask(0o077)
    const folder = mustBe(await fs.mkdir("folder")).node
    expect(await set(folder, DEFAULT, SHARED_WITH_1000)).toBe(0)
    const who = { uid: 1000, gid: 100 }
    const parts = (mode: number) => [u32(0o102), u32(mode), u32(0o077), u32(0)]
    const made = entryOf(await fs.request(FUSE.CREATE, folder, [...parts(0o100666), "file"], who))
    expect(mustBe(made).attr.mode & 0o777).toBe(0o660)
    mustBe(entryOf(await fs.request(FUSE.MKDIR, folder, [u32(0o2777), u32(0o077), "inner"], who)))
    expect(onHost("folder/inner", DEFAULT)).toEqual(SHARED_WITH_1000)
    expect(modeOf("folder/inner") & 0o777).toBe(0o770)
    const node = [u32(0o010622), u32(0), u32(0o077), u32(0), "fifo"]
    mustBe(entryOf(await fs.request(FUSE.MKNOD, folder, node, who)))
    expect(modeOf("folder/fifo")).toBe(0o620)
    expect(lstatSync(share.path("folder", "fifo"))).toMatchObject(who)
  })

  test("without such a list the mask of whoever makes it counts, and only that", async () => {
    process.umask(0o777)
    const parts = [u32(0o102), u32(0o100666), u32(0o027), u32(0)]
    mustBe(entryOf(await fs.request(FUSE.CREATE, 1, [...parts, "made"])))
    expect(modeOf("made")).toBe(0o640)
    mustBe(entryOf(await fs.request(FUSE.MKDIR, 1, [u32(0o777), u32(0o002), "dir"])))
    expect(modeOf("dir")).toBe(0o775)
    mustBe(entryOf(await fs.request(FUSE.MKNOD, 1, [u32(0o010666), u32(0), u32(0o006), u32(0), "fifo"])))
    expect(modeOf("fifo")).toBe(0o660)
  })

  test("F11: whoever may not keep the set-group-ID bit loses it with the new list", async () => {
    const node = await fs.node("file")
    for (const [flags, left] of [
      [0, 0o2000],
      [FUSE_SETXATTR_ACL_KILL_SGID, 0],
    ] as const) {
      chmodSync(share.path("file"), 0o2770)
      expect(await set(node, ACCESS, SHARED_WITH_1000, flags)).toBe(0)
      expect(modeOf("file")).toBe(0o770 | left)
      expect(onHost("file", ACCESS)).toEqual(SHARED_WITH_1000)
    }
  })

  test("F12: what is no list is refused by the host, other names of the system by us", async () => {
    const node = await fs.node("file")
    for (const value of [new Uint8Array(3), new Uint8Array(12).fill(255), list([TAG.mask, 7])])
      expect(await set(node, ACCESS, value)).toBeLessThan(0)
    expect(onHost("file", ACCESS)).toBe(-ENODATA)
    expect(await set(node, "system.nfs4_acl", SHARED_WITH_1000)).toBe(-EOPNOTSUPP)
    mustBe(entryOf(await fs.request(FUSE.SYMLINK, 1, ["link", "file"])))
    expect(await get(await fs.node("link"), ACCESS)).toBe(-ENODATA)
  })

  test("F13: a read-only share keeps its lists", async () => {
    ;({ fs } = await share.attach({ acl: true, owners: "keep", readOnly: true }))
    expect(await set(await fs.node("file"), ACCESS, SHARED_WITH_1000)).toBe(-EROFS)
  })

  test("a guest that does not know all of it gets none of it", async () => {
    const { fs: old } = await share.attach({ acl: true, owners: "keep", init: false })
    const { body } = await old.init(7, 31, 0x0fff_ffff) // without FUSE_SETXATTR_EXT
    expect(body.getUint32(12, true) & ((1 << 6) | (1 << 20) | (1 << 29))).toBe(0)
    const file = await old.node("file")
    const { error } = await old.request(FUSE.GETXATTR, file, [u32(4096), u32(0), ACCESS])
    expect(error).toBe(-EOPNOTSUPP)
  })
})

test("owners that are squashed have no lists: their ids would be those of others", () => {
  const share = new ShareUnderTest()
  try {
    expect(() => share.device({ acl: true, owners: "squash" })).toThrow(RangeError)
  } finally {
    rmSync(share.root, { recursive: true })
  }
})
