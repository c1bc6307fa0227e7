import { closeSync, mkdtempSync, openSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { expect, test, vi } from "vitest"
import { collectGarbage, countFds } from "../test/support/process.js"
import * as native from "./index.js"

/** A second, the default, can pass between two turns of the event loop where the machine has much else to do. */
const SOON = { timeout: 10_000 }

/** A turn of the event loop in which libuv polls. */
async function turn(count = 3): Promise<void> {
  for (let i = 0; i < count; i++) await new Promise(resolve => setTimeout(resolve, 1))
}

test("calls back while the fd is readable, until it is drained", async () => {
  const fd = native.eventFd()
  const seen: number[] = []
  using poller = new native.Poller(fd, "readable", events => {
    seen.push(events)
    if (seen.length === 3) native.drain(fd)
  })

  native.signal(fd)
  await vi.waitFor(() => expect(seen).toHaveLength(3), SOON)
  await turn()

  expect(seen).toEqual([native.POLL_READABLE, native.POLL_READABLE, native.POLL_READABLE])
  expect(poller.closed).toBe(false)
  native.closeFd(fd)
})

test("waits for writability, or both", async () => {
  const [a, b] = native.socketPair()
  const seen = new Set<number>()
  using poller = new native.Poller(a, "both", events => seen.add(events))

  await vi.waitFor(() => expect(seen).toContain(native.POLL_WRITABLE), SOON)
  native.signal(b)
  await vi.waitFor(() => expect(seen).toContain(native.POLL_WRITABLE | native.POLL_READABLE), SOON)

  poller.setInterest("none")
  seen.clear()
  await turn()
  expect(seen.size).toBe(0)
  native.closeFd(a)
  native.closeFd(b)
})

test("the end of a pipe is readable, and a pipe without a reader is an error that stops the poller", async () => {
  const [reader, writer] = native.pipe()
  let broken = 0
  const ends: number[] = []
  using atReader = new native.Poller(reader, "readable", () => {
    ends.push(native.drain(reader))
    atReader.close()
  })
  native.closeFd(writer)
  await vi.waitFor(() => expect(ends).toEqual([-1]), SOON)

  const [reader2, writer2] = native.pipe()
  using atWriter = new native.Poller(writer2, "writable", events => {
    if (events === native.POLL_ERROR) broken++
  })
  native.closeFd(reader2)
  await vi.waitFor(() => expect(broken).toBe(1), SOON)
  await turn()
  expect(broken).toBe(1)
  expect(atWriter.closed).toBe(false)
  native.closeFd(reader)
  native.closeFd(writer2)
})

test("the original fd may be closed and its number used again", async () => {
  const fd = native.eventFd()
  const copy = native.duplicateFd(fd)
  let calls = 0
  using _poller = new native.Poller(fd, "readable", () => {
    calls++
    native.drain(copy)
  })

  native.closeFd(fd)
  const other = native.eventFd(1)
  expect(other).toBe(fd)
  await turn()
  expect(calls).toBe(0)

  native.signal(copy)
  await vi.waitFor(() => expect(calls).toBe(1), SOON)
  native.closeFd(copy)
  native.closeFd(other)
})

test("close is allowed inside the callback, and twice, and gives the fd back", async () => {
  await turn()
  const before = countFds()
  const fd = native.eventFd(1)
  let calls = 0
  const poller = new native.Poller(fd, "readable", () => {
    calls++
    poller.close()
    poller.close()
    poller.setInterest("both")
    poller.ref().unref()
  })

  await vi.waitFor(() => expect(calls).toBe(1), SOON)
  await turn()

  expect(calls).toBe(1)
  expect(poller.closed).toBe(true)
  native.closeFd(fd)
  expect(countFds()).toBe(before)
})

test("no callback runs after close, even if the fd was ready", async () => {
  const fd = native.eventFd(1)
  let calls = 0

  new native.Poller(fd, "readable", () => calls++).close()
  await turn()

  expect(calls).toBe(0)
  native.closeFd(fd)
})

test("an open poller survives the garbage collector although nobody holds it", async () => {
  const fd = native.eventFd()
  let calls = 0
  ;(() => {
    const poller = new native.Poller(fd, "readable", () => {
      calls++
      native.drain(fd)
      if (calls === 2) poller.close()
    })
    poller.unref()
  })()

  await collectGarbage()
  native.signal(fd)
  await vi.waitFor(() => expect(calls).toBe(1), SOON)
  await collectGarbage()
  native.signal(fd)
  await vi.waitFor(() => expect(calls).toBe(2), SOON)
  native.closeFd(fd)
})

test("promise jobs of a callback run before the next event", async () => {
  const fd = native.eventFd(1)
  const order: string[] = []
  using _poller = new native.Poller(fd, "readable", () => {
    native.drain(fd)
    order.push("callback")
    void Promise.resolve().then(() => order.push("job"))
    setImmediate(() => order.push("immediate"))
  })

  await vi.waitFor(() => expect(order).toHaveLength(3), SOON)

  expect(order).toEqual(["callback", "job", "immediate"])
  native.closeFd(fd)
})

test("what a callback throws is an uncaught exception, and the poller goes on", async () => {
  const fd = native.eventFd(1)
  const listeners = process.listeners("uncaughtException")
  process.removeAllListeners("uncaughtException")
  const caught: unknown[] = []
  process.on("uncaughtException", error => caught.push(error))
  using poller = new native.Poller(fd, "readable", () => {
    if (caught.length === 1) poller.close()
    throw new Error("from the callback")
  })

  await vi.waitFor(() => expect(caught).toHaveLength(2), SOON)
  process.removeAllListeners("uncaughtException")
  for (const listener of listeners) process.on("uncaughtException", listener)

  expect(caught[0]).toMatchObject({ message: "from the callback" })
  native.closeFd(fd)
})

test("refuses what cannot be polled, without leaking an fd", () => {
  const dir = mkdtempSync(join(tmpdir(), "tsvmm-native-"))
  const file = openSync(join(dir, "file"), "w")
  const before = countFds()

  expect(() => new native.Poller(file, "readable", () => undefined)).toThrow(
    expect.objectContaining({ code: "EPERM", syscall: "epoll_ctl" }),
  )
  expect(() => new native.Poller(1_000_000, "readable", () => undefined)).toThrow(
    expect.objectContaining({ code: "EBADF" }),
  )
  expect(() => new native.Poller(file, "sometimes" as "both", () => undefined)).toThrow(TypeError)
  expect(() => new native.Poller(file, "both", undefined as unknown as () => void)).toThrow(TypeError)

  expect(countFds()).toBe(before)
  closeSync(file)
  rmSync(dir, { recursive: true })
})

test("hundreds of pollers come and go without leaking", async () => {
  const fd = native.eventFd(1)
  await turn()
  const before = countFds()
  let calls = 0

  const pollers = Array.from({ length: 300 }, () => new native.Poller(fd, "readable", () => calls++))
  await vi.waitFor(() => expect(calls).toBeGreaterThanOrEqual(300), SOON)
  for (const poller of pollers) poller.close()
  await turn()

  expect(countFds()).toBe(before)
  native.closeFd(fd)
})
