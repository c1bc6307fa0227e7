import { execFileSync } from "node:child_process"
import { readFileSync } from "node:fs"
import { expect, test } from "vitest"
import { countFds } from "../test/support/process.js"
import { Mapping } from "./index.js"

const PAGE = 4096
const HUGE = 2 * 2 ** 20

/** What /proc/self/smaps says of the mapping that begins at `address`: its words, and kilobytes by name. */
function smaps(address: bigint): { flags: string[]; kilobytes: (name: string) => number } {
  const text = readFileSync("/proc/self/smaps", "latin1")
  const start = text.indexOf(`\n${address.toString(16)}-`) + 1
  const end = text.indexOf("VmFlags:", start)
  const part = text.slice(start, text.indexOf("\n", end))
  return {
    flags: /VmFlags: (.*)/.exec(part)![1]!.trim().split(" "),
    kilobytes: name => Number(new RegExp(`^${name}:\\s+(\\d+) kB`, "m").exec(part)![1]),
  }
}

test("gives zeroed memory without a file, which this process alone has", () => {
  const before = countFds()
  using memory = Mapping.createPrivate({ size: 3 * PAGE, guard: true })
  expect(memory).toMatchObject({ fd: -1, closed: false, sealed: true, inMemory: true, faulted: false })
  expect(countFds()).toBe(before)
  expect(new Uint8Array(memory.buffer).every(byte => byte === 0)).toBe(true)
  // Neither in a core dump nor in a child.
  expect(smaps(memory.hostAddress).flags).toEqual(expect.arrayContaining(["dd", "dc"]))
})

test("a child that this process starts leaves the memory alone", () => {
  using memory = Mapping.createPrivate({ size: 64 * PAGE })
  const bytes = new Uint8Array(memory.buffer).fill(1)
  execFileSync("true")
  bytes.fill(2)
  expect(bytes.every(byte => byte === 2)).toBe(true)
})

test("discard gives whole pages back and touches no others", () => {
  using memory = Mapping.createPrivate({ size: 8 * PAGE })
  const bytes = new Uint8Array(memory.buffer).fill(1)
  memory.discard(2 * PAGE, 3 * PAGE)
  memory.discard(0, 0)
  const zeroes = Array.from({ length: 8 }, (_, page) => page).filter(page => bytes[page * PAGE] === 0)
  expect(zeroes).toEqual([2, 3, 4])
  expect(() => memory.discard(7 * PAGE, 2 * PAGE)).toThrow(RangeError)
  memory.close()
  expect(memory.closed).toBe(true)
  expect(() => memory.discard(0, PAGE)).toThrow(expect.objectContaining({ code: "EBADF" }))
})

test("huge pages come where they are asked for, if the host has them", context => {
  const modes = readFileSync("/sys/kernel/mm/transparent_hugepage/enabled", "latin1")
  if (modes.includes("[never]")) context.skip("this host has no transparent huge pages")
  using memory = Mapping.createPrivate({ size: 4 * HUGE })
  expect(memory.preferHugePages(2 * HUGE, 2 * HUGE)).toBe(true)
  expect(() => memory.preferHugePages(1, PAGE)).toThrow(RangeError)
  new Uint8Array(memory.buffer).fill(1)
  const second = smaps(memory.hostAddress + BigInt(2 * HUGE))
  // The kernel may have none left; more than was asked for it never gives.
  expect(second.flags).toContain("hg")
  expect([0, HUGE / 1024, (2 * HUGE) / 1024]).toContain(second.kilobytes("AnonHugePages"))
  memory.close()
  expect(memory.preferHugePages(0, PAGE)).toBe(false)
})

test.each([0, -1, 1.5, Number.NaN, 2 ** 53])("refuses size %d", size => {
  expect(() => Mapping.createPrivate({ size })).toThrow(RangeError)
})
