import { closeSync, ftruncateSync, mkdtempSync, openSync, readSync, rmSync, writeSync } from "node:fs"
import { constants, tmpdir } from "node:os"
import { join } from "node:path"
import { afterEach, beforeEach, describe, expect, test } from "vitest"
import { collectGarbage, mapAt } from "../test/support/process.js"
import { MAX_MAPPING_SIZE, pipe, Reservation } from "./index.js"

const PAGE = 4096
const HUGE = 2 * 2 ** 20
const { EACCES, EBADF, EINVAL, EIO } = constants.errno

let dir: string
/** This process's memory, as a debugger has it: JavaScript has no other way to what is mapped. */
let memory: number

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "tsvmm-reservation-"))
  memory = openSync("/proc/self/mem", "r+")
})
afterEach(() => {
  closeSync(memory)
  rmSync(dir, { recursive: true })
})

/** An fd on a new file, whose pages are filled with 1, 2 and so on. */
function openFile(pages: number, name = "file"): number {
  const fd = openSync(join(dir, name), "w+")
  for (let page = 0; page < pages; page++) writeSync(fd, Buffer.alloc(PAGE, page + 1))
  return fd
}

/** The byte at `offset` of a reservation, or why there is none. */
function byteAt({ hostAddress }: Reservation, offset: number): number | string {
  const byte = Buffer.alloc(1)
  try {
    // The number of the position is exact: addresses of a process are below 2^47.
    readSync(memory, byte, 0, 1, Number(hostAddress) + offset)
    return byte[0]!
  } catch (error) {
    return (error as { code: string }).code
  }
}

const access = ({ hostAddress }: Reservation, offset: number) => mapAt(hostAddress + BigInt(offset))[2]

/** Whether the address space is still kept. Once given back, any thread of this process may get it for its own memory. */
function isKept({ hostAddress }: Pick<Reservation, "hostAddress">): boolean {
  try {
    return mapAt(hostAddress)[2] === "---p"
  } catch {
    return false
  }
}

describe("a reservation", () => {
  test("is address space without access, aligned to huge pages, and is given back", () => {
    const reservation = new Reservation(2 * HUGE)
    expect(reservation.size).toBe(2 * HUGE)
    expect(reservation.hostAddress % BigInt(HUGE)).toBe(0n)
    for (const offset of [0, 2 * HUGE - 1]) expect(access(reservation, offset)).toBe("---p")
    reservation.close()
    reservation.close()
    expect(isKept(reservation)).toBe(false)
    expect(() => reservation.clear(0, PAGE)).toThrow(RangeError)
  })

  test("shows pages of a file, which writes on either side reach", () => {
    using reservation = new Reservation(HUGE)
    const fd = openFile(3)
    const at = { offset: 4 * PAGE, size: 2 * PAGE, fd, fileOffset: PAGE }
    expect(reservation.map({ ...at, writable: true })).toBe(0)
    closeSync(fd)
    expect([4, 5].map(page => byteAt(reservation, page * PAGE))).toEqual([2, 3])
    expect([3, 4, 6].map(page => access(reservation, page * PAGE))).toEqual(["---p", "rw-s", "---p"])

    writeSync(memory, Buffer.of(77), 0, 1, Number(reservation.hostAddress) + 5 * PAGE)
    const again = openSync(join(dir, "file"), "r+")
    const byte = Buffer.alloc(1)
    readSync(again, byte, 0, 1, 2 * PAGE)
    expect(byte[0]).toBe(77)
    writeSync(again, Buffer.of(78), 0, 1, 2 * PAGE)
    expect(byteAt(reservation, 5 * PAGE)).toBe(78)
    closeSync(again)
  })

  test("a mapping takes the place of others, and is taken away in whole pages", () => {
    using reservation = new Reservation(HUGE)
    const [one, other] = [openFile(4, "one"), openFile(8, "other")]
    const mapped = { size: 4 * PAGE, fd: one, fileOffset: 0, writable: true }
    expect(reservation.map({ ...mapped, offset: 0 })).toBe(0)
    expect(reservation.map({ ...mapped, offset: 2 * PAGE, fd: other, fileOffset: 4 * PAGE })).toBe(0)
    expect(reservation.clear(PAGE, PAGE)).toBe(0)
    const pages = [0, 2, 3, 5].map(page => byteAt(reservation, page * PAGE))
    expect(pages).toEqual([1, 5, 6, 8])
    expect([1, 6].map(page => access(reservation, page * PAGE))).toEqual(["---p", "---p"])
    for (const fd of [one, other]) closeSync(fd)
  })

  test("what is only read has no way to be written", () => {
    using reservation = new Reservation(HUGE)
    const fd = openFile(1)
    expect(reservation.map({ offset: 0, size: PAGE, fd, fileOffset: 0, writable: false })).toBe(0)
    expect(access(reservation, 0)).toBe("r--s")
    const write = () => writeSync(memory, Buffer.of(1), 0, 1, Number(reservation.hostAddress))
    expect(write).toThrow(expect.objectContaining({ errno: -EIO }))
    closeSync(fd)
  })

  test("pages that the file lost are not there, and this process goes on", () => {
    using reservation = new Reservation(HUGE)
    const fd = openFile(2)
    expect(reservation.map({ offset: 0, size: HUGE, fd, fileOffset: 0, writable: true })).toBe(0)
    ftruncateSync(fd, PAGE)
    expect([0, 1, 511].map(page => byteAt(reservation, page * PAGE))).toEqual([1, "EIO", "EIO"])
    closeSync(fd)
  })

  test("goes with its object", async () => {
    const made = Array.from({ length: 50 }, () => new Reservation(HUGE).hostAddress)
    await collectGarbage()
    expect(made.filter(hostAddress => isKept({ hostAddress })).length).toBeLessThan(50)
  })
})

describe("what is refused leaves what was mapped as it is", () => {
  test("F5: ranges that are not whole pages of the reservation", () => {
    using reservation = new Reservation(HUGE)
    const fd = openFile(1)
    const map = (offset: number, size: number, fileOffset = 0) =>
      reservation.map({ offset, size, fd, fileOffset, writable: false })
    const ranges = [
      { offset: HUGE, size: PAGE },
      { offset: HUGE - PAGE, size: 2 * PAGE },
      { offset: 0, size: HUGE + PAGE },
      { offset: -PAGE, size: PAGE },
      { offset: 1, size: PAGE },
      { offset: 0, size: 1 },
      { offset: 0, size: 0 },
      { offset: 2 ** 53, size: PAGE },
      { offset: PAGE, size: MAX_MAPPING_SIZE },
      { offset: Number.NaN, size: PAGE },
    ]
    for (const { offset, size } of ranges) {
      expect(() => map(offset, size)).toThrow(RangeError)
      expect(() => reservation.clear(offset, size)).toThrow(RangeError)
    }
    for (const fileOffset of [1, -PAGE, 2 ** 53]) expect(() => map(0, PAGE, fileOffset)).toThrow(RangeError)
    expect(mapAt(reservation.hostAddress)[2]).toBe("---p")
    closeSync(fd)
  })

  test("fds that are no files, or not open for what is asked", () => {
    using reservation = new Reservation(HUGE)
    const file = openFile(1)
    const [readOnly, writeOnly] = [openSync(join(dir, "file"), "r"), openSync(join(dir, "file"), "a")]
    const [reader, writer] = pipe()
    const zero = openSync("/dev/zero", "r+")
    const folder = openSync(dir, "r")
    const map = (fd: number, writable: boolean) =>
      reservation.map({ offset: 0, size: PAGE, fd, fileOffset: 0, writable })
    expect(map(file, false)).toBe(0)
    expect([map(readOnly, true), map(writeOnly, true), map(writeOnly, false)]).toEqual(
      new Array(3).fill(-EACCES),
    )
    expect([reader, writer, zero, folder].map(fd => map(fd, false))).toEqual(new Array(4).fill(-EINVAL))
    expect(map(1_000_000, false)).toBe(-EBADF)
    expect(byteAt(reservation, 0)).toBe(1)
    for (const fd of [file, readOnly, writeOnly, reader, writer, zero, folder]) closeSync(fd)
  })
})

test.each([0, -1, 1.5, PAGE + 1, Number.NaN, MAX_MAPPING_SIZE + PAGE])("refuses size %d", size => {
  expect(() => new Reservation(size)).toThrow(RangeError)
})
