import {
  closeSync,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs"
import { constants, tmpdir } from "node:os"
import { join } from "node:path"
import { afterEach, beforeEach, describe, expect, test } from "vitest"
import { type FileCalls, files } from "./index.js"

const { EBADF, EEXIST, EINVAL, ENAMETOOLONG, ENODATA, ENOENT, ENOTDIR, ENOTSUP, ENXIO } = constants.errno
const O_PATH = 0o10000000
const O_DIRECTORY = process.arch === "arm64" ? 0o40000 : 0o200000
const AT_EMPTY_PATH = 0x1000
const AT_REMOVEDIR = 0x200
const BASIC_STATS = 0x7ff
const NOBODY_HAS = 0x7fff_fff0
const F_OFD_GETLK = 36
const F_OFD_SETLK = 37
const F_WRLCK = 1
const F_UNLCK = 2

let folder: string
let dir: number
let file: number
const name = (text: string) => Buffer.from(text)
const path = (...names: string[]) => join(folder, ...names)

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "tsvmm-files-"))
  writeFileSync(path("file"), "0123456789")
  mkdirSync(path("sub"))
  dir = openSync(folder, O_PATH | O_DIRECTORY)
  file = openSync(path("file"), "r+")
})
afterEach(() => {
  closeSync(file)
  closeSync(dir)
  rmSync(folder, { recursive: true })
})

/** struct open_how. */
function openHow(flags: number, mode = 0, resolve = 0n): Uint8Array {
  return new Uint8Array(BigUint64Array.of(BigInt(flags), BigInt(mode), resolve).buffer)
}

/** struct flock: type, whence, start, length, pid. */
function flock(type: number): Uint8Array {
  const view = new DataView(new ArrayBuffer(32))
  view.setInt16(0, type, true)
  return new Uint8Array(view.buffer)
}

describe("each call does what the kernel does, and gives its errno", () => {
  test("openat2", () => {
    const fd = files.openat2(dir, name("file"), openHow(0))
    expect(fd).toBeGreaterThan(2)
    expect(readFileSync(fd, "utf8")).toBe("0123456789")
    closeSync(fd)
    expect(files.openat2(dir, name("missing"), openHow(0))).toBe(-ENOENT)
    expect(files.openat2(dir, name("file"), openHow(0).subarray(0, 8))).toBe(-EINVAL)
    expect(files.openat2(dir, name("file"), openHow(0, 0o644))).toBe(-EINVAL)
    const beneath = openHow(0, 0, 0x08n)
    expect(files.openat2(dir, name("../x"), beneath)).toBe(-constants.errno.EXDEV)
  })

  test("statx", () => {
    const into = new Uint8Array(256)
    const view = new DataView(into.buffer)
    expect(files.statx(dir, name("file"), 0, BASIC_STATS, into)).toBe(0)
    expect(view.getBigUint64(40, true)).toBe(10n)
    expect(files.statx(file, new Uint8Array(0), AT_EMPTY_PATH, BASIC_STATS, into)).toBe(0)
    expect(view.getBigUint64(32, true)).toBe(statSync(path("file"), { bigint: true }).ino)
    expect(files.statx(dir, name("missing"), 0, BASIC_STATS, into)).toBe(-ENOENT)
  })

  test("mkdirat, mknodat, symlinkat, readlinkat", () => {
    expect(files.mkdirat(dir, name("made"), 0o700)).toBe(0)
    expect(files.mkdirat(dir, name("made"), 0o700)).toBe(-EEXIST)
    expect(files.mknodat(dir, name("fifo"), 0o010600, 0)).toBe(0)
    expect(lstatSync(path("fifo")).isFIFO()).toBe(true)
    expect(files.mknodat(dir, name("fifo"), 0o010600, 0)).toBe(-EEXIST)
    expect(files.symlinkat(name("some target"), dir, name("link"))).toBe(0)
    expect(readlinkSync(path("link"))).toBe("some target")
    expect(files.symlinkat(name("x"), dir, name("link"))).toBe(-EEXIST)
    const into = Buffer.alloc(64)
    expect(files.readlinkat(dir, name("link"), into)).toBe(11)
    expect(into.toString("utf8", 0, 11)).toBe("some target")
    expect(files.readlinkat(dir, name("link"), into.subarray(0, 4))).toBe(4)
    expect(files.readlinkat(dir, name("file"), into)).toBe(-EINVAL)
  })

  test("linkat, renameat2, unlinkat", () => {
    expect(files.linkat(dir, name("file"), dir, name("second"), 0)).toBe(0)
    expect(statSync(path("file")).nlink).toBe(2)
    expect(files.linkat(dir, name("missing"), dir, name("third"), 0)).toBe(-ENOENT)
    expect(files.renameat2(dir, name("second"), dir, name("moved"), 0)).toBe(0)
    expect(files.renameat2(dir, name("moved"), dir, name("file"), 1)).toBe(-EEXIST)
    expect(files.unlinkat(dir, name("moved"), 0)).toBe(0)
    expect(files.unlinkat(dir, name("moved"), 0)).toBe(-ENOENT)
    expect(files.unlinkat(dir, name("file"), AT_REMOVEDIR)).toBe(-ENOTDIR)
    expect(files.unlinkat(dir, name("sub"), AT_REMOVEDIR)).toBe(0)
    expect(readdirSync(folder)).toEqual(["file"])
  })

  test("fchownat, fchmodat, utimensat", () => {
    expect(files.fchownat(dir, name("file"), -1, -1, 0)).toBe(0)
    expect(files.fchownat(dir, name("missing"), -1, -1, 0)).toBe(-ENOENT)
    expect(files.fchmodat(dir, name("file"), 0o604)).toBe(0)
    expect(statSync(path("file")).mode & 0o7777).toBe(0o604)
    expect(files.fchmodat(dir, name("missing"), 0o604)).toBe(-ENOENT)
    const times = new Uint8Array(BigInt64Array.of(1n, 2n, -3n, 4n).buffer)
    expect(files.utimensat(dir, name("file"), times, 0)).toBe(0)
    expect(statSync(path("file"), { bigint: true })).toMatchObject({
      atimeNs: 1_000_000_002n,
      mtimeNs: -2_999_999_996n,
    })
    expect(files.utimensat(dir, name("missing"), times, 0)).toBe(-ENOENT)
  })

  test("ftruncate, fallocate", () => {
    expect(files.ftruncate(file, 4)).toBe(0)
    expect(readFileSync(path("file"), "utf8")).toBe("0123")
    expect(files.ftruncate(file, -1)).toBe(-EINVAL)
    expect(files.fallocate(file, 0, 0, 8192)).toBe(0)
    expect(statSync(path("file")).size).toBe(8192)
    expect(files.fallocate(file, 0, 0, 0)).toBe(-EINVAL)
  })

  test("fsync, fdatasync, syncfs, fstatfs", () => {
    for (const call of [files.fsync, files.fdatasync, files.syncfs]) {
      expect(call(file)).toBe(0)
      expect(call(NOBODY_HAS)).toBe(-EBADF)
    }
    const into = new Uint8Array(120)
    expect(files.fstatfs(file, into)).toBe(0)
    expect(new DataView(into.buffer).getBigInt64(64, true)).toBe(255n)
    expect(files.fstatfs(NOBODY_HAS, into)).toBe(-EBADF)
  })

  test("lseek, with all 64 bits", () => {
    expect(files.lseek(file, 5, 0)).toBe(5)
    expect(files.lseek(file, 5n, 1)).toBe(10)
    expect(files.lseek(file, -1n, 0)).toBe(-EINVAL)
    expect(files.lseek(file, 100, 3)).toBe(-ENXIO)
    expect(files.lseek(file, (1n << 63n) - 1n, 0)).toBeLessThan(0)
    expect(files.lseek(file, -(1n << 63n), 0)).toBe(-EINVAL)
  })

  test("getdents64", () => {
    const open = openSync(folder, "r")
    const into = Buffer.alloc(4096)
    const length = files.getdents64(open, into)
    const names: string[] = []
    for (let at = 0; at < length; at += into.readUInt16LE(at + 16))
      names.push(into.toString("latin1", at + 19, into.indexOf(0, at + 19)))
    expect(names.sort()).toEqual([".", "..", "file", "sub"])
    expect(files.getdents64(open, into)).toBe(0)
    closeSync(open)
    expect(files.getdents64(file, into)).toBe(-ENOTDIR)
  })

  test("getxattr, setxattr, listxattr, removexattr", context => {
    const at = name(path("file"))
    const result = files.setxattr(at, name("user.key"), name("value"), 0)
    if (result === -ENOTSUP) context.skip("the temporary folder has no extended attributes")
    expect(result).toBe(0)
    expect(files.setxattr(at, name("user.key"), name("value"), 1)).toBe(-EEXIST)
    const into = Buffer.alloc(100)
    expect(files.getxattr(at, name("user.key"), into)).toBe(5)
    expect(into.toString("utf8", 0, 5)).toBe("value")
    expect(files.getxattr(at, name("user.key"), new Uint8Array(0))).toBe(5)
    expect(files.getxattr(at, name("user.key"), into.subarray(0, 2))).toBe(-constants.errno.ERANGE)
    const length = files.listxattr(at, into)
    expect(into.toString("utf8", 0, length).split("\0")).toContain("user.key")
    expect(files.listxattr(at, new Uint8Array(0))).toBe(length)
    expect(files.listxattr(name(path("missing")), into)).toBe(-ENOENT)
    expect(files.setxattr(at, name("user.empty"), new Uint8Array(0), 0)).toBe(0)
    expect(files.removexattr(at, name("user.key"))).toBe(0)
    expect(files.removexattr(at, name("user.key"))).toBe(-ENODATA)
    expect(files.getxattr(at, name("user.key"), into)).toBe(-ENODATA)
  })

  test("copyFileRange moves the offsets that it was given", () => {
    const to = openSync(path("copy"), "w")
    const [from, into] = [BigInt64Array.of(3n), BigInt64Array.of(1n)]
    expect(
      files.copyFileRange(file, new Uint8Array(from.buffer), to, new Uint8Array(into.buffer), 4, 0),
    ).toBe(4)
    expect([from[0], into[0]]).toEqual([7n, 5n])
    expect(readFileSync(path("copy"), "utf8")).toBe("\x003456")
    expect(files.copyFileRange(to, new Uint8Array(8), file, new Uint8Array(8), 4, 0)).toBe(-EBADF)
    closeSync(to)
  })

  test("fcntlLock", () => {
    const other = openSync(path("file"), "r+")
    expect(files.fcntlLock(file, F_OFD_SETLK, flock(F_WRLCK))).toBe(0)
    expect(files.fcntlLock(other, F_OFD_SETLK, flock(F_WRLCK))).toBe(-constants.errno.EAGAIN)
    const lock = flock(F_WRLCK)
    expect(files.fcntlLock(other, F_OFD_GETLK, lock)).toBe(0)
    expect(new DataView(lock.buffer).getInt16(0, true)).toBe(F_WRLCK)
    expect(files.fcntlLock(file, F_OFD_SETLK, flock(F_UNLCK))).toBe(0)
    expect(files.fcntlLock(other, F_OFD_SETLK, flock(F_WRLCK))).toBe(0)
    closeSync(other)
  })
})

/** Arguments with which each call is made once, so that one after the other can be spoiled. */
const CALLS: Readonly<Record<keyof FileCalls, () => unknown[]>> = {
  openat2: () => [dir, name("missing"), openHow(0)],
  statx: () => [dir, name("missing"), 0, 0, new Uint8Array(256)],
  mkdirat: () => [dir, name("sub"), 0o700],
  mknodat: () => [dir, name("sub"), 0o010600, 0],
  unlinkat: () => [dir, name("missing"), 0],
  symlinkat: () => [name("x"), dir, name("sub")],
  linkat: () => [dir, name("missing"), dir, name("x"), 0],
  renameat2: () => [dir, name("missing"), dir, name("x"), 0],
  readlinkat: () => [dir, name("missing"), new Uint8Array(8)],
  fchownat: () => [dir, name("missing"), -1, -1, 0],
  fchmodat: () => [dir, name("missing"), 0o600],
  utimensat: () => [dir, name("missing"), new Uint8Array(32), 0],
  ftruncate: () => [NOBODY_HAS, 0],
  fallocate: () => [NOBODY_HAS, 0, 0, 1],
  fsync: () => [NOBODY_HAS],
  fdatasync: () => [NOBODY_HAS],
  syncfs: () => [NOBODY_HAS],
  lseek: () => [NOBODY_HAS, 0, 0],
  getdents64: () => [NOBODY_HAS, new Uint8Array(64)],
  fstatfs: () => [NOBODY_HAS, new Uint8Array(120)],
  getxattr: () => [name(path("missing")), name("user.x"), new Uint8Array(8)],
  setxattr: () => [name(path("missing")), name("user.x"), new Uint8Array(8), 0],
  listxattr: () => [name(path("missing")), new Uint8Array(8)],
  removexattr: () => [name(path("missing")), name("user.x")],
  copyFileRange: () => [NOBODY_HAS, new Uint8Array(8), NOBODY_HAS, new Uint8Array(8), 1, 0],
  flock: () => [NOBODY_HAS, 4],
  fcntlLock: () => [NOBODY_HAS, F_OFD_GETLK, new Uint8Array(32)],
}
/** Length of the structure that a call takes. */
const STRUCTURES: Readonly<Partial<Record<keyof FileCalls, number>>> = {
  statx: 256,
  utimensat: 32,
  fstatfs: 120,
  copyFileRange: 8,
  fcntlLock: 32,
}
const isView = (value: unknown): value is Uint8Array => value instanceof Uint8Array

describe("what is no argument never reaches the kernel", () => {
  const call = (of: keyof FileCalls, args: unknown[]) => (files[of] as (...all: unknown[]) => number)(...args)

  test("there is a row for each call", () => {
    expect(Object.keys(CALLS).sort()).toEqual(Object.keys(files).sort())
  })

  test.each(Object.keys(CALLS) as (keyof FileCalls)[])("%s", of => {
    const args = CALLS[of]()
    expect(call(of, args)).toBeLessThan(0)
    for (const [index, good] of args.entries()) {
      const spoiled = (bad: unknown) => () => call(of, args.with(index, bad))
      for (const bad of [undefined, null, "text", {}, [], true, Symbol("x")])
        expect(spoiled(bad)).toThrow(TypeError)
      if (isView(good)) {
        for (const bad of [0, 1n, new ArrayBuffer(300)]) expect(spoiled(bad)).toThrow(TypeError)
        continue
      }
      expect(spoiled(new Uint8Array(8))).toThrow(TypeError)
      for (const bad of [0.5, Number.NaN, Number.POSITIVE_INFINITY, 2 ** 53])
        expect(spoiled(bad)).toThrow(RangeError)
    }
    expect(() => call(of, args.slice(0, -1))).toThrow(TypeError)
  })

  test("an fd is a number that can be one", () => {
    for (const fd of [-1, -100, 2 ** 31]) expect(() => files.fsync(fd)).toThrow(RangeError)
    expect(() => files.fsync(1n as unknown as number)).toThrow(TypeError)
  })

  test("a bigint fits 64 bits", () => {
    for (const offset of [1n << 63n, -(1n << 63n) - 1n, 1n << 64n])
      expect(() => files.lseek(file, offset, 0)).toThrow(RangeError)
    expect(files.ftruncate(file, 3n as unknown as number)).toBe(0)
  })

  test.each(Object.entries(STRUCTURES) as [keyof FileCalls, number][])(
    "%s needs a structure of %i bytes",
    (of, size) => {
      const args = CALLS[of]()
      const index = args.findLastIndex(value => isView(value) && value.length === size)
      for (const length of [0, 1, size - 1])
        expect(() => call(of, args.with(index, new Uint8Array(length)))).toThrow(RangeError)
      expect(call(of, args.with(index, new Uint8Array(size + 1)))).toBeLessThan(0)
      expect(call(of, args.with(index, new DataView(new ArrayBuffer(size))))).toBeLessThan(0)
    },
  )

  test("a name with a NUL is refused, and not taken for what is before it", () => {
    for (const bad of ["file\0", "\0", "file\0.txt", "\0file", `sub\0${"x".repeat(5000)}`]) {
      expect(() => files.unlinkat(dir, name(bad), 0)).toThrow(TypeError)
      expect(() => files.symlinkat(name(bad), dir, name("link"))).toThrow(TypeError)
      expect(() => files.symlinkat(name("x"), dir, name(bad))).toThrow(TypeError)
      expect(() => files.getxattr(name(path("file")), name(bad), new Uint8Array(8))).toThrow(TypeError)
    }
    expect(existsSync(path("file"))).toBe(true)
    expect(readdirSync(folder).sort()).toEqual(["file", "sub"])
  })

  test("a name of any length is the kernel's to refuse", () => {
    for (const length of [256, 4095, 4096, 4097, 100_000])
      expect(files.mkdirat(dir, Buffer.alloc(length, "x"), 0o700)).toBe(-ENAMETOOLONG)
    expect(files.mkdirat(dir, Buffer.alloc(255, "x"), 0o700)).toBe(0)
    expect(files.symlinkat(Buffer.alloc(4095, "x"), dir, name("longest"))).toBe(0)
    expect(files.symlinkat(Buffer.alloc(4096, "x"), dir, name("longer"))).toBe(-ENAMETOOLONG)
    expect(files.mkdirat(dir, new Uint8Array(0), 0o700)).toBe(-ENOENT)
  })

  test("a name may be part of a larger buffer", () => {
    const buffer = Buffer.from("xxfilexx")
    symlinkSync("x", path("link"))
    expect(files.unlinkat(dir, buffer.subarray(2, 6), 0)).toBe(0)
    expect(readdirSync(folder).sort()).toEqual(["link", "sub"])
  })
})
