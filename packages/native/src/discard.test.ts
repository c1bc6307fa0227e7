import { fstatSync, ftruncateSync, mkdtempSync, openSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterEach, beforeEach, describe, expect, test } from "vitest"
import { closeFd, Mapping } from "./index.js"

const PAGE = 4096

describe("discard", () => {
  test("frees the pages for everybody who maps the file, and no others", () => {
    using memory = Mapping.create({ name: "ram", size: 64 * PAGE })
    using other = Mapping.map({ fd: memory.fd, offset: 16 * PAGE, size: 48 * PAGE })
    const bytes = new Uint8Array(memory.buffer).fill(1)
    expect(fstatSync(memory.fd).blocks * 512).toBe(64 * PAGE)
    memory.discard(8 * PAGE, 4 * PAGE)
    // In its own terms: the second mapping begins in the middle of the file.
    other.discard(0, 2 * PAGE)
    const zeroes = Array.from({ length: 64 }, (_, page) => page).filter(page => bytes[page * PAGE] === 0)
    expect(zeroes).toEqual([8, 9, 10, 11, 16, 17])
    expect(new Uint8Array(other.buffer)[0]).toBe(0)
    memory.discard(0, 64 * PAGE)
    memory.discard(0, 0)
    expect(fstatSync(memory.fd)).toMatchObject({ blocks: 0, size: 64 * PAGE })
    bytes[5 * PAGE] = 7
    expect(fstatSync(memory.fd).blocks * 512).toBe(PAGE)
  })

  test.each([
    [1, PAGE],
    [0, 1],
    [0, 5 * PAGE],
    [5 * PAGE, 0],
    [PAGE, 4 * PAGE],
    [-PAGE, PAGE],
    [0, -PAGE],
    [Number.NaN, PAGE],
    [0, Number.POSITIVE_INFINITY],
    [2 ** 60, PAGE],
  ])("refuses offset %d and %d bytes, which are not whole pages of four", (offset, size) => {
    using memory = Mapping.create({ name: "ram", size: 4 * PAGE })
    const bytes = new Uint8Array(memory.buffer).fill(1)
    expect(() => memory.discard(offset, size)).toThrow(RangeError)
    expect(bytes.every(byte => byte === 1)).toBe(true)
  })

  test("a closed mapping touches no file that got its number", () => {
    const memory = Mapping.create({ name: "ram", size: PAGE })
    memory.close()
    expect(() => memory.discard(0, PAGE)).toThrow(expect.objectContaining({ code: "EBADF" }))
  })

  describe("of a file", () => {
    let directory: string
    let fd: number
    beforeEach(() => {
      directory = mkdtempSync(join(tmpdir(), "tsvmm-native-"))
      fd = openSync(join(directory, "file"), "w+")
      ftruncateSync(fd, 4 * PAGE)
    })
    afterEach(() => {
      closeFd(fd)
      rmSync(directory, { recursive: true })
    })

    test("a private mapping leaves the file alone: it may be somebody else's template", () => {
      using shared = Mapping.map({ fd, offset: 0, size: 4 * PAGE })
      using own = Mapping.map({ fd, offset: 0, size: 4 * PAGE, writable: false })
      new Uint8Array(shared.buffer).fill(3)
      expect(() => own.discard(0, PAGE)).toThrow(expect.objectContaining({ code: "ENOTSUP" }))
      expect(new Uint8Array(shared.buffer)[0]).toBe(3)
    })
  })
})
