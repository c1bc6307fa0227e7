import { constants } from "node:os"
import { describe, expect, test, vi } from "vitest"
import { collectGarbage, countFds, countMaps } from "../test/support/process.js"
import { closeFd, ExitTable, eventFd, Mapping, VcpuLoop, type VcpuLoopOptions } from "./index.js"

// An fd that is no vCPU: KVM_RUN fails at once. What vCPUs do is tested in @ts-vmm/kvm-ioctls, where KVM is.

const table = new ExitTable({ rows: [] })

interface Ended {
  readonly loop: VcpuLoop
  readonly errno: Promise<number>
}

function start(fd: number, run: Mapping, options: Partial<VcpuLoopOptions> = {}): Ended {
  const never = (): void => {
    throw new Error("no exit and no pause can come from here")
  }
  let loop: VcpuLoop | undefined
  const errno = new Promise<number>(onEnded => {
    loop = new VcpuLoop({ fd, run, table, name: "none", onExit: never, onPaused: never, onEnded, ...options })
  })
  return { loop: loop as VcpuLoop, errno }
}

const createRun = (): Mapping => Mapping.create({ name: "no-kvm-run", size: 12288 })

test("a KVM_RUN that fails ends the thread with its errno, once, and nothing is left", async () => {
  const fd = eventFd()
  const before = countFds()
  let run: Mapping | undefined = createRun()

  for (let round = 0; round < 20; round++) {
    const { loop, errno } = start(fd, run)
    expect(await errno).toBe(constants.errno.ENOTTY)
    // At once: an fd of a vCPU that is still open would keep the whole machine.
    expect(countFds()).toBe(before + 1)
    loop.stop()
    loop.pause()
    loop.unpause()
    loop.ref().unref()
    expect(loop.resume()).toBe(false)
  }
  run.close()
  run = undefined
  expect(countFds()).toBe(before)

  await collectGarbage()
  expect(countMaps("no-kvm-run")).toBe(0)
  closeFd(fd)
})

test("rows can be replaced when the threads have ended", async () => {
  const fd = eventFd()
  using run = createRun()
  const own = new ExitTable({ rows: [] })

  await start(fd, run, { table: own }).errno

  own.replaceRows([])
  closeFd(fd)
})

test("the mapping and the fd may be closed at once", async () => {
  const fd = eventFd()
  const run = createRun()
  const { errno } = start(fd, run)

  run.close()
  closeFd(fd)

  expect(await errno).toBe(constants.errno.ENOTTY)
  await vi.waitFor(() => expect(countMaps("no-kvm-run")).toBe(0), { timeout: 10_000 })
})

test("told to stop, to pause and to go on at once, in whatever order, it ends", async () => {
  const fd = eventFd()
  using run = createRun()
  const calls = ["stop", "pause", "unpause", "stop"] as const

  for (let first = 0; first < 4; first++) {
    const { loop, errno } = start(fd, run)
    for (let i = 0; i < 4; i++) loop[calls[(first + i) % 4] ?? "stop"]()
    // Stopped before the first KVM_RUN, or failed in it.
    expect([0, constants.errno.ENOTTY]).toContain(await errno)
  }
  closeFd(fd)
})

describe("garbage collection", () => {
  test("a loop that nobody holds tells its end all the same", async () => {
    const fd = eventFd()
    const ends: Promise<number>[] = []
    ;(() => {
      for (let i = 0; i < 10; i++) ends.push(start(fd, createRun()).errno)
    })()

    await collectGarbage()

    expect(await Promise.all(ends)).toEqual(Array(10).fill(constants.errno.ENOTTY))
    await collectGarbage()
    await vi.waitFor(() => expect(countMaps("no-kvm-run")).toBe(0), { timeout: 10_000 })
    closeFd(fd)
  })
})

test("refuses what cannot be run, without leaking", () => {
  const before = countFds()
  const fd = eventFd()
  const run = createRun()
  const small = Mapping.create({ name: "small", size: 64 })
  const closed = createRun()
  closed.close()
  const callbacks = { name: "none", onExit: () => 0, onPaused: () => 0, onEnded: () => 0 }

  expect(() => new VcpuLoop({ ...callbacks, fd: 1_000_000, run, table })).toThrow(
    expect.objectContaining({ code: "EBADF" }),
  )
  expect(() => new VcpuLoop({ ...callbacks, fd, run: small, table })).toThrow(TypeError)
  expect(() => new VcpuLoop({ ...callbacks, fd, run: closed, table })).toThrow(TypeError)
  expect(() => new VcpuLoop({ ...callbacks, fd, run, table: {} as ExitTable })).toThrow(TypeError)
  expect(() => new VcpuLoop({ ...callbacks, fd, run, table, name: "a\0b" })).toThrow(TypeError)

  for (const mapping of [run, small]) mapping.close()
  closeFd(fd)
  expect(countFds()).toBe(before)
})
