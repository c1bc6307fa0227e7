import { execFileSync } from "node:child_process"
import {
  closeSync,
  existsSync,
  fstatSync,
  ftruncateSync,
  mkdtempSync,
  open,
  openSync,
  readSync,
  rmSync,
  writeSync,
} from "node:fs"
import { constants, tmpdir } from "node:os"
import { join } from "node:path"
import { afterEach, beforeEach, describe, expect, test } from "vitest"
import { countFds, countMaps } from "../test/support/process.js"
import * as native from "./index.js"

const { EAGAIN, EBADF, ECANCELED, EFAULT, EINVAL, EOPNOTSUPP } = constants.errno
const PAGE = 4096

let dir: string
let fd: number
let memory: native.Mapping
let batch: native.IoBatch

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "tsvmm-native-"))
  fd = openSync(join(dir, "disk"), "w+")
  memory = native.Mapping.create({ name: "io", size: 64 * PAGE, guard: true })
  batch = new native.IoBatch(16, 2048)
})
afterEach(() => {
  memory.close()
  closeSync(fd)
  rmSync(dir, { recursive: true })
})

const ram = (): Uint8Array => new Uint8Array(memory.buffer)

/** Runs all of `indexes` asynchronously and gives their results by row. */
function runAsync(
  regions: readonly ArrayBuffer[],
  indexes: readonly number[],
  options?: native.RunAsyncOptions,
): Promise<Map<number, number>> {
  return new Promise(resolve => {
    const results = new Map<number, number>()
    const note = (index: number, result: number): void => {
      expect(results.has(index)).toBe(false)
      results.set(index, result)
      if (results.size === indexes.length) resolve(results)
    }
    batch.runAsync(regions, indexes, note, options)
  })
}

describe("synchronous", () => {
  test("scatters and gathers over several regions", () => {
    const plain = new ArrayBuffer(PAGE)
    ram().set([1, 2, 3, 4], 100)
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
    expect([...ram().subarray(200, 205)]).toEqual([3, 4, 5, 6, 7])
    expect(fstatSync(fd).size).toBe(57)
  })

  test("B: a read past the end of the file reports exactly the bytes there were", () => {
    writeSync(fd, "abcdef")
    batch.setSegment(0, 0, 0, 4)
    batch.setSegment(1, 0, PAGE, 4)
    batch.setOp(0, native.IO_READ, fd, 1, 0, 2)
    batch.setOp(1, native.IO_READ, fd, 6, 0, 2)
    batch.setOp(2, native.IO_READ, fd, 2 ** 40, 0, 2)

    batch.runSync([memory.buffer], 3)

    expect([...batch.results.subarray(0, 3)]).toEqual([5, 0, 0])
    expect(Buffer.from(ram().subarray(0, 4)).toString()).toBe("bcde")
    expect(ram()[PAGE]).toBe(102)
    expect(ram()[PAGE + 1]).toBe(0)
  })

  test("punches, zeroes and flushes", () => {
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
    writeSync(fd, Buffer.alloc(PAGE, 1))
    const row = op.map((value, i) => (i === 1 && value === 0 ? fd : value))
    batch.ops.set(row)
    batch.segments.set(segment)
    batch.offsets[0] = offset

    batch.runSync([memory.buffer], 1)
    const results = await runAsync([memory.buffer], [0])

    expect(batch.results[0]).toBe(-errno)
    expect(results.get(0)).toBe(-errno)
    expect(ram().every(byte => byte === 0)).toBe(true)
  })

  test("messages go and come one by one, and rows after a failure can be left out", () => {
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
    const { buffer } = memory
    memory.close()
    batch.setSegment(0, 0, 0, 1)
    batch.setOp(0, native.IO_READ, fd, 0, 0, 1)

    batch.runSync([buffer], 1)

    expect(batch.results[0]).toBe(-EFAULT)
  })

  test("a getter in the list of regions cannot pull memory away", () => {
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

/** What waits for a device goes through an io_uring; where there is none, all of this runs on the thread pool twice. */
const hasRing = native.useIoRing(true)

describe.each([
  { engine: "thread pool", waits: false },
  { engine: hasRing ? "io_uring" : "thread pool, for want of an io_uring", waits: true },
])("asynchronous, $engine", ({ waits }) => {
  test("reads and writes, with the rows free at once", async () => {
    const count = 16
    for (let i = 0; i < count; i++) {
      ram().fill(i + 1, i * PAGE, (i + 1) * PAGE)
      batch.setSegment(i, 0, i * PAGE, PAGE)
      batch.setOp(i, native.IO_WRITE, fd, i * PAGE, i, 1)
    }
    const rows = Array.from({ length: count }, (_, i) => i)
    const writing = runAsync([memory.buffer], rows, { waits })
    batch.ops.fill(-1)
    batch.segments.fill(Number.NaN)
    expect([...(await writing).values()]).toEqual(Array(count).fill(PAGE))

    ram().fill(0)
    for (const i of rows) {
      batch.setSegment(i, 0, (count - 1 - i) * PAGE, PAGE)
      batch.setOp(i, native.IO_READ, fd, i * PAGE, i, 1)
    }
    await runAsync([memory.buffer], rows, { waits })

    for (const i of rows) expect(ram()[i * PAGE]).toBe(count - i)
    expect(batch.results.every(result => result === 0)).toBe(true)
  })

  test("works on plain memory as well, with the callback later", async () => {
    writeSync(fd, "plain memory")
    const plain = new ArrayBuffer(PAGE)
    batch.setSegment(0, 1, 8, 5)
    batch.setSegment(1, 0, 0, 7)
    batch.setOp(0, native.IO_READ, fd, 0, 0, 2)
    let called = false

    const running = runAsync([memory.buffer, plain], [0], { waits }).finally(() => {
      called = true
    })
    expect(called).toBe(false)
    expect((await running).get(0)).toBe(12)

    expect(Buffer.from(plain, 8, 5).toString()).toBe("plain")
    expect(Buffer.from(ram().subarray(0, 7)).toString()).toBe(" memory")
  })

  test("flushes, punches, and reports errors", async () => {
    writeSync(fd, Buffer.alloc(2 * PAGE, 1))
    batch.setSegment(0, -1, 0, PAGE)
    batch.setSegment(1, 0, 0, 1)
    batch.setOp(0, native.IO_PUNCH_HOLE, fd, 0, 0, 1)
    batch.setOp(1, native.IO_FDATASYNC, fd, 0, 0, 0)
    batch.setOp(2, native.IO_READ, 1_000_000, 0, 1, 1)

    const results = await runAsync([memory.buffer], [0, 1, 2], { waits })

    expect([results.get(0), results.get(1), results.get(2)]).toEqual([PAGE, 0, -EBADF])
  })

  test("a mapping and an fd closed meanwhile stay alive until the last callback", async () => {
    const fifo = join(dir, "fifo")
    execFileSync("mkfifo", [fifo])
    // Four readers without a writer keep the whole thread pool busy.
    const blocked = Array.from(
      { length: Number(process.env["UV_THREADPOOL_SIZE"] ?? 4) },
      () =>
        new Promise<number>((resolve, reject) =>
          open(fifo, "r", (error, got) => (error ? reject(error) : resolve(got))),
        ),
    )
    const before = countFds()
    writeSync(fd, Buffer.alloc(PAGE, 5))
    const own = native.duplicateFd(fd)
    const busy = native.Mapping.create({ name: "busy", size: PAGE })
    batch.setSegment(0, 0, 0, PAGE)
    batch.setOp(0, native.IO_READ, own, 0, 0, 1)
    batch.setOp(1, native.IO_WRITE, own, PAGE, 0, 1)

    const running = runAsync([busy.buffer], [0, 1], { waits })
    expect(busy.inFlight).toBe(1)
    busy.close()
    native.closeFd(own)
    expect(busy.buffer.byteLength).toBe(0)
    expect(countMaps("busy")).toBe(1)

    const writer = openSync(fifo, "w")
    for (const reader of await Promise.all(blocked)) closeSync(reader)
    closeSync(writer)
    expect([...(await running).values()]).toEqual([PAGE, PAGE])
    expect(countMaps("busy")).toBe(0)
    expect(countFds()).toBe(before)
  })

  test("a callback that throws is an uncaught exception and breaks nothing", async () => {
    batch.setSegment(0, 0, 0, 1)
    batch.setOp(0, native.IO_READ, fd, 0, 0, 1)
    const listeners = process.listeners("uncaughtException")
    process.removeAllListeners("uncaughtException")
    const caught = new Promise(resolve => process.once("uncaughtException", resolve))

    const fails = () => {
      throw new Error("from the callback")
    }
    batch.runAsync([memory.buffer], [0], fails, { waits })
    const error = await caught
    for (const listener of listeners) process.on("uncaughtException", listener)

    expect(error).toMatchObject({ message: "from the callback" })
    expect((await runAsync([memory.buffer], [0], { waits })).get(0)).toBe(0)
  })

  test("a read ends where its file does, and goes on where the kernel stopped", async () => {
    writeSync(fd, Buffer.alloc(3 * PAGE + 10, 9))
    batch.setSegment(0, 0, 0, 2 * PAGE)
    batch.setSegment(1, 0, 4 * PAGE, 8 * PAGE)
    batch.setOp(0, native.IO_READ, fd, PAGE, 0, 2)
    batch.setOp(1, native.IO_READ, fd, 2 ** 40, 0, 1)
    batch.setOp(2, native.IO_READ, fd, 0, 0, 0)
    expect([...(await runAsync([memory.buffer], [0, 1, 2], { waits })).entries()].sort()).toEqual([
      [0, 2 * PAGE + 10],
      [1, 0],
      [2, 0],
    ])
    expect(ram().lastIndexOf(9)).toBe(4 * PAGE + 9)
  })

  test("more at once than a ring has room for, again from a callback", async () => {
    const before = countFds()
    writeSync(fd, Buffer.alloc(16 * PAGE, 3))
    const rows = Array.from({ length: 16 }, (_, i) => i)
    for (const i of rows) {
      batch.setSegment(i, 0, i * PAGE, PAGE)
      batch.setOp(i, native.IO_READ, fd, i * PAGE, i, 1)
    }
    let ended = 0
    await new Promise<void>(resolve => {
      let started = 0
      const start = (): void => {
        started += 16
        batch.runAsync([memory.buffer], rows, note, { waits })
      }
      const note = (_: number, result: number): void => {
        expect(result).toBe(PAGE)
        if (++ended === 800) resolve()
        else if (started < 800) start()
      }
      for (let i = 0; i < 25; i++) start()
    })
    expect(ended).toBe(800)
    expect(memory.inFlight).toBe(0)
    expect(countFds()).toBe(before)
  })

  test("wrong arguments start nothing and leak nothing", () => {
    const before = countFds()
    batch.setOp(0, native.IO_FDATASYNC, fd, 0, 0, 0)
    const never = (): void => expect.unreachable()

    expect(() => batch.runAsync([], [0, 16], never)).toThrow(RangeError)
    expect(() => batch.runAsync([], [0, -1], never)).toThrow(RangeError)
    expect(() => batch.runAsync([], Array<number>(17).fill(0), never)).toThrow(RangeError)
    expect(() => batch.runAsync([], [0, "1" as unknown as number], never)).toThrow(TypeError)
    expect(() => batch.runAsync([memory.buffer, ram() as unknown as ArrayBuffer], [0], never)).toThrow(
      TypeError,
    )
    expect(() => batch.runAsync([], [0], undefined as unknown as typeof never)).toThrow(TypeError)
    expect(memory.inFlight).toBe(0)
    expect(countFds()).toBe(before)
  })
})

test("capacities are checked, and so is the count", () => {
  for (const bad of [0, -1, 1.5, 65_537, Number.NaN])
    expect(() => new native.IoBatch(bad, 1)).toThrow(RangeError)
  expect(() => new native.IoBatch(1, 2_000_000)).toThrow(RangeError)
  expect(() => new native.IoBatch("1" as unknown as number, 1)).toThrow(TypeError)
  expect(() => batch.runSync([], 17)).toThrow(RangeError)
  expect(() => batch.runSync(Array<ArrayBuffer>(1025).fill(memory.buffer), 1)).toThrow(RangeError)
  expect(existsSync(join(dir, "disk"))).toBe(true)
})
