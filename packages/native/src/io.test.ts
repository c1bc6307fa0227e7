import { execFileSync } from "node:child_process"
import { closeSync, existsSync, fstatSync, ftruncateSync, openSync, readSync, writeSync } from "node:fs"
import { constants } from "node:os"
import { join } from "node:path"
import { afterEach, beforeEach, describe, expect, test } from "vitest"
import { PAGE, TestDisk } from "../test/support/disk.js"
import * as native from "./index.js"

const { EAGAIN, EBADF, ECANCELED, EFAULT, EINVAL, EOPNOTSUPP } = constants.errno

let disk: TestDisk
beforeEach(() => {
  disk = new TestDisk()
})
afterEach(() => disk[Symbol.dispose]())

describe("synchronous", () => {
  test("scatters and gathers over several regions", () => {
    const { fd, memory, batch } = disk
    const plain = new ArrayBuffer(PAGE)
    disk.ram().set([1, 2, 3, 4], 100)
    new Uint8Array(plain).set([5, 6, 7], 10)
    batch.setSegment(0, 0, 100, 4)
    batch.setSegment(1, 1, 10, 3)
    batch.setSegment(2, 1, 0, 2)
    batch.setSegment(3, 0, 200, 5)
    batch.setOp(0, native.IO_WRITE, fd, 50, 0, 2)
    batch.setOp(1, native.IO_READ, fd, 50, 2, 2)

    batch.runSync([memory.buffer, plain], 2)

    expect([...batch.results.subarray(0, 2)]).toEqual([7, 7])
    expect([...new Uint8Array(plain, 0, 2)]).toEqual([1, 2])
    expect([...disk.ram().subarray(200, 205)]).toEqual([3, 4, 5, 6, 7])
    expect(fstatSync(fd).size).toBe(57)
  })

  test("B: a read past the end of the file reports exactly the bytes there were", () => {
    const { fd, memory, batch } = disk
    writeSync(fd, "abcdef")
    batch.setSegment(0, 0, 0, 4)
    batch.setSegment(1, 0, PAGE, 4)
    batch.setOp(0, native.IO_READ, fd, 1, 0, 2)
    batch.setOp(1, native.IO_READ, fd, 6, 0, 2)
    batch.setOp(2, native.IO_READ, fd, 2 ** 40, 0, 2)

    batch.runSync([memory.buffer], 3)

    expect([...batch.results.subarray(0, 3)]).toEqual([5, 0, 0])
    expect(Buffer.from(disk.ram().subarray(0, 4)).toString()).toBe("bcde")
    expect(disk.ram()[PAGE]).toBe(102)
    expect(disk.ram()[PAGE + 1]).toBe(0)
  })

  test("punches, zeroes and flushes", () => {
    const { fd, batch } = disk
    writeSync(fd, Buffer.alloc(4 * PAGE, 1))
    batch.setSegment(0, -1, 0, PAGE)
    batch.setOp(0, native.IO_PUNCH_HOLE, fd, PAGE, 0, 1)
    batch.setOp(1, native.IO_ZERO_RANGE, fd, 3 * PAGE, 0, 1)
    batch.setOp(2, native.IO_FDATASYNC, fd, 0, 0, 0)

    batch.runSync([], 3)

    const all = Buffer.alloc(4 * PAGE)
    readSync(fd, all, 0, all.length, 0)
    // Every file system of Debian's punches; some (tmpfs) say so for zeroing instead.
    expect([...batch.results.subarray(0, 3)]).toEqual([PAGE, expect.toBeOneOf([PAGE, -EOPNOTSUPP]), 0])
    expect(all.subarray(PAGE, 2 * PAGE).every(byte => byte === 0)).toBe(true)
    expect(all[2 * PAGE]).toBe(1)
    expect(fstatSync(fd).size).toBe(4 * PAGE)
  })

  test("nowait reads what the page cache has and never flushes", () => {
    const { fd, memory, batch } = disk
    writeSync(fd, Buffer.alloc(PAGE, 7))
    batch.setSegment(0, 0, 0, PAGE)
    batch.setOp(0, native.IO_READ, fd, 0, 0, 1)
    batch.setOp(1, native.IO_FDATASYNC, fd, 0, 0, 0)

    batch.runSync([memory.buffer], 2, { nowait: true })
    // A file system without RWF_NOWAIT says so.
    expect([PAGE, -EOPNOTSUPP]).toContain(batch.results[0])
    expect(batch.results[1]).toBe(-EAGAIN)

    batch.runSync([memory.buffer], 2, { nowait: "reads" })
    expect(batch.results[1]).toBe(0)
  })

  test("nowait gives EAGAIN for what is not in the page cache", context => {
    const { fd, dir, memory, batch } = disk
    writeSync(fd, Buffer.alloc(16 * PAGE, 7))
    // GNU dd's way to drop a file from the page cache.
    execFileSync("dd", [`of=${join(dir, "disk")}`, "oflag=nocache", "conv=notrunc,fdatasync", "count=0"], {
      stdio: "ignore",
    })
    batch.setSegment(0, 0, 0, 16 * PAGE)
    batch.setOp(0, native.IO_READ, fd, 0, 0, 1)

    batch.runSync([memory.buffer], 1, { nowait: true })
    const first = batch.results[0]
    context.skip(first === -EOPNOTSUPP, "the file system of the temporary folder has no RWF_NOWAIT")
    context.skip(first === 16 * PAGE, "this file system keeps the page cache")

    expect(first).toBe(-EAGAIN)
    batch.runSync([memory.buffer], 1)
    expect(batch.results[0]).toBe(16 * PAGE)
  })

  test("failures are results, row by row, and the others go on", () => {
    const { fd, dir, memory, batch } = disk
    const readOnly = openSync(join(dir, "disk"), "r")
    batch.setSegment(0, 0, 0, 512)
    batch.setOp(0, native.IO_READ, 1_000_000, 0, 0, 1)
    batch.setOp(1, native.IO_WRITE, readOnly, 0, 0, 1)
    batch.setOp(2, native.IO_WRITE, fd, 0, 0, 1)

    batch.runSync([memory.buffer], 3)

    expect([...batch.results.subarray(0, 3)]).toEqual([-EBADF, -EBADF, 512])
    closeSync(readOnly)
  })

  test.each([
    ["opcode", [7, 0, 0, 1], [0, 0, 1], 0, EINVAL],
    ["negative opcode", [-1, 0, 0, 1], [0, 0, 1], 0, EINVAL],
    ["fd", [0, -1, 0, 1], [0, 0, 1], 0, EINVAL],
    ["first segment", [0, 0, -1, 1], [0, 0, 1], 0, EINVAL],
    ["segment count", [0, 0, 0, -1], [0, 0, 1], 0, EINVAL],
    ["segments past the end", [0, 0, 2047, 2], [0, 0, 1], 0, EINVAL],
    ["segments that overflow", [0, 0, 2147483647, 2147483647], [0, 0, 1], 0, EINVAL],
    ["more than 1024 segments", [0, 0, 0, 1025], [0, 0, 1], 0, EINVAL],
    ["file offset", [0, 0, 0, 1], [0, 0, 1], -1, EINVAL],
    ["fractional file offset", [0, 0, 0, 1], [0, 0, 1], 0.5, EINVAL],
    ["infinite file offset", [0, 0, 0, 1], [0, 0, 1], Number.POSITIVE_INFINITY, EINVAL],
    ["NaN region", [0, 0, 0, 1], [Number.NaN, 0, 1], 0, EINVAL],
    ["negative region", [0, 0, 0, 1], [-1, 0, 1], 0, EINVAL],
    ["region that is not there", [0, 0, 0, 1], [1, 0, 1], 0, EFAULT],
    ["length past the region", [0, 0, 0, 1], [0, 64 * PAGE - 1, 2], 0, EFAULT],
    ["offset past the region", [0, 0, 0, 1], [0, 64 * PAGE + 1, 0], 0, EFAULT],
    ["offset + length that overflows", [0, 0, 0, 1], [0, 2 ** 53 - 1, 2 ** 53 - 1], 0, EFAULT],
    ["length beyond 2^53", [0, 0, 0, 1], [0, 0, 2 ** 60], 0, EINVAL],
    ["negative length", [0, 0, 0, 1], [0, 0, -1], 0, EINVAL],
    ["punch without a segment", [3, 0, 0, 0], [0, 0, 1], 0, EINVAL],
    ["punch with a bad length", [3, 0, 0, 1], [0, 0, -4096], 0, EINVAL],
  ] as const)("Q: a row with a bad %s is refused whole", async (_name, op, segment, offset, errno) => {
    const { fd, memory, batch } = disk
    writeSync(fd, Buffer.alloc(PAGE, 1))
    const row = op.map((value, i) => (i === 1 && value === 0 ? fd : value))
    batch.ops.set(row)
    batch.segments.set(segment)
    batch.offsets[0] = offset

    batch.runSync([memory.buffer], 1)
    const results = await disk.runAsync([memory.buffer], [0])

    expect(batch.results[0]).toBe(-errno)
    expect(results.get(0)).toBe(-errno)
    expect(disk.ram().every(byte => byte === 0)).toBe(true)
  })

  test("messages go and come one by one, and rows after a failure can be left out", () => {
    const { memory, batch } = disk
    const [readEnd, writeEnd] = native.pipe()
    const [sent, received] = [3, 100]
    for (let i = 0; i < sent; i++) batch.setSegment(i, 0, i, 1)
    batch.setSegment(sent, 0, PAGE, received)
    batch.setOp(0, native.IO_SEND, writeEnd, 0, 0, sent)
    for (let row = 1; row < 4; row++) batch.setOp(row, native.IO_RECEIVE, readEnd, 0, sent, 1)
    batch.runSync([memory.buffer], 4, { stopAtFailure: true })
    // What was asked for is not waited for, nor asked for again.
    expect([...batch.results.subarray(0, 4)]).toEqual([sent, sent, -EAGAIN, -ECANCELED])
    for (const end of [readEnd, writeEnd]) native.closeFd(end)
  })

  test("a closed mapping is a region without bytes", () => {
    const { fd, memory, batch } = disk
    const { buffer } = memory
    memory.close()
    batch.setSegment(0, 0, 0, 1)
    batch.setOp(0, native.IO_READ, fd, 0, 0, 1)

    batch.runSync([buffer], 1)

    expect(batch.results[0]).toBe(-EFAULT)
  })

  test("a getter in the list of regions cannot pull memory away", () => {
    const { fd, memory, batch } = disk
    const other = native.Mapping.create({ name: "pulled", size: PAGE })
    writeSync(fd, Buffer.alloc(PAGE, 1))
    batch.setSegment(0, 0, 0, PAGE)
    batch.setOp(0, native.IO_READ, fd, 0, 0, 1)
    const regions = [other.buffer, memory.buffer]
    Object.defineProperty(regions, 1, {
      get: () => {
        other.close()
        return memory.buffer
      },
    })

    batch.runSync(regions, 1)

    expect(batch.results[0]).toBe(-EFAULT)
  })

  test("a faulting region is EFAULT, not a signal", () => {
    const { fd, dir, batch } = disk
    const shrinking = openSync(join(dir, "shrinks"), "w+")
    ftruncateSync(shrinking, 4 * PAGE)
    using victim = native.Mapping.map({ fd: shrinking, offset: 0, size: 4 * PAGE })
    ftruncateSync(shrinking, 0)
    batch.setSegment(0, 0, PAGE, PAGE)
    batch.setOp(0, native.IO_WRITE, fd, 0, 0, 1)

    batch.runSync([victim.buffer], 1)

    expect(batch.results[0]).toBe(-EFAULT)
    closeSync(shrinking)
  })
})

test("capacities are checked, and so is the count", () => {
  const { dir, memory, batch } = disk
  for (const bad of [0, -1, 1.5, 65_537, Number.NaN])
    expect(() => new native.IoBatch(bad, 1)).toThrow(RangeError)
  expect(() => new native.IoBatch(1, 2_000_000)).toThrow(RangeError)
  expect(() => new native.IoBatch("1" as unknown as number, 1)).toThrow(TypeError)
  expect(() => batch.runSync([], 17)).toThrow(RangeError)
  expect(() => batch.runSync(Array<ArrayBuffer>(1025).fill(memory.buffer), 1)).toThrow(RangeError)
  expect(existsSync(join(dir, "disk"))).toBe(true)
})
