// What a hostile guest asks for: the ids are those of the catalogue of hostile input.
import { execFileSync } from "node:child_process"
import { existsSync, lstatSync, mkdirSync, readdirSync, readFileSync, renameSync, symlinkSync } from "node:fs"
import { createServer } from "node:net"
import { constants } from "node:os"
import { afterEach, beforeEach, describe, expect, test } from "vitest"
import { overMmio } from "../testing/index.js"
import { FATTR, FUSE } from "./protocol.js"
import { type Attached, ShareUnderTest } from "./share-under-test.js"
import { entryOf, type FuseDriver, mustBe, type Part, u32, u64 } from "./testing.js"

const { EBADF, EINVAL, EISDIR, ELOOP, ENAMETOOLONG, ENOENT, ENOSYS, ENOTDIR, EOPNOTSUPP, EPERM } =
  constants.errno
const MAX_U64 = (1n << 64n) - 1n
const isRoot = process.getuid?.() === 0

let share: ShareUnderTest
let fs: FuseDriver
let device: Attached["device"]
beforeEach(async () => {
  share = new ShareUnderTest()
  share.put({ file: "0123456789" })
  ;({ fs, device } = await share.attach())
})
afterEach(async () => {
  share.checkOutside()
  await share[Symbol.asyncDispose]()
})

/** Every request that has a name, or two, with `name` in its place. */
const byName = (name: string | Uint8Array): [string, number, Part[]][] => [
  ["LOOKUP", FUSE.LOOKUP, [name]],
  ["MKNOD", FUSE.MKNOD, [u32(0o100600), u32(0), u32(0), u32(0), name]],
  ["MKDIR", FUSE.MKDIR, [u32(0o700), u32(0), name]],
  ["SYMLINK", FUSE.SYMLINK, [name, "target"]],
  ["UNLINK", FUSE.UNLINK, [name]],
  ["RMDIR", FUSE.RMDIR, [name]],
  ["RENAME from", FUSE.RENAME, [u64(1), name, "to"]],
  ["RENAME to", FUSE.RENAME, [u64(1), "file", name]],
  ["RENAME2 from", FUSE.RENAME2, [u64(1), u32(0), u32(0), name, "to"]],
  ["RENAME2 to", FUSE.RENAME2, [u64(1), u32(0), u32(0), "file", name]],
  ["CREATE", FUSE.CREATE, [u32(2), u32(0o100600), u32(0), u32(0), name]],
]

describe("names and paths", () => {
  test.each([
    ["..", EINVAL],
    [".", EINVAL],
    ["", EINVAL],
    ["../outside/canary", EINVAL],
    ["dir/../../outside/canary", EINVAL],
    ["/etc/passwd", EINVAL],
    ["file/", EINVAL],
    ["/", EINVAL],
    ["x".repeat(256), ENAMETOOLONG],
    ["x".repeat(70_000), ENAMETOOLONG],
  ])("F1: the name %j is refused before it gets anywhere", async (name, errno) => {
    for (const [what, opcode, parts] of byName(name))
      expect((await fs.request(opcode, 1, parts)).error, what).toBe(-errno)
    expect((await fs.request(FUSE.LINK, 1, [u64(await fs.node("file")), name])).error).toBe(-errno)
    expect(readdirSync(share.shared)).toEqual(["file"])
  })

  test("F1: a name without its NUL is refused, whatever the last request left behind", async () => {
    await fs.lookup("x".repeat(300))
    for (const name of [Buffer.from("file"), Buffer.alloc(0)]) {
      for (const [what, opcode, parts] of byName(name).filter(([, , list]) => list.at(-1) === name))
        expect((await fs.request(opcode, 1, parts)).error, what).toBe(-EINVAL)
    }
    expect((await fs.request(FUSE.SYMLINK, 1, ["link", Buffer.from("target")])).error).toBe(-EINVAL)
    expect((await fs.request(FUSE.SYMLINK, 1, ["link", ""])).error).toBe(-EINVAL)
    expect((await fs.request(FUSE.SYMLINK, 1, ["link", "x".repeat(5000)])).error).toBe(-ENAMETOOLONG)
    expect(readdirSync(share.shared)).toEqual(["file"])
  })

  test("F2: what is done to a symbolic link is done to the link", async () => {
    symlinkSync("../outside/canary", share.path("link"))
    symlinkSync("../outside", share.path("folder"))
    const { node, attr } = mustBe(await fs.lookup("link"))
    expect(attr.mode & 0o170000).toBe(0o120000)
    expect(await fs.open(node, 0)).toBe(-ELOOP)
    expect(await fs.open(node, 2)).toBe(-ELOOP)
    expect(await fs.create("link", { flags: 2 | 0o1000 })).toBe(-ELOOP)
    expect((await fs.setattr(node, FATTR.SIZE, { 16: u64(0) })).error).toBe(-ELOOP)
    expect((await fs.setattr(node, FATTR.MODE, { 68: u32(0o777) })).error).toBe(-EOPNOTSUPP)
    expect((await fs.setattr(node, FATTR.MTIME, { 40: u64(5) })).error).toBe(0)
    if (isRoot) expect((await fs.setattr(node, FATTR.UID, { 76: u32(7) })).error).toBe(0)
    expect(lstatSync(share.path("link"))).toMatchObject({
      mtimeMs: 5000,
      uid: isRoot ? 7 : process.getuid?.(),
    })
    const xattr = [u32(1), u32(0), "user.x", Buffer.from("x")]
    expect((await fs.request(FUSE.SETXATTR, node, xattr)).error).toBe(-EPERM)
    expect((await fs.request(FUSE.LINK, 1, [u64(node), "second"])).error).toBe(0)
    expect(lstatSync(share.path("second")).isSymbolicLink()).toBe(true)
    const folder = await fs.node("folder")
    expect(await fs.open(folder, 0, FUSE.OPENDIR)).toBeLessThan(0)
    expect(await fs.lookup("canary", folder)).toBe(-ENOTDIR)
    expect(await fs.mkdir("x", folder)).toBe(-ENOTDIR)
    expect(await fs.create("x", { parent: folder })).toBe(-ENOTDIR)
    expect((await fs.request(FUSE.UNLINK, folder, ["canary"])).error).toBe(-ENOTDIR)
    expect((await fs.request(FUSE.RENAME, folder, [u64(1), "canary", "mine"])).error).toBe(-ENOTDIR)
    expect((await fs.request(FUSE.RENAME, 1, [u64(folder), "file", "theirs"])).error).toBe(-ENOTDIR)
  })

  test("F3: neither a FIFO, a socket nor a device is opened", async () => {
    execFileSync("mkfifo", [share.path("fifo")])
    const server = createServer().listen(share.path("socket"))
    const names = ["fifo", "socket"]
    if (isRoot) {
      execFileSync("mknod", [share.path("null"), "c", "1", "3"])
      names.push("null")
    }
    for (const name of names) {
      const node = await fs.node(name)
      for (const flags of [0, 1, 2, 0o4000, 0o1001]) expect(await fs.open(node, flags)).toBe(-ELOOP)
      expect(await fs.create(name, { flags: 2 })).toBe(-ELOOP)
      expect(await fs.open(node, 0, FUSE.OPENDIR)).toBe(-ENOTDIR)
      expect((await fs.setattr(node, FATTR.SIZE, {})).error).toBe(-ELOOP)
    }
    expect(await fs.open(1)).toBe(-EISDIR)
    await new Promise(resolve => server.close(resolve))
  })

  test("F3: no device can be made, nor a whiteout", async () => {
    for (const type of [0o020000, 0o060000, 0, 0o170000, 0o040000, 0o120000]) {
      const parts = [u32(type | 0o666), u32(0x103), u32(0), u32(0), "node"]
      expect((await fs.request(FUSE.MKNOD, 1, parts)).error).toBe(-EPERM)
    }
    expect((await fs.request(FUSE.RENAME2, 1, [u64(1), u32(4), u32(0), "file", "to"])).error).toBe(-EINVAL)
    expect(readdirSync(share.shared)).toEqual(["file"])
  })

  test("F4: a folder that is moved out while it is held leads nowhere but down", async () => {
    mkdirSync(share.path("dir/sub"), { recursive: true })
    const dir = await fs.node("dir")
    const sub = await fs.node("sub", dir)
    const handle = await fs.open(dir, 0, FUSE.OPENDIR)
    const moved = `${share.root}/moved`
    renameSync(share.path("dir"), moved)
    for (const node of [dir, sub]) {
      for (const name of ["..", "../outside", "../../outside/canary"])
        expect(await fs.lookup(name, node)).toBe(-EINVAL)
    }
    const { entries } = await fs.readdir(dir, handle, { plus: true })
    expect(entries.find(({ name }) => name === "..")?.node).toBe(0)
    expect(await fs.lookup("outside", dir)).toBe(-ENOENT)
    renameSync(moved, share.path("dir"))
  })
})

describe("sizes and positions", () => {
  const HUGE = [
    2 ** 31,
    2 ** 32 - 1,
    2 ** 32,
    2 ** 53 - 1,
    2 ** 53,
    2n ** 62n,
    2n ** 63n - 1n,
    2n ** 63n,
    MAX_U64,
  ]

  test("F5: reads and writes of any size at any position are refused or cut short", async () => {
    const { node, handle } = mustBe(await fs.create("new"))
    for (const size of [2 ** 20 + 1, 2 ** 31, 2 ** 32 - 1]) {
      expect((await fs.read(node, handle, 0, size)).error).toBe(-EINVAL)
      expect((await fs.write(node, handle, 0, new Uint8Array(16), size)).error).toBe(-EINVAL)
    }
    expect((await fs.write(node, handle, 0, new Uint8Array(16), 17)).error).toBe(-EINVAL)
    expect((await fs.read(node, handle, 0, 100, { room: 16 + 99 })).error).toBe(-EINVAL)
    for (const offset of HUGE) {
      const { error, body } = await fs.read(node, handle, offset, 4096)
      expect(error === 0 ? body.byteLength : 0).toBe(0)
      expect((await fs.write(node, handle, 2n ** 63n - 1n, Buffer.from("x"))).error).toBeLessThan(0)
    }
    expect(lstatSync(share.path("new")).size).toBe(0)
    expect((await fs.read(node, handle, 0, 0)).error).toBe(0)
    expect((await fs.write(node, handle, 0, new Uint8Array(0))).error).toBe(0)
  })

  test("F5: a directory is read into no room, little room, from any position", async () => {
    const handle = await fs.open(1, 0, FUSE.OPENDIR)
    for (const size of [0, 1, 24, 31]) expect((await fs.readdir(1, handle, { size })).error).toBe(-EINVAL)
    for (const plus of [false, true]) {
      for (const position of [1n, 2n ** 31n, 2n ** 63n - 1n, 2n ** 63n, MAX_U64]) {
        const { error } = await fs.readdir(1, handle, { position, size: 0xffff_ffff, plus })
        expect([0, -EINVAL, -ENOENT, -constants.errno.EOVERFLOW]).toContain(error)
      }
      expect((await fs.readdir(1, handle, { size: 0xffff_ffff, plus })).entries).toHaveLength(3)
    }
  })

  test("F5: SETATTR with sizes and times beyond all limits", async () => {
    const node = await fs.node("file")
    for (const size of [2n ** 53n, 2n ** 63n, MAX_U64])
      expect((await fs.setattr(node, FATTR.SIZE, { 16: u64(size) })).error).toBe(-EINVAL)
    for (const nanoseconds of [1_000_000_000, 2 ** 31, 2 ** 32 - 1])
      expect((await fs.setattr(node, FATTR.MTIME, { 60: u32(nanoseconds) })).error).toBe(-EINVAL)
    for (const seconds of HUGE) await fs.setattr(node, FATTR.ATIME, { 32: u64(seconds) })
    expect((await fs.setattr(node, 0xffff_ffff & ~FATTR.FH & ~FATTR.SIZE, { 68: u32(0o600) })).error).toBe(0)
    expect(readFileSync(share.path("file"), "utf8")).toBe("0123456789")
  })

  test("F15: FALLOCATE, LSEEK and COPY_FILE_RANGE with hostile values", async () => {
    const { node, handle } = mustBe(await fs.create("new"))
    const allocate = (offset: number | bigint, length: number | bigint, mode = 0) =>
      fs.request(FUSE.FALLOCATE, node, [u64(handle), u64(offset), u64(length), u32(mode), u32(0)])
    expect((await allocate(0, 0)).error).toBe(-EINVAL)
    for (const huge of [2n ** 53n, 2n ** 63n - 1n, 2n ** 63n, MAX_U64]) {
      expect((await allocate(0, huge)).error).toBe(-EINVAL)
      expect((await allocate(huge, 1)).error).toBe(-EINVAL)
    }
    for (const mode of [0x08, 0x20, 0x40, 0x80, 0x8000_0000])
      expect((await allocate(0, 4096, mode)).error).toBe(-EOPNOTSUPP)
    const seek = (offset: number | bigint, whence: number) =>
      fs.request(FUSE.LSEEK, node, [u64(handle), u64(offset), u32(whence), u32(0)])
    for (const whence of [5, 6, 0xffff_ffff]) expect((await seek(0, whence)).error).toBe(-EINVAL)
    for (const offset of HUGE)
      for (const whence of [0, 1, 2, 3, 4]) expect((await seek(offset, whence)).used).toBeGreaterThan(0)
    const copy = (from: number | bigint, to: number | bigint, length: number | bigint, flags = 0) =>
      fs.request(FUSE.COPY_FILE_RANGE, node, [
        ...[u64(handle), u64(from), u64(node), u64(handle), u64(to), u64(length), u64(flags)],
      ])
    for (const huge of [2n ** 63n - 1n, 2n ** 63n, MAX_U64]) {
      // Behind the end there is nothing to copy.
      expect((await copy(huge, 0, 1)).body.byteLength).toBeLessThanOrEqual(8)
      expect((await copy(0, huge, 1)).error).toBeLessThan(0)
    }
    expect((await copy(0, 0, MAX_U64)).body.byteLength).toBeLessThanOrEqual(8)
    expect((await copy(0, 0, 1, 1)).error).toBe(-EINVAL)
    expect(lstatSync(share.path("new")).size).toBe(0)
  })

  test("F15: FLUSH, locks, IOCTL, POLL, BMAP, SYNCFS, STATX, DAX are not there", async () => {
    for (const opcode of [25, 31, 32, 33, 34, 37, 39, 40, 41, 48, 49, 50, 52])
      expect((await fs.request(opcode, 1, [new Uint8Array(128)])).error).toBe(-ENOSYS)
  })
})

describe("nodes and handles", () => {
  test("F7: FORGET more often than found, of the root, of what is not there", async () => {
    const node = await fs.node("file")
    for (const count of [2 ** 32, MAX_U64]) await fs.forget(node, count)
    expect(device.counts.inodes).toBe(1)
    for (const id of [0, 1, node, 2 ** 32, MAX_U64]) await fs.forget(id, MAX_U64)
    expect((await fs.getattr(1)).mode & 0o170000).toBe(0o040000)
    await fs.forget(await fs.node("file"), 0)
    expect(device.counts.inodes).toBe(2)
  })

  test("F7: BATCH_FORGET with a count beyond its data, and of the same node twice", async () => {
    const [node, again] = [await fs.node("file"), await fs.node("file")]
    const batch = (count: number, ...items: Part[]) =>
      fs.request(FUSE.BATCH_FORGET, 0, [u32(count), u32(0), ...items], { room: 0 })
    for (const count of [0, 1, 2 ** 31, 2 ** 32 - 1]) await batch(count)
    await batch(0xffff_ffff, u64(node), u32(1))
    expect(device.counts.inodes).toBe(2)
    await batch(0xffff_ffff, u64(node), u64(1), u64(again), u64(1), u64(1), u64(9), u64(MAX_U64), u64(1))
    expect(device.counts.inodes).toBe(1)
  })

  test("F7: a file that is forgotten while it is open stays open, and its node is gone", async () => {
    const { node, handle } = mustBe(await fs.create("new"))
    await fs.forget(node, 1)
    expect((await fs.write(node, handle, 0, Buffer.from("text"))).error).toBe(0)
    expect((await fs.request(FUSE.GETATTR, node, [new Uint8Array(16)])).error).toBe(-ENOENT)
    expect(await fs.open(node)).toBe(-ENOENT)
    expect((await fs.release(node, handle)).error).toBe(0)
    expect(device.counts).toEqual({ inodes: 1, handles: 0 })
  })

  test("F7: a folder that is forgotten in the middle of reading it is read no further", async () => {
    mkdirSync(share.path("dir"))
    const node = await fs.node("dir")
    const handle = await fs.open(node, 0, FUSE.OPENDIR)
    await fs.forget(node, 1)
    expect((await fs.readdir(node, handle, { plus: true })).error).toBe(-ENOENT)
  })

  test("F8: requests on nodes that are not there", async () => {
    const { fs } = await share.attach({ locks: true, dax: { size: 2 ** 21 } })
    for (const opcode of Object.values(FUSE)) {
      const silent: number[] = [FUSE.INIT, FUSE.DESTROY, FUSE.FORGET, FUSE.BATCH_FORGET, FUSE.INTERRUPT]
      if (silent.includes(opcode)) continue
      for (const node of [0, 2, 12345, 2 ** 32 + 1, 2n ** 63n, MAX_U64]) {
        const { error } = await fs.request(opcode, node, [
          new Uint8Array(39),
          Buffer.from("x\0y\0".repeat(30)),
        ])
        expect([-ENOENT, -EBADF, -EINVAL], `opcode ${opcode} on ${node}`).toContain(error)
      }
    }
    expect(readdirSync(share.shared)).toEqual(["file"])
  })

  test("F8: a handle is good for its own node and kind, and once to release", async () => {
    share.put({ other: "other" })
    const [node, other] = [await fs.node("file"), await fs.node("other")]
    const handle = await fs.open(node, 2)
    const directory = await fs.open(1, 0, FUSE.OPENDIR)
    const uses = (of: number, by: number | bigint) => [
      fs.read.bind(fs, of, Number(by), 0, 1),
      fs.write.bind(fs, of, Number(by), 0, Buffer.from("x")),
      fs.request.bind(fs, FUSE.FSYNC, of, [u64(by), u64(0)]),
      fs.request.bind(fs, FUSE.FALLOCATE, of, [u64(by), u64(0), u64(1), u64(0)]),
      fs.request.bind(fs, FUSE.LSEEK, of, [u64(by), u64(0), u64(0)]),
      fs.request.bind(fs, FUSE.READDIR, of, [u64(by), u64(0), u32(4096), u32(0), u64(0), u64(0)]),
      fs.request.bind(fs, FUSE.READDIRPLUS, of, [u64(by), u64(0), u32(4096), u32(0), u64(0), u64(0)]),
      fs.request.bind(fs, FUSE.FSYNCDIR, of, [u64(by), u64(0)]),
      fs.setattr.bind(fs, of, FATTR.SIZE | FATTR.FH, { 8: u64(by) }),
      fs.request.bind(fs, FUSE.COPY_FILE_RANGE, of, [...[by, 0, of, by, 20, 1, 0].map(u64)]),
    ]
    for (const [of, by] of [
      [other, handle],
      [other, directory],
      [node, directory],
      [node, 0],
      [node, 99],
    ] as const)
      for (const use of uses(of, by)) expect((await use()).error).toBe(-EBADF)
    for (const use of uses(node, MAX_U64)) expect((await use()).error).toBe(-EBADF)
    for (const use of uses(1, handle)) expect((await use()).error).toBe(-EBADF)
    expect((await fs.release(node, handle)).error).toBe(0)
    expect((await fs.release(node, handle)).error).toBe(-EBADF)
    expect((await fs.release(node, 12345)).error).toBe(-EBADF)
    expect((await fs.read(node, handle, 0, 1)).error).toBe(-EBADF)
    expect(readFileSync(share.path("file"), "utf8")).toBe("0123456789")
  })

  test("F8: RELEASE in the middle of a long read does it no harm, whatever the fd's number is next", async () => {
    const { driver, fs: guest } = await share.attach({}, overMmio, {
      regions: [
        { start: 0, size: 2 ** 20 },
        { start: 2 ** 32, size: 8 * 2 ** 20 },
      ],
    })
    const { node, handle } = mustBe(await guest.create("long"))
    expect((await guest.setattr(node, FATTR.SIZE, { 16: u64(2 ** 20) })).error).toBe(0)
    const into = driver.writable(16 + 2 ** 20)
    const read = [u64(handle), u64(0), u32(2 ** 20), u32(0), u64(0), u64(0)]
    driver.queue(1).post([driver.readable(guest.message(FUSE.READ, node, read)), into])
    const release = guest.message(FUSE.RELEASE, node, [u64(handle), new Uint8Array(16)])
    driver.queue(1).post([driver.readable(release), driver.writable(16)])
    driver.port.kick(1)
    const lengths = [(await driver.nextUsed(1)).length, (await driver.nextUsed(1)).length]
    expect(lengths.sort((a, b) => a - b)).toEqual([16, 16 + 2 ** 20])
    expect(
      into
        .bytes()
        .subarray(16)
        .every(byte => byte === 0),
    ).toBe(true)
  })

  test("F8: a node is of the file that was found, whatever the host puts in its place", async () => {
    const node = await fs.node("file")
    const inode = (await fs.getattr(node)).inode
    execFileSync("sh", [
      "-c",
      `cd "$1" && rm file && for i in $(seq 50); do echo other > file$i; done`,
      "sh",
      share.shared,
    ])
    // Its number cannot be another file's as long as the fd holds it.
    for (let i = 1; i <= 50; i++) {
      const entry = mustBe(await fs.lookup(`file${i}`))
      expect(entry.attr.inode).not.toBe(inode)
      expect(entry.node).not.toBe(node)
    }
    const handle = await fs.open(node)
    const { body } = await fs.read(node, handle, 0, 100)
    expect(Buffer.from(body.buffer, body.byteOffset, body.byteLength).toString()).toBe("0123456789")
    expect(existsSync(share.path("file"))).toBe(false)
    expect(entryOf(await fs.request(FUSE.LOOKUP, 1, ["file"]))).toBe(-ENOENT)
  })
})
