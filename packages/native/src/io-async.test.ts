import { execFileSync } from "node:child_process"
import { closeSync, open, openSync, writeSync } from "node:fs"
import { constants } from "node:os"
import { join } from "node:path"
import { afterEach, beforeEach, describe, expect, test } from "vitest"
import { PAGE, TestDisk } from "../test/support/disk.js"
import { countFds, countMaps } from "../test/support/process.js"
import * as native from "./index.js"

const { EBADF } = constants.errno

let disk: TestDisk
beforeEach(() => {
  disk = new TestDisk()
})
afterEach(() => disk[Symbol.dispose]())

/** What waits for a device goes through an io_uring; where there is none, all of this runs on the thread pool twice. */
const hasRing = native.useIoRing(true)

describe.each([
  { engine: "thread pool", waits: false },
  { engine: hasRing ? "io_uring" : "thread pool, for want of an io_uring", waits: true },
])("asynchronous, $engine", ({ waits }) => {
  test("reads and writes, with the rows free at once", async () => {
    const { fd, memory, batch } = disk
    const count = 16
    for (let i = 0; i < count; i++) {
      disk.ram().fill(i + 1, i * PAGE, (i + 1) * PAGE)
      batch.setSegment(i, 0, i * PAGE, PAGE)
      batch.setOp(i, native.IO_WRITE, fd, i * PAGE, i, 1)
    }
    const rows = Array.from({ length: count }, (_, i) => i)
    const writing = disk.runAsync([memory.buffer], rows, { waits })
    batch.ops.fill(-1)
    batch.segments.fill(Number.NaN)
    expect([...(await writing).values()]).toEqual(Array(count).fill(PAGE))

    disk.ram().fill(0)
    for (const i of rows) {
      batch.setSegment(i, 0, (count - 1 - i) * PAGE, PAGE)
      batch.setOp(i, native.IO_READ, fd, i * PAGE, i, 1)
    }
    await disk.runAsync([memory.buffer], rows, { waits })

    for (const i of rows) expect(disk.ram()[i * PAGE]).toBe(count - i)
    expect(batch.results.every(result => result === 0)).toBe(true)
  })

  test("works on plain memory as well, with the callback later", async () => {
    const { fd, memory, batch } = disk
    writeSync(fd, "plain memory")
    const plain = new ArrayBuffer(PAGE)
    batch.setSegment(0, 1, 8, 5)
    batch.setSegment(1, 0, 0, 7)
    batch.setOp(0, native.IO_READ, fd, 0, 0, 2)
    let called = false

    const running = disk.runAsync([memory.buffer, plain], [0], { waits }).finally(() => {
      called = true
    })
    expect(called).toBe(false)
    expect((await running).get(0)).toBe(12)

    expect(Buffer.from(plain, 8, 5).toString()).toBe("plain")
    expect(Buffer.from(disk.ram().subarray(0, 7)).toString()).toBe(" memory")
  })

  test("flushes, punches, and reports errors", async () => {
    const { fd, memory, batch } = disk
    writeSync(fd, Buffer.alloc(2 * PAGE, 1))
    batch.setSegment(0, -1, 0, PAGE)
    batch.setSegment(1, 0, 0, 1)
    batch.setOp(0, native.IO_PUNCH_HOLE, fd, 0, 0, 1)
    batch.setOp(1, native.IO_FDATASYNC, fd, 0, 0, 0)
    batch.setOp(2, native.IO_READ, 1_000_000, 0, 1, 1)

    const results = await disk.runAsync([memory.buffer], [0, 1, 2], { waits })

    expect([results.get(0), results.get(1), results.get(2)]).toEqual([PAGE, 0, -EBADF])
  })

  test("a mapping and an fd closed meanwhile stay alive until the last callback", async () => {
    const { fd, dir, batch } = disk
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

    const running = disk.runAsync([busy.buffer], [0, 1], { waits })
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
    const { fd, memory, batch } = disk
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
    expect((await disk.runAsync([memory.buffer], [0], { waits })).get(0)).toBe(0)
  })

  test("a read ends where its file does, and goes on where the kernel stopped", async () => {
    const { fd, memory, batch } = disk
    writeSync(fd, Buffer.alloc(3 * PAGE + 10, 9))
    batch.setSegment(0, 0, 0, 2 * PAGE)
    batch.setSegment(1, 0, 4 * PAGE, 8 * PAGE)
    batch.setOp(0, native.IO_READ, fd, PAGE, 0, 2)
    batch.setOp(1, native.IO_READ, fd, 2 ** 40, 0, 1)
    batch.setOp(2, native.IO_READ, fd, 0, 0, 0)
    expect([...(await disk.runAsync([memory.buffer], [0, 1, 2], { waits })).entries()].sort()).toEqual([
      [0, 2 * PAGE + 10],
      [1, 0],
      [2, 0],
    ])
    expect(disk.ram().lastIndexOf(9)).toBe(4 * PAGE + 9)
  })

  test("more at once than a ring has room for, again from a callback", async () => {
    const { fd, memory, batch } = disk
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
    const { fd, memory, batch } = disk
    const before = countFds()
    batch.setOp(0, native.IO_FDATASYNC, fd, 0, 0, 0)
    const never = (): void => expect.unreachable()

    expect(() => batch.runAsync([], [0, 16], never)).toThrow(RangeError)
    expect(() => batch.runAsync([], [0, -1], never)).toThrow(RangeError)
    expect(() => batch.runAsync([], Array<number>(17).fill(0), never)).toThrow(RangeError)
    expect(() => batch.runAsync([], [0, "1" as unknown as number], never)).toThrow(TypeError)
    expect(() => batch.runAsync([memory.buffer, disk.ram() as unknown as ArrayBuffer], [0], never)).toThrow(
      TypeError,
    )
    expect(() => batch.runAsync([], [0], undefined as unknown as typeof never)).toThrow(TypeError)
    expect(memory.inFlight).toBe(0)
    expect(countFds()).toBe(before)
  })
})
