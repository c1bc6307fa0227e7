import {
  closeSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readSync,
  rmdirSync,
  rmSync,
  unlinkSync,
  writeFileSync,
  writeSync,
} from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterEach, beforeEach, describe, expect, test } from "vitest"
import { countFds } from "../test/support/process.js"
import * as native from "./index.js"

let dir: string
let fds: number[]

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "tsvmm-native-"))
  fds = []
})
afterEach(() => {
  for (const fd of fds) closeSync(fd)
  rmSync(dir, { recursive: true })
})

/** Closed after the test. */
function own(fd: number): number {
  fds.push(fd)
  return fd
}

function ownPipe(): [number, number] {
  const [reader, writer] = native.pipe()
  return [own(reader), own(writer)]
}

describe("signal and drain", () => {
  test("an eventfd collects signals and gives them up at once", () => {
    const fd = own(native.eventFd(3))

    expect(native.signal(fd)).toBe(true)
    expect(native.signal(fd, "eventfd")).toBe(true)
    const value = Buffer.alloc(8)
    readSync(fd, value)

    expect(value.readBigUInt64LE()).toBe(5n)
    expect(native.drain(fd)).toBe(0)
  })

  test.each([undefined, "eventfd"] as const)(
    "a full blocking eventfd refuses the signal (origin %s)",
    origin => {
      const fd = own(native.eventFd())
      writeSync(fd, Buffer.from("feffffffffffffff", "hex"))
      native.setNonBlocking(fd, false)

      expect(native.signal(fd, origin)).toBe(false)
      expect(native.drain(fd)).toBe(8)
      expect(native.signal(fd)).toBe(true)
    },
  )

  test("a full blocking pipe refuses the signal and keeps its flags", () => {
    const [reader, writer] = ownPipe()
    while (native.signal(writer));
    native.setNonBlocking(writer, false)

    expect(native.signal(writer)).toBe(false)
    expect(native.fdStat(writer).nonBlocking).toBe(false)
    expect(native.drain(reader)).toBe(65536)
  })

  test("draining a blocking pipe or eventfd that is empty gives 0", () => {
    const [reader] = ownPipe()
    const event = own(native.eventFd())
    native.setNonBlocking(reader, false)
    native.setNonBlocking(event, false)

    expect(native.drain(reader)).toBe(0)
    expect(native.drain(event)).toBe(0)
  })

  test("draining tells the end of a pipe after its bytes", () => {
    const [reader, writer] = native.pipe()
    own(reader)
    native.signal(writer)
    native.closeFd(writer)

    expect(native.drain(reader)).toBe(8)
    expect(native.drain(reader)).toBe(-1)
  })

  test("signals go through sockets too", () => {
    const [a, b] = native.socketPair()
    own(a)
    own(b)
    native.setNonBlocking(a, false)

    while (native.signal(a));
    expect(native.drain(b)).toBeGreaterThan(8)
  })

  test("a signal to a pipe without a reader is EPIPE", () => {
    const [reader, writer] = native.pipe()
    own(writer)
    native.closeFd(reader)

    expect(() => native.signal(writer)).toThrow(expect.objectContaining({ code: "EPIPE", syscall: "write" }))
  })
})

describe("facts about fds", () => {
  test("fdStat names every kind", () => {
    const file = own(openSync(join(dir, "file"), "w+"))
    writeSync(file, "12345")
    const [reader, writer] = ownPipe()
    const [a, b] = native.socketPair()
    own(a)
    own(b)

    expect(native.fdStat(file)).toMatchObject({ kind: "file", size: 5, readable: true, writable: true })
    expect(native.fdStat(own(openSync(dir, "r"))).kind).toBe("directory")
    expect(native.fdStat(own(openSync("/dev/null", "r"))).kind).toBe("character")
    expect(native.fdStat(reader)).toMatchObject({
      kind: "fifo",
      readable: true,
      writable: false,
      nonBlocking: true,
    })
    expect(native.fdStat(writer)).toMatchObject({ kind: "fifo", readable: false, writable: true })
    expect(native.fdStat(a).kind).toBe("socket")
    expect(native.fdStat(own(native.eventFd())).kind).toBe("eventfd")
    expect(() => native.fdStat(1_000_000)).toThrow(expect.objectContaining({ code: "EBADF" }))
  })

  test("fdStat tells one file by device and inode, and seals of memory", () => {
    const file = own(openSync(join(dir, "file"), "w"))
    const copy = own(native.duplicateFd(file))
    using memory = native.Mapping.create({ name: "seals", size: 4096 })

    expect(native.fdStat(copy)).toEqual(native.fdStat(file))
    expect(native.fdStat(file).ino).toBeTypeOf("bigint")
    // F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW
    expect((native.fdStat(memory.fd).seals ?? 0) & 7).toBe(7)
  })

  test("fdOrigin tells what cannot make a call wait", () => {
    using memory = native.Mapping.create({ name: "origin", size: 4096 })
    const [reader] = ownPipe()
    const [a, b] = native.socketPair()
    own(a)
    own(b)

    expect(native.fdOrigin(memory.fd)).toBe("memory")
    expect(native.fdOrigin(reader)).toBe("pipe")
    expect(native.fdOrigin(a)).toBe("socket")
    expect(native.fdOrigin(own(native.eventFd()))).toBe("eventfd")
    expect(native.fdOrigin(own(openSync("/dev/null", "r")))).toBe("other")
    expect(() => native.fdOrigin(1_000_000)).toThrow(expect.objectContaining({ code: "EBADF" }))
  })
})

test("H3: a file whose path is longer than the kernel tells is other, and an ordinary file", () => {
  const folders = [own(openSync(dir, "r"))]
  const name = "d".repeat(250)
  const below = () => `/proc/self/fd/${folders.at(-1)}`
  for (let i = 0; i < 20; i++) {
    mkdirSync(`${below()}/${name}`)
    folders.push(own(openSync(`${below()}/${name}`, "r")))
  }
  const deep = own(openSync(`${below()}/file`, "w+"))
  unlinkSync(`${below()}/file`)
  // A path of this length cannot be removed from above.
  while (folders.length > 1) {
    folders.pop()
    rmdirSync(`${below()}/${name}`)
  }

  expect(["other", "memory"]).toContain(native.fdOrigin(deep))
  expect(native.fdStat(deep).kind).toBe("file")
})

test("closing a closed fd is EBADF", () => {
  const fd = native.eventFd()
  native.closeFd(fd)

  expect(() => native.closeFd(fd)).toThrow(native.SysError)
})

test("no call leaves an fd behind", () => {
  const before = countFds()

  const [reader, writer] = native.pipe()
  const copy = native.duplicateFd(reader)
  for (const fd of [reader, writer, copy]) native.closeFd(fd)

  expect(countFds()).toBe(before)
})

describe("ioctl", () => {
  const FIONREAD = 0x541b
  /** _IOR('T', 0x30, unsigned int) of asm-generic/ioctls.h. */
  const TIOCGPTN = 0x80045430
  /** _IO-style terminal request; fails with ENOTTY on a pipe. */
  const TCSBRK = 0x5409

  test("fills a view, also for a request that does not say its size", () => {
    const [reader, writer] = ownPipe()
    writeSync(writer, "hello")
    const count = new Int32Array(1)

    expect(native.ioctl(reader, FIONREAD, count)).toBe(0)
    expect(count[0]).toBe(5)
  })

  test("a request that declares its size fills the view, or a larger one", () => {
    const terminal = own(openSync("/dev/ptmx", "r+"))
    const view = new Uint32Array([7, 0xdeadbeef])

    native.ioctl(terminal, TIOCGPTN, view)

    expect(view[0]).toBeTypeOf("number")
    expect(view[1]).toBe(0xdeadbeef)
  })

  test("refuses a view that is smaller than the request says", () => {
    const fd = own(native.eventFd())

    expect(() => native.ioctl(fd, TIOCGPTN, new Uint8Array(3))).toThrow(RangeError)
    expect(() => native.ioctl(fd, FIONREAD, new Uint8Array(4097))).toThrow(RangeError)
  })

  test("refuses an integer that the kernel would take for an address", () => {
    const fd = own(native.eventFd())

    expect(() => native.ioctl(fd, TIOCGPTN, 0x7fff_0000)).toThrow(TypeError)
    expect(() => native.ioctl(fd, TIOCGPTN, 2n ** 40n)).toThrow(TypeError)
    expect(() => native.ioctl(fd, TCSBRK, 2n ** 64n)).toThrow(RangeError)
    expect(() => native.ioctl(fd, TCSBRK, -1n)).toThrow(RangeError)
  })

  test("reports the kernel's answer", () => {
    const [reader] = ownPipe()

    expect(() => native.ioctl(reader, TCSBRK)).toThrow(
      expect.objectContaining({ code: "ENOTTY", syscall: "ioctl" }),
    )
  })
})

test("pollReadable sees what is there and gives up otherwise", () => {
  const fd = own(native.eventFd())

  expect(native.pollReadable(fd, 50)).toBe(false)
  native.signal(fd)
  expect(native.pollReadable(fd, 0)).toBe(true)
  expect(() => native.pollReadable(fd, 51)).toThrow(RangeError)
  expect(() => native.pollReadable(1_000_000, 0)).toThrow(expect.objectContaining({ code: "EBADF" }))
})

describe("lockFile", () => {
  test("B9: a file locked exclusively cannot be locked again, until its last fd is closed", () => {
    const path = join(dir, "image")
    writeFileSync(path, "")
    const first = openSync(path, "r+")
    const copy = native.duplicateFd(first)
    const second = own(openSync(path, "r+"))

    expect(native.lockFile(first, "exclusive")).toBe(true)
    closeSync(first)
    expect(native.lockFile(second, "exclusive")).toBe(false)
    expect(native.lockFile(second, "shared")).toBe(false)
    closeSync(copy)
    expect(native.lockFile(second, "exclusive")).toBe(true)
  })

  test("shared locks live side by side, and can be given back", () => {
    const path = join(dir, "image")
    writeFileSync(path, "")
    const first = own(openSync(path, "r"))
    const second = own(openSync(path, "r+"))

    expect(native.lockFile(first, "shared")).toBe(true)
    expect(native.lockFile(second, "shared")).toBe(true)
    expect(native.lockFile(second, "exclusive")).toBe(false)
    expect(native.lockFile(first, "unlock")).toBe(true)
    expect(native.lockFile(second, "exclusive")).toBe(true)
    expect(() => native.lockFile(first, "exclusive")).toThrow(expect.objectContaining({ code: "EBADF" }))
  })
})
