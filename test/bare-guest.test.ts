import { execFileSync } from "node:child_process"
import { readFileSync } from "node:fs"
import { afterEach, expect, test, vi } from "vitest"
import { type BareGuest, bareGuest } from "./fixtures/bare-guest/bare-guest.js"
import { BARE_GUESTS } from "./fixtures/bare-guest/build.mjs"

const LOAD_ADDRESS = 0x10_0000
const LOAD_END = 0x20_0000
const EM_X86_64 = 62
const ET_EXEC = 2
const PT_LOAD = 1
const PT_NOTE = 4
const XEN_ELFNOTE_PHYS32_ENTRY = 18

/** The first use of a guest compiles it. */
const COMPILE_TIMEOUT_MS = 60_000

interface Segment {
  readonly type: number
  readonly data: Buffer
  readonly start: number
  readonly end: number
}

afterEach(() => {
  vi.unstubAllEnvs()
})

function segmentsOf(elf: Buffer): Segment[] {
  const table = Number(elf.readBigUInt64LE(32))
  return Array.from({ length: elf.readUInt16LE(56) }, (_, index) => {
    const field = (offset: number) => Number(elf.readBigUInt64LE(table + index * 56 + offset))
    const [offset, start, fileSize, memorySize] = [field(8), field(24), field(32), field(40)]
    return {
      type: elf.readUInt32LE(table + index * 56),
      data: elf.subarray(offset, offset + fileSize),
      start,
      end: start + memorySize,
    }
  })
}

test.each(BARE_GUESTS)(
  "%s is an ELF64 executable at 1 MiB that begins at its 64-bit entry",
  { timeout: COMPILE_TIMEOUT_MS },
  name => {
    const elf = readFileSync(bareGuest(name))
    expect(elf.subarray(0, 6)).toEqual(Buffer.from("\x7fELF\x02\x01", "latin1"))
    expect(elf.readUInt16LE(16)).toBe(ET_EXEC)
    expect(elf.readUInt16LE(18)).toBe(EM_X86_64)
    expect(elf.readBigUInt64LE(24)).toBe(BigInt(LOAD_ADDRESS))
    const loaded = segmentsOf(elf).filter(segment => segment.type === PT_LOAD)
    expect(loaded.map(segment => segment.start)[0]).toBe(LOAD_ADDRESS)
    expect(Math.max(...loaded.map(segment => segment.end))).toBeLessThanOrEqual(LOAD_END)
  },
)

test.each(BARE_GUESTS)("%s has a PVH entry inside its code", { timeout: COMPILE_TIMEOUT_MS }, name => {
  const segments = segmentsOf(readFileSync(bareGuest(name)))
  const note = segments.find(segment => segment.type === PT_NOTE)?.data ?? Buffer.alloc(0)
  expect(note.subarray(0, 16)).toEqual(
    Buffer.from([4, 0, 0, 0, 4, 0, 0, 0, 18, 0, 0, 0, 0x58, 0x65, 0x6e, 0]),
  )
  expect(note.readUInt32LE(8)).toBe(XEN_ELFNOTE_PHYS32_ENTRY)
  const code = segments.find(segment => segment.type === PT_LOAD)
  expect(note.readUInt32LE(16)).toBeGreaterThan(code?.start ?? Number.POSITIVE_INFINITY)
  expect(note.readUInt32LE(16)).toBeLessThan(code?.end ?? 0)
})

test("a guest that was built is not built again", () => {
  const path = bareGuest("power-off")
  // The file's time would tell as well of another test's process that builds the same just now.
  vi.stubEnv("CC", "/bin/false")
  expect(bareGuest("power-off")).toBe(path)
})

test("a guest that does not exist is an error that lists those that do", () => {
  expect(() => bareGuest("nosuch" as BareGuest)).toThrow("power-off")
})

test("needs nothing of the machine that compiles it but a compiler", () => {
  const undefinedSymbols = execFileSync("nm", ["--undefined-only", bareGuest("fuzz")], { encoding: "utf8" })
  expect(undefinedSymbols).toBe("")
})
