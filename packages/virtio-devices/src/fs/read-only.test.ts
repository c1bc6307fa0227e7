import { linkSync, lstatSync, mkdirSync, readdirSync, readFileSync, symlinkSync } from "node:fs"
import { constants } from "node:os"
import { afterEach, beforeEach, expect, test } from "vitest"
import { FATTR, FUSE } from "./protocol.js"
import { ShareUnderTest } from "./share-under-test.js"
import { type FuseDriver, mustBe, type Part, u32, u64 } from "./testing.js"

const { ENOENT, EROFS } = constants.errno
const WRITING = [1, 2, 3, 0o1000, 0o1001, 0o2001]

let share: ShareUnderTest
let fs: FuseDriver
beforeEach(async () => {
  share = new ShareUnderTest()
  share.put({ file: "0123456789", other: "other" })
  mkdirSync(share.path("dir"))
  symlinkSync("file", share.path("link"))
  ;({ fs } = await share.attach({ readOnly: true }))
})
afterEach(() => share[Symbol.asyncDispose]())

/** All there is to see of the shared folder, but times of access. */
const state = () =>
  JSON.stringify(
    readdirSync(share.shared).map(name => {
      const { atimeMs, atime, ...stat } = lstatSync(share.path(name))
      return [name, stat]
    }),
  )

test("F13: every request that would change something is EROFS, whoever asks", async () => {
  const before = state()
  const node = await fs.node("file")
  const handle = await fs.open(node)
  const changing: [number, number, Part[]][] = [
    [FUSE.SETATTR, node, [u32(FATTR.MODE), new Uint8Array(84)]],
    [FUSE.SETATTR, node, [u32(FATTR.SIZE | FATTR.FH), u32(0), u64(handle), new Uint8Array(72)]],
    [FUSE.SETATTR, node, [u32(0), new Uint8Array(84)]],
    [FUSE.SYMLINK, 1, ["new", "target"]],
    [FUSE.MKNOD, 1, [u32(0o100600), u32(0), u32(0), u32(0), "new"]],
    [FUSE.MKDIR, 1, [u32(0o700), u32(0), "new"]],
    [FUSE.UNLINK, 1, ["file"]],
    [FUSE.RMDIR, 1, ["dir"]],
    [FUSE.RENAME, 1, [u64(1), "file", "new"]],
    [FUSE.RENAME2, 1, [u64(1), u64(0), "file", "new"]],
    [FUSE.RENAME2, 1, [u64(1), u64(2), "file", "other"]],
    [FUSE.LINK, 1, [u64(node), "new"]],
    [FUSE.WRITE, node, [u64(handle), u64(0), u32(1), u32(0), u64(0), u64(0), "x"]],
    [FUSE.SETXATTR, node, [u32(1), u32(0), "user.x", Buffer.from("x")]],
    [FUSE.REMOVEXATTR, node, ["user.x"]],
    [FUSE.CREATE, 1, [u32(2), u32(0o100600), u32(0), u32(0), "new"]],
    [FUSE.CREATE, 1, [u32(0), u32(0o100600), u32(0), u32(0), "new"]],
    [FUSE.TMPFILE, 1, [u32(2), u32(0o100600), u32(0), u32(0), ""]],
    [FUSE.FALLOCATE, node, [u64(handle), u64(0), u64(100), u64(0)]],
    [FUSE.COPY_FILE_RANGE, node, [...[handle, 0, node, handle, 20, 5, 0].map(u64)]],
    ...WRITING.map((flags): [number, number, Part[]] => [FUSE.OPEN, node, [u32(flags), u32(0)]]),
    ...WRITING.map((flags): [number, number, Part[]] => [
      ...([FUSE.CREATE, 1] as const),
      [u32(flags), u32(0o100600), u32(0), u32(0), "file"],
    ]),
  ]
  for (const [opcode, of, parts] of changing)
    expect((await fs.request(opcode, of, parts, { uid: 0 })).error, `opcode ${opcode}`).toBe(-EROFS)
  expect(state()).toBe(before)
  expect(readFileSync(share.path("file"), "utf8")).toBe("0123456789")
})

test("F13: every opcode with any arguments changes nothing", async () => {
  linkSync(share.path("file"), share.path("dir", "second"))
  const before = state()
  const nodes = [1, await fs.node("file"), await fs.node("dir"), await fs.node("link")]
  const handle = await fs.open(nodes[1]!)
  for (const opcode of Object.values(FUSE).filter(code => code !== FUSE.INIT && code !== FUSE.DESTROY)) {
    for (const node of nodes) {
      for (const first of [0, 1, 2, 0xffff_ffff, handle]) {
        const names = Buffer.from("file\0new\0")
        for (const size of [0, 8, 16, 24, 32, 40, 88])
          await fs.request(opcode, node, [u64(first), new Uint8Array(size).fill(first), names])
      }
    }
  }
  expect(state()).toBe(before)
})

test("what is there is read, and made anew it is as if it were", async () => {
  const { handle, node } = mustBe(await fs.create("file", { flags: 0 }))
  expect((await fs.read(node, handle, 0, 10)).body.byteLength).toBe(10)
  expect((await fs.request(FUSE.FSYNC, node, [u64(handle), u64(0)])).error).toBe(0)
  expect(await fs.create("file", { flags: 0o200 })).toBe(-EROFS)
  expect(await fs.lookup("new")).toBe(-ENOENT)
})
