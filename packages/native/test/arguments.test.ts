import fc from "fast-check"
import { beforeAll, expect, test } from "vitest"
import { addon } from "../src/addon.js"
import * as native from "../src/index.js"
import { countFds } from "./support/process.js"

/** Values of every kind, none of which is an open fd: a call on one of those would do what it says. */
const junk = fc.oneof(
  fc.constantFrom<unknown>(undefined, null, true, false, "", "text", Symbol("s"), 2n ** 70n, -1n, Number.NaN),
  fc.constantFrom<unknown>(-1, -0.5, 0.5, 1e300, -1e300, Number.POSITIVE_INFINITY, 2 ** 31, 2 ** 53, 2 ** 64),
  fc.constantFrom<unknown>(
    {},
    [],
    [1],
    () => 1,
    new Date(),
    new Map(),
    new Proxy([], {}),
    new Proxy(() => 1, {}),
  ),
  fc.integer({ min: 500_000, max: 2 ** 31 - 1 }),
  fc.string({ maxLength: 300 }),
  fc.uint8Array({ maxLength: 64 }),
  fc.constantFrom<unknown>(
    new ArrayBuffer(0),
    new ArrayBuffer(64),
    new SharedArrayBuffer(64),
    new DataView(new ArrayBuffer(8)),
    new Float64Array(4),
    new Uint8Array(new SharedArrayBuffer(8)),
    new Array(2000),
    Object.create(native.Mapping.prototype),
    Object.create(addon.Poller.prototype),
    Object.create(addon.ExitTable.prototype),
  ),
)

/** pipe, socketPair and eventFd are left out: they have no arguments that matter and make fds. */
const FUNCTIONS = Object.entries(addon).filter(
  ([name, value]) =>
    typeof value === "function" &&
    !["pipe", "socketPair", "setErrorClass", "Poller", "Reservation", "ExitTable", "VcpuLoop"].includes(name),
) as [string, (...args: unknown[]) => unknown][]

/** The only ways for a call to end that are not a result. */
function expectCleanError(error: unknown): void {
  const clean = error instanceof TypeError || error instanceof RangeError || error instanceof native.SysError
  if (!clean) throw error
}

// Made once, when it is first wanted, and kept: not a leak of the call that happens to be the first.
beforeAll(() => {
  native.useIoRing(true)
})

test.each(FUNCTIONS)("%s answers any arguments with a clean error", (name, call) => {
  const before = countFds()
  const made: number[] = []

  fc.assert(
    fc.property(fc.array(junk, { maxLength: 7 }), args => {
      try {
        const result = call(...args)
        if (name === "eventFd" || name === "unixListen") made.push(result as number)
      } catch (error) {
        expectCleanError(error)
      }
    }),
    { numRuns: 400, seed: 20 },
  )

  for (const fd of made) native.closeFd(fd)
  expect(countFds()).toBe(before)
})

test.each(["Poller", "Reservation", "ExitTable", "VcpuLoop"] as const)(
  "a %s is made from nothing but good arguments",
  name => {
    const before = countFds()
    const Made = addon[name] as unknown as new (...args: unknown[]) => unknown
    fc.assert(
      fc.property(fc.array(junk, { maxLength: 6 }), args => {
        try {
          new Made(...args)
        } catch (error) {
          expectCleanError(error)
        }
      }),
      { numRuns: 400, seed: 21 },
    )

    expect(() => (Made as unknown as () => void)()).toThrow(TypeError)
    expect(countFds()).toBe(before)
  },
)

test.each(["replaceRows", "setAction", "answer", "take"] as const)(
  "%s of an exit table answers any arguments with a clean error",
  name => {
    const table = new addon.ExitTable(4, 16)
    const numbers = fc.array(fc.oneof(fc.integer({ min: -1, max: 8 }), junk), { maxLength: 13 })
    fc.assert(
      fc.property(fc.array(fc.oneof(junk, numbers), { maxLength: 5 }), args => {
        try {
          ;(table[name] as (...args: unknown[]) => unknown)(...args)
        } catch (error) {
          expectCleanError(error)
        }
      }),
      { numRuns: 1000, seed: 23 },
    )
  },
)

test("methods only work on their own objects", () => {
  const before = countFds()
  const mapping = addon.createMapping("x", 4096, false)
  const steal = (method: keyof typeof addon.Poller.prototype, thief: unknown): unknown =>
    (addon.Poller.prototype[method] as () => void).call(thief as never)

  expect(() => steal("close", mapping)).toThrow(TypeError)
  expect(() => steal("close", {})).toThrow(TypeError)
  expect(() => steal("ref", Object.create(addon.Poller.prototype))).toThrow(TypeError)
  expect(() => addon.ExitTable.prototype.take.call(mapping as never, new Uint8Array(1))).toThrow(TypeError)
  expect(() => addon.VcpuLoop.prototype.resume.call(mapping as never)).toThrow(TypeError)
  mapping.close()
  expect(countFds()).toBe(before)
})

test("an empty native mapping, made behind the back of this package, does nothing", () => {
  const mapping = addon.createMapping("x", 4096, false)
  const Hidden = mapping.constructor as new () => typeof mapping

  const empty = new Hidden()
  empty.close()

  expect(empty).toMatchObject({ fd: -1, faulted: false, inFlight: 0 })
  mapping.close()
})

test("public wrappers refuse wrong shapes with a TypeError or RangeError", () => {
  const wrong = (value: unknown): never => value as never
  const calls: (() => unknown)[] = [
    () => native.Mapping.create(wrong({})),
    () => native.Mapping.create(wrong(undefined)),
    () => native.Mapping.map(wrong({ fd: "1", offset: 0, size: 1 })),
    () => native.Mapping.map(wrong({ fd: 1, offset: 0, size: 1, writable: 1 })),
    () => native.Mapping.mapDevice(wrong({ fd: 1, offset: 1, size: 4096 })),
    () => native.Mapping.mapDevice(wrong({ fd: 1, offset: 0, size: "1" })),
    () => new native.ExitTable(wrong({ rows: undefined })),
    () => new native.ExitTable({ rows: [], cells: 0 }),
    () => new native.ExitTable({ rows: [], sinkSize: 2 ** 25 }),
    () => native.eventFd(-1),
    () => native.signal(wrong(null)),
    () => native.drain(-1),
    () => native.setNonBlocking(0, wrong("yes")),
    () => native.fdStat(wrong({})),
    () => native.fdOrigin(1.5),
    () => native.ioctl(0, -1),
    () => native.ioctl(0, 0x5401, wrong("x")),
    () => native.lockFile(0, wrong("both")),
    () => native.unixListen(""),
    () => native.unixListen("/tmp/x", { mode: 0o1000 }),
    () => native.unixConnect("a\0b"),
    () => native.sendMessage(0, wrong("text")),
    () => native.sendMessage(0, new Uint8Array(1), wrong(1)),
    () => native.receiveMessage(0, wrong(new ArrayBuffer(8))),
    () => new native.IoBatch(1, 1).runSync(wrong([1]), 1),
    () => new native.IoBatch(1, 1).runSync(wrong(undefined), 1),
  ]

  for (const call of calls) {
    let error: unknown
    try {
      call()
    } catch (thrown) {
      error = thrown
    }
    expect(error instanceof TypeError || error instanceof RangeError, `${call}: ${error}`).toBe(true)
  }
})

test("random rows of a batch never leave the regions", () => {
  using memory = native.Mapping.create({ name: "rows", size: 8192, guard: true })
  const regions = [memory.buffer, new ArrayBuffer(100)]
  const batch = new native.IoBatch(4, 8)
  const number = fc.oneof(fc.integer({ min: -2, max: 9000 }), fc.double())

  fc.assert(
    fc.property(
      fc.array(number, { minLength: 24, maxLength: 24 }),
      fc.array(fc.integer(), { minLength: 16, maxLength: 16 }),
      (segments, ops) => {
        // No fd is open at these numbers, so a row that passes the checks ends with EBADF.
        batch.ops.set(ops.map((value, i) => (i % 4 === 1 ? 600_000 : value % 9)))
        batch.segments.set(segments)
        batch.runSync(regions, 4)
        expect(batch.results.every(result => result <= 0)).toBe(true)
      },
    ),
    { numRuns: 2000, seed: 22 },
  )
})
