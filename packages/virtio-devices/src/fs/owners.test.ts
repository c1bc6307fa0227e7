import { chmodSync, chownSync, lstatSync, mkdirSync, readdirSync, statSync } from "node:fs"
import { constants } from "node:os"
import { afterEach, beforeEach, describe, expect, test } from "vitest"
import { FATTR, FUSE } from "./protocol.js"
import { ShareUnderTest } from "./share-under-test.js"
import { entryOf, type FuseDriver, mustBe, u32, u64 } from "./testing.js"

const { EACCES, EINVAL, EPERM } = constants.errno
const NO_ID = 0xffff_ffff
const isRoot = process.getuid?.() === 0
const USER = 65_533
const GROUP = 65_532

let share: ShareUnderTest
beforeEach(() => {
  share = new ShareUnderTest()
})
afterEach(async () => {
  process.umask(0o022)
  share.checkOutside()
  await share[Symbol.asyncDispose]()
})

const modeOf = (name: string) => lstatSync(share.path(name)).mode & 0o7777
const ownersOf = (name: string) => {
  const { uid, gid } = lstatSync(share.path(name))
  return [uid, gid]
}

/** Makes one thing of every kind, named by its kind. */
async function makeAll(fs: FuseDriver, uid: number, gid: number): Promise<number[]> {
  const who = { uid, gid }
  const node = (name: string, mode: number) =>
    fs.request(FUSE.MKNOD, 1, [u32(mode), u32(0), u32(0), u32(0), name], who)
  const answers = [
    await fs.create("file", { mode: 0o100666, ...who }),
    await fs.mkdir("dir", 1, 0o777, who),
    entryOf(await node("regular", 0o100666)),
    entryOf(await node("fifo", 0o010666)),
    entryOf(await fs.request(FUSE.SYMLINK, 1, ["link", "target"], who)),
    entryOf(await fs.request(FUSE.TMPFILE, 1, [u32(2), u32(0o100600), u32(0), u32(0), ""], who)),
  ]
  return answers.filter(answer => typeof answer === "number")
}

const KINDS = ["file", "dir", "regular", "fifo", "link"]

describe.skipIf(!isRoot)("owners are kept (needs root)", () => {
  test("F16: what is made belongs to who made it, with the mode asked for", async () => {
    process.umask(0o077)
    const { fs } = await share.attach()
    expect(await makeAll(fs, 1000, 100)).toEqual([])
    for (const name of KINDS) expect(ownersOf(name), name).toEqual([1000, 100])
    for (const name of ["file", "regular", "fifo"]) expect(modeOf(name), name).toBe(0o666)
    expect(modeOf("dir")).toBe(0o777)
    process.umask(0o777)
    await fs.create("later", { mode: 0o100640 })
    expect(modeOf("later")).toBe(0o640)
  })

  test("F16: the owner that chown(2) takes for none is refused, and nothing is made", async () => {
    share.put({ mine: "" })
    chownSync(share.path("mine"), 7, 7)
    const { fs } = await share.attach()
    for (const [uid, gid] of [
      [NO_ID, 0],
      [0, NO_ID],
      [NO_ID, NO_ID],
    ] as const)
      expect(new Set(await makeAll(fs, uid, gid))).toEqual(new Set([-EINVAL]))
    const node = await fs.node("mine")
    for (const valid of [FATTR.UID, FATTR.GID])
      expect((await fs.setattr(node, valid, { 76: u32(NO_ID), 80: u32(NO_ID) })).error).toBe(-EINVAL)
    expect(readdirSync(share.shared)).toEqual(["mine"])
    expect((await fs.setattr(node, FATTR.UID, { 76: u32(NO_ID - 1) })).error).toBe(0)
    expect(ownersOf("mine")).toEqual([NO_ID - 1, 7])
  })

  test.each([2000, 0])(
    "F11: in a folder with the set-group-ID bit files have its group (%i)",
    async group => {
      mkdirSync(share.path("shared"))
      chownSync(share.path("shared"), 0, group)
      chmodSync(share.path("shared"), 0o2777)
      const { fs } = await share.attach()
      const parent = await fs.node("shared")
      const who = { parent, uid: 1000, gid: 100 }
      await fs.create("file", { ...who, mode: 0o100644 })
      expect(ownersOf("shared/file")).toEqual([1000, group])
      for (const mode of [0o755, 0o777, 0o700]) {
        await fs.mkdir(`dir${mode}`, parent, mode, who)
        expect(ownersOf(`shared/dir${mode}`)).toEqual([1000, group])
        expect(modeOf(`shared/dir${mode}`)).toBe(mode | 0o2000)
      }
      await fs.request(FUSE.SYMLINK, parent, ["link", "x"], who)
      expect(ownersOf("shared/link")).toEqual([1000, group])
    },
  )

  test("F11: nobody makes a program that runs with the rights of a group that is not his", async () => {
    mkdirSync(share.path("shared"))
    chownSync(share.path("shared"), 0, 2000)
    chmodSync(share.path("shared"), 0o2777)
    const { fs } = await share.attach()
    const parent = await fs.node("shared")
    const made = async (name: string, mode: number, uid: number, gid: number) => {
      mustBe(await fs.create(name, { parent, mode, uid, gid }))
      return modeOf(`shared/${name}`)
    }
    expect(await made("foreign", 0o102755, 1000, 100)).toBe(0o755)
    expect(await made("own", 0o102755, 1000, 2000)).toBe(0o2755)
    expect(await made("root", 0o102755, 0, 0)).toBe(0o2755)
    const node = [u32(0o102755), u32(0), u32(0), u32(0), "node"]
    await fs.request(FUSE.MKNOD, parent, node, { uid: 1000, gid: 100 })
    expect(modeOf("shared/node")).toBe(0o755)
    expect(await made("set-user", 0o104755, 1000, 100)).toBe(0o4755)
  })

  test("F11: a change of owner takes the set-ID bits away, unless the mode is set with it", async () => {
    const { fs } = await share.attach()
    const { node } = mustBe(await fs.create("file", { mode: 0o106755 }))
    expect(modeOf("file")).toBe(0o6755)
    await fs.setattr(node, FATTR.UID, { 76: u32(1000) })
    expect(modeOf("file")).toBe(0o755)
    await fs.setattr(node, FATTR.UID | FATTR.MODE, { 68: u32(0o104755), 76: u32(1001) })
    expect(modeOf("file")).toBe(0o4755)
    await fs.setattr(node, FATTR.GID, { 80: u32(1001) })
    expect(modeOf("file")).toBe(0o755)
    expect(ownersOf("file")).toEqual([1001, 1001])
  })
})

describe("owners are squashed", () => {
  test("F16: all is this user's, whom the guest sees as root", async () => {
    const { fs } = await share.attach({ owners: "squash" })
    expect(await makeAll(fs, 1000, 100)).toEqual([])
    for (const name of KINDS) expect(ownersOf(name)).toEqual([process.getuid?.(), process.getgid?.()])
    const { node, attr } = mustBe(await fs.lookup("file"))
    expect(attr).toMatchObject({ uid: 0, gid: 0 })
    for (const id of [1, 1000, 65534])
      expect((await fs.setattr(node, FATTR.UID | FATTR.GID, { 76: u32(id), 80: u32(id) })).error).toBe(-EPERM)
    expect((await fs.setattr(node, FATTR.UID, { 76: u32(NO_ID) })).error).toBe(-EINVAL)
    expect((await fs.setattr(node, FATTR.UID | FATTR.GID)).error).toBe(0)
  })

  test("F11: nobody makes a program that would run as the guest's root", async () => {
    const { fs } = await share.attach({ owners: "squash" })
    await fs.create("user", { mode: 0o106755, uid: 1000, gid: 1000 })
    expect(modeOf("user")).toBe(0o755)
    await fs.create("root", { mode: 0o106755 })
    expect(modeOf("root")).toBe(0o6755)
  })

  test.skipIf(!isRoot)("F16: other owners are nobody (needs root)", async () => {
    share.put({ file: "" })
    chownSync(share.path("file"), 1000, 100)
    const { fs } = await share.attach({ owners: "squash" })
    expect(mustBe(await fs.lookup("file")).attr).toMatchObject({ uid: 65534, gid: 65534 })
  })
})

describe.skipIf(!isRoot)("a server that is not root (needs root to become another)", () => {
  beforeEach(() => {
    share.put({ private: "private", readable: "readable" })
    chmodSync(share.path("private"), 0o600)
    for (const path of [share.root, share.shared]) chmodSync(path, 0o755)
    chownSync(share.shared, USER, GROUP)
    process.setegid?.(GROUP)
    process.seteuid?.(USER)
  })
  afterEach(() => {
    process.seteuid?.(0)
    process.setegid?.(0)
  })

  test("owners are squashed, users and groups each by their own number", async () => {
    const { fs } = await share.attach()
    expect(await makeAll(fs, 0, 0)).toEqual([])
    for (const name of KINDS) expect(ownersOf(name)).toEqual([USER, GROUP])
    const { attr, node } = mustBe(await fs.lookup("file"))
    expect(attr).toMatchObject({ uid: 0, gid: 0 })
    expect((await fs.setattr(node, FATTR.UID | FATTR.GID)).error).toBe(0)
    expect((await fs.setattr(node, FATTR.MODE, { 68: u32(0o600) })).error).toBe(0)
    expect(mustBe(await fs.lookup("readable")).attr).toMatchObject({ uid: 65534, gid: 65534 })
  })

  test("F16: the guest gets no further than this user", async () => {
    const { fs } = await share.attach()
    const node = await fs.node("private")
    for (const flags of [0, 1, 2]) expect(await fs.open(node, flags)).toBe(-EACCES)
    expect((await fs.setattr(node, FATTR.MODE, { 68: u32(0o777) })).error).toBe(-EPERM)
    expect((await fs.setattr(node, FATTR.SIZE)).error).toBe(-EACCES)
    expect((await fs.request(FUSE.LINK, 1, [u64(node), "mine"])).error).toBe(-EPERM)
  })

  test("O_NOATIME, which only owners may ask for, is left out for others' files", async () => {
    const { fs } = await share.attach()
    const node = await fs.node("readable")
    const handle = await fs.open(node, 0o1000000)
    expect(handle).toBeGreaterThan(0)
    expect((await fs.read(node, handle, 0, 8)).body.byteLength).toBe(8)
    expect(statSync(share.path("readable")).size).toBe(8)
  })
})
