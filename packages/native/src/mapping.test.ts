import { execFileSync, spawn } from "node:child_process"
import { once } from "node:events"
import { closeSync, ftruncateSync, mkdtempSync, openSync, readSync, rmSync, writeSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { afterEach, beforeEach, describe, expect, test } from "vitest"
import { collectGarbage, countFds, countMaps, mapAt } from "../test/support/process.js"
import { MAX_MAPPING_SIZE, Mapping } from "./index.js"

let dir: string

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "tsvmm-native-"))
})
afterEach(() => {
  rmSync(dir, { recursive: true })
})

/** An fd on a file of `size` bytes that may shrink. */
function openFile(size: number): number {
  const fd = openSync(join(dir, "file"), "w+")
  ftruncateSync(fd, size)
  return fd
}

describe("create", () => {
  test("gives zeroed memory that a second mapping of the fd shares", () => {
    using memory = Mapping.create({ name: "shared", size: 10_000 })
    using again = Mapping.map({ fd: memory.fd, offset: 4096, size: 5904 })
    const bytes = new Uint8Array(memory.buffer)

    expect(memory.size).toBe(10_000)
    expect(memory.buffer.byteLength).toBe(10_000)
    expect(bytes.every(byte => byte === 0)).toBe(true)
    new Uint8Array(again.buffer)[1] = 7
    expect(bytes[4097]).toBe(7)
    expect(memory.hostAddress).toBeGreaterThan(0n)
    expect(memory.hostAddress).not.toBe(again.hostAddress)
  })

  test("Q22: seals the size of the memory against everybody", () => {
    using memory = Mapping.create({ name: "sealed", size: 8192 })

    expect(memory).toMatchObject({ sealed: true, inMemory: true, faulted: false })
    expect(() => ftruncateSync(memory.fd, 4096)).toThrow("EPERM")
    expect(() => ftruncateSync(memory.fd, 16_384)).toThrow("EPERM")
  })

  test("puts inaccessible pages on both sides if asked to", () => {
    using memory = Mapping.create({ name: "guarded", size: 4096, guard: true })

    const [start, end] = mapAt(memory.hostAddress)
    expect(end - start).toBe(4096n)
    expect(mapAt(start - 1n)[2]).toMatch(/^---/)
    expect(mapAt(end)[2]).toMatch(/^---/)
    expect(mapAt(end + 65_535n)[2]).toMatch(/^---/)
  })

  test("goes up to 4 GiB", () => {
    using memory = Mapping.create({ name: "large", size: MAX_MAPPING_SIZE })
    const last = new Uint8Array(memory.buffer, MAX_MAPPING_SIZE - 1)

    last[0] = 9

    expect(last.length).toBe(1)
    expect(last[0]).toBe(9)
    expect(() => Mapping.create({ name: "larger", size: MAX_MAPPING_SIZE + 1 })).toThrow(RangeError)
  })

  test("refuses sizes and names that make no sense", () => {
    for (const size of [0, -1, 1.5, Number.NaN, 2 ** 53]) {
      expect(() => Mapping.create({ name: "bad", size })).toThrow(RangeError)
    }
    expect(() => Mapping.create({ name: "a\0b", size: 1 })).toThrow(TypeError)
    expect(() => Mapping.create({ name: "n".repeat(201), size: 1 })).toThrow(RangeError)
  })
})

describe("map", () => {
  test("writes reach the file, and the caller's fd stays the caller's", () => {
    const fd = openFile(8192)
    const memory = Mapping.map({ fd, offset: 4096, size: 4096 })

    new Uint8Array(memory.buffer)[3] = 5
    memory.close()
    const seen = Buffer.alloc(1)
    readSync(fd, seen, 0, 1, 4099)
    closeSync(fd)

    expect(seen[0]).toBe(5)
    expect(memory.sealed).toBe(false)
  })

  test("a mapping that is not writable keeps writes to itself and follows the file otherwise", () => {
    const fd = openFile(8192)
    using memory = Mapping.map({ fd, offset: 0, size: 8192, writable: false })
    const bytes = new Uint8Array(memory.buffer)

    bytes[0] = 1
    writeSync(fd, "A", 4096)
    const seen = Buffer.alloc(1)
    readSync(fd, seen, 0, 1, 0)
    closeSync(fd)

    expect(seen[0]).toBe(0)
    expect(bytes[4096]).toBe(65)
  })

  test("a file opened for reading can be mapped for reading only", () => {
    closeSync(openFile(4096))
    const fd = openSync(join(dir, "file"), "r")

    expect(() => Mapping.map({ fd, offset: 0, size: 4096 })).toThrow(
      expect.objectContaining({ code: "EACCES" }),
    )
    Mapping.map({ fd, offset: 0, size: 4096, writable: false }).close()
    closeSync(fd)
  })

  test("H3: refuses what is not wholly inside the file", () => {
    const fd = openFile(8192)
    const before = countFds()

    for (const [offset, size] of [
      [0, 8193],
      [4096, 4097],
      [8192, 1],
      [2 ** 52, 4096],
    ] as const) {
      expect(() => Mapping.map({ fd, offset, size })).toThrow(expect.objectContaining({ code: "EOVERFLOW" }))
    }
    expect(() => Mapping.map({ fd, offset: 100, size: 1 })).toThrow(RangeError)
    expect(() => Mapping.map({ fd, offset: 0, size: 0 })).toThrow(RangeError)
    expect(countFds()).toBe(before)
    closeSync(fd)
  })

  test("refuses what is not a regular file, or not memory if memory is asked for", () => {
    const folder = openSync(dir, "r")
    const nil = openSync("/dev/zero", "r+")
    using memory = Mapping.create({ name: "memory", size: 4096 })

    const invalid = expect.objectContaining({ code: "EINVAL" })
    expect(() => Mapping.map({ fd: folder, offset: 0, size: 1 })).toThrow(invalid)
    expect(() => Mapping.map({ fd: nil, offset: 0, size: 1 })).toThrow(invalid)
    expect(() => Mapping.map({ fd: nil, offset: 0, size: 1, inMemory: true })).toThrow(invalid)
    expect(() => Mapping.map({ fd: 1_000_000, offset: 0, size: 1 })).toThrow(
      expect.objectContaining({ code: "EBADF" }),
    )
    Mapping.map({ fd: memory.fd, offset: 0, size: 4096, inMemory: true }).close()
    closeSync(folder)
    closeSync(nil)
  })
})

test("H3: refuses huge pages, whose length the kernel would round up over its neighbours", async context => {
  const make =
    "import os,sys; fd = os.memfd_create('huge', os.MFD_HUGETLB); os.ftruncate(fd, 2 << 20); print(fd, flush=True); sys.stdin.read()"
  const owner = spawn("python3", ["-c", make], { stdio: ["pipe", "pipe", "ignore"] })
  owner.once("error", () => undefined)
  const number = await Promise.race([
    once(owner.stdout, "data").then(([data]) => String(data).trim()),
    once(owner, "close").then(
      () => undefined,
      () => undefined,
    ),
  ])
  context.skip(number === undefined, "no python3, or a kernel without huge pages")
  const fd = openSync(`/proc/${owner.pid}/fd/${number}`, "r+")

  const refusal = expect.objectContaining({ code: "EINVAL", message: expect.stringContaining("huge pages") })
  expect(() => Mapping.map({ fd, offset: 0, size: 4096, inMemory: true })).toThrow(refusal)
  closeSync(fd)
  owner.kill()
})

describe("close", () => {
  test("detaches every view, unmaps and closes the fd, and may come twice", () => {
    const before = countFds()
    const memory = Mapping.create({ name: "closing", size: 8192 })
    const bytes = new Uint8Array(memory.buffer)
    const words = new DataView(memory.buffer, 4096)

    memory.close()
    memory.close()

    expect(memory).toMatchObject({ closed: true, fd: -1, size: 8192, inFlight: 0 })
    expect(memory.buffer.byteLength).toBe(0)
    expect(bytes.length).toBe(0)
    expect(bytes[0]).toBeUndefined()
    expect(() => words.getUint8(0)).toThrow(TypeError)
    expect(countMaps("closing")).toBe(0)
    expect(countFds()).toBe(before)
  })

  test("thousands can be opened and closed without a turn of the event loop", () => {
    const before = countFds()

    for (let i = 0; i < 10_000; i++) Mapping.create({ name: "many", size: 4096 }).close()

    expect(countFds()).toBe(before)
    expect(countMaps("many")).toBe(0)
  })

  test("the 4097th open mapping of a process is refused and nothing leaks", () => {
    const fd = openFile(4096)
    const before = countFds()
    const open: Mapping[] = []
    let refusal: unknown

    try {
      for (let i = 0; i < 4097; i++) open.push(Mapping.map({ fd, offset: 0, size: 4096 }))
    } catch (error) {
      refusal = error
    }
    for (const mapping of open) mapping.close()

    expect(refusal).toMatchObject({ name: "SysError" })
    expect(["ENOMEM", "EMFILE"]).toContain((refusal as { code: string }).code)
    expect(countFds()).toBe(before)
    closeSync(fd)
  })

  test("a buffer that somebody detached first is unmapped by the garbage collector", async () => {
    let memory: Mapping | undefined = Mapping.create({ name: "stolen", size: 4096 })
    let stolen: ArrayBuffer | undefined
    try {
      // Depending on the version Node moves the memory, copies it, or refuses.
      stolen = structuredClone(memory.buffer, { transfer: [memory.buffer] })
    } catch {
      stolen = undefined
    }

    memory.close()
    if (stolen !== undefined) new Uint8Array(stolen).fill(1)
    memory = undefined
    stolen = undefined
    await collectGarbage()

    expect(countMaps("stolen")).toBe(0)
  })
})

/** Leaves some mappings open, some closed, some kept for a while, and all unreachable. */
function makeMixed(count: number): void {
  const kept: Mapping[] = []
  for (let i = 0; i < count; i++) {
    const mapping = Mapping.create({ name: "mixed", size: 4096 })
    new Uint8Array(mapping.buffer)[0] = i
    if (i % 3 === 0) mapping.close()
    if (i % 5 === 0) kept.push(mapping)
  }
  for (const mapping of kept) mapping.close()
}

describe("garbage collection", () => {
  test("an unreachable mapping goes away with its fd", async () => {
    await collectGarbage()
    const before = countFds()
    ;(() => {
      for (let i = 0; i < 20; i++) Mapping.create({ name: "lost", size: 4096 })
    })()

    await collectGarbage()

    expect(countMaps("lost")).toBe(0)
    expect(countFds()).toBe(before)
  })

  test("a view keeps the memory after the Mapping itself is gone", async () => {
    let bytes: Uint8Array | undefined = (() =>
      new Uint8Array(Mapping.create({ name: "kept", size: 4096 }).buffer))()
    bytes[5] = 6

    await collectGarbage()
    expect(bytes[5]).toBe(6)
    expect(countMaps("kept")).toBe(1)

    bytes = undefined
    await collectGarbage()
    expect(countMaps("kept")).toBe(0)
  })

  test("closing and collecting in any order is safe", async () => {
    for (let round = 0; round < 4; round++) {
      makeMixed(500)
      await collectGarbage()
    }

    expect(countMaps("mixed")).toBe(0)
  })
})

describe("SIGBUS", () => {
  test("H3: Q22: a file that shrinks under a mapping reads as zeroes and marks the mapping", () => {
    const fd = openFile(64 * 1024)
    using victim = Mapping.map({ fd, offset: 0, size: 64 * 1024 })
    using bystander = Mapping.create({ name: "bystander", size: 4096 })
    const bytes = new Uint8Array(victim.buffer).fill(1)

    ftruncateSync(fd, 4096)

    expect(bytes[0]).toBe(1)
    expect(victim.faulted).toBe(false)
    expect(bytes[20_000]).toBe(0)
    expect(victim.faulted).toBe(true)
    bytes.fill(3)
    expect(bytes[65_535]).toBe(3)
    expect(bystander.faulted).toBe(false)
    victim.close()
    expect(victim.faulted).toBe(true)
    closeSync(fd)
  })

  test("a new mapping in the place of a faulted one starts clean", () => {
    for (let round = 0; round < 50; round++) {
      const fd = openFile(16_384)
      const victim = Mapping.map({ fd, offset: 0, size: 16_384, guard: round % 2 === 0 })
      expect(victim.faulted).toBe(false)
      ftruncateSync(fd, 0)
      new Uint8Array(victim.buffer).fill(round)
      expect(victim.faulted).toBe(true)
      victim.close()
      closeSync(fd)
    }
  })

  test("a SIGBUS that has nothing to do with a mapping still ends the process", () => {
    const addon = fileURLToPath(new URL("../build/Release/tsvmm_native.node", import.meta.url))
    const code = `
      const native = require(${JSON.stringify(addon)})
      native.createMapping("other", 4096, false)
      process.kill(process.pid, "SIGBUS")
      setTimeout(() => process.exit(0), 10000)`

    expect(() => execFileSync(process.execPath, ["-e", code], { stdio: "pipe" })).toThrow(
      expect.objectContaining({
        signal: process.env["ASAN_OPTIONS"] === undefined ? "SIGBUS" : expect.anything(),
      }),
    )
  })
})
