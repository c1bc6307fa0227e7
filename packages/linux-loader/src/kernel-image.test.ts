import { closeSync, mkdtempSync, openSync, rmSync, truncateSync, utimesSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { arrayBufferMemory } from "@ts-vmm/vm-memory"
import { afterEach, beforeEach, describe, expect, test } from "vitest"
import { loadInitrd } from "./initrd.js"
import { bytesImage, fileImage, readBytes } from "./kernel-image.js"
import { bytesAt, MIB } from "./testing/memory.js"
import { refusedWith } from "./testing/refused.js"

const CONTENT = Uint8Array.from({ length: 10_000 }, (_, i) => i % 251)
const KERNEL = { format: "elf", loadAddress: MIB, endAddress: MIB, entry: MIB } as const
let folder: string
let path: string
let fd: number

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "loader-"))
  path = join(folder, "image")
  writeFileSync(path, CONTENT)
  fd = openSync(path, "r")
})

afterEach(() => {
  closeSync(fd)
  rmSync(folder, { recursive: true })
})

describe.each([
  ["bytesImage", () => bytesImage(CONTENT)],
  ["fileImage", () => fileImage(fd)],
])("%s", (_, open) => {
  test("reads any part", () => {
    const image = open()
    expect(image.size).toBe(10_000)
    expect(readBytes(image, 0, 10_000)).toEqual(CONTENT)
    expect(readBytes(image, 9_990, 10)).toEqual(CONTENT.subarray(9_990))
    expect(readBytes(image, 10_000, 0)).toEqual(new Uint8Array())
  })

  test.each([
    [9_999, 2],
    [10_001, 0],
    [-1, 1],
    [0.5, 1],
    [Number.POSITIVE_INFINITY, 1],
  ])("refuses bytes it has not got (%d, %d)", (offset, size) => {
    const image = open()
    const into = new Uint8Array(size)
    refusedWith("truncated", () => image.read(offset, into))
  })
})

describe("fileImage", () => {
  test("refuses what is no regular file", () => {
    const directory = openSync(folder, "r")
    const device = openSync("/dev/zero", "r")
    try {
      refusedWith("not-a-file", () => fileImage(directory))
      refusedWith("not-a-file", () => fileImage(device))
    } finally {
      closeSync(directory)
      closeSync(device)
    }
  })

  test("K5: a file cut short while it is read leaves zeroes behind", () => {
    const memory = arrayBufferMemory([{ start: 0, size: 2 * MIB }])
    memory.regions[0]!.bytes.fill(0xee)
    const image = fileImage(fd)
    truncateSync(path, 5_000)
    refusedWith("truncated", () => loadInitrd(memory, image, KERNEL))
    expect(bytesAt(memory, 2 * MIB - 12_288, 10_000)).toEqual(new Uint8Array(10_000))
  })

  test("K5: a file written while it is read is refused", () => {
    const memory = arrayBufferMemory([{ start: 0, size: 2 * MIB }])
    const image = fileImage(fd)
    utimesSync(path, 1, 1)
    refusedWith("image-changed", () => loadInitrd(memory, image, KERNEL))
    expect(bytesAt(memory, 2 * MIB - 12_288, 10_000)).toEqual(new Uint8Array(10_000))
  })
})
