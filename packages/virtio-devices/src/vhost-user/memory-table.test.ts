import { closeSync, ftruncateSync, mkdtempSync, openSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { closeFd, eventFd, Mapping, pipe } from "@ts-vmm/native"
import { afterEach, expect, test } from "vitest"
import type { VhostUserError } from "./errors.js"
import { type MemoryPolicy, MemoryTable } from "./memory-table.js"
import type { WireRegion } from "./message.js"
import { openFds } from "./raw-peer.js"

const MEMORY: MemoryPolicy = { files: "memory" }
const PAGE = 4096n
const cleanups: (() => void)[] = []
afterEach(() => {
  for (const cleanup of cleanups.splice(0).reverse()) cleanup()
})

function ram(size = 1 << 16): Mapping {
  const mapping = Mapping.create({ name: "ram", size })
  cleanups.push(() => mapping.close())
  return mapping
}

const region = (over: Partial<WireRegion> = {}): WireRegion => ({
  guestAddress: 0n,
  size: 1n << 16n,
  userAddress: 0x7000_0000_0000n,
  mmapOffset: 0n,
  ...over,
})

function refusal(action: () => unknown): string | undefined {
  const before = openFds()
  try {
    action()
  } catch (error) {
    expect(openFds()).toBe(before)
    return (error as VhostUserError).code
  }
  return undefined
}

test("devices see what the front end wrote, and the other way round", () => {
  const memory = ram()
  const table = MemoryTable.map([region({ guestAddress: 0x10000n })], [memory.fd], MEMORY)
  new Uint8Array(memory.buffer).set([1, 2, 3], 100)
  const seen = new Uint8Array(3)
  table.memory.read(0x10000 + 100, seen)
  expect([...seen]).toEqual([1, 2, 3])
  table.memory.write(0x10000 + 200, Uint8Array.of(9))
  expect(new Uint8Array(memory.buffer)[200]).toBe(9)
  table.close()
})

test("ring addresses are translated inside one region only", () => {
  const [low, high] = [ram(), ram()]
  const table = MemoryTable.map(
    [region(), region({ guestAddress: 1n << 32n, userAddress: 0x7000_0001_0000n })],
    [low.fd, high.fd],
    MEMORY,
  )
  expect(table.toGuest(0x7000_0000_1000n, 16)).toBe(0x1000)
  expect(table.toGuest(0x7000_0001_0008n, 16)).toBe(2 ** 32 + 8)
  expect(table.toGuest(0x7000_0000_fff8n, 16)).toBeUndefined()
  expect(table.toGuest(0x1000n, 16)).toBeUndefined()
  expect(table.toGuest((1n << 64n) - 1n, 16)).toBeUndefined()
  table.close()
})

test("H3: a region that is empty, unaligned, wraps or ends past the file is refused", () => {
  const memory = ram()
  const wrong: Partial<WireRegion>[] = [
    { size: 0n },
    { size: 100n },
    { size: (1n << 16n) + PAGE },
    { size: 1n << 63n },
    { guestAddress: 1n },
    { guestAddress: (1n << 64n) - PAGE },
    { guestAddress: 1n << 53n },
    { mmapOffset: 1n },
    { mmapOffset: PAGE },
    { mmapOffset: (1n << 64n) - PAGE },
    { userAddress: (1n << 64n) - PAGE },
  ]
  for (const over of wrong) {
    expect(refusal(() => MemoryTable.map([region(over)], [memory.fd], MEMORY))).toBe("memory-region")
  }
})

test("H3: regions that overlap in guest or in user addresses are refused", () => {
  const memory = ram()
  const fds = [memory.fd, memory.fd]
  const apart = region({ guestAddress: 1n << 20n, userAddress: 0x7100_0000_0000n })
  expect(refusal(() => MemoryTable.map([region(), { ...apart, guestAddress: PAGE }], fds, MEMORY))).toBe(
    "memory-region",
  )
  const sameUser = { ...apart, userAddress: region().userAddress + PAGE }
  expect(refusal(() => MemoryTable.map([region(), sameUser], fds, MEMORY))).toBe("memory-region")
})

test("H2: memory that is a pipe, a directory, an eventfd, closed, read-only or on a disk is refused", () => {
  const [reader, writer] = pipe()
  const event = eventFd()
  const folder = mkdtempSync(join(tmpdir(), "memory-table-"))
  const path = join(folder, "file")
  writeFileSync(path, new Uint8Array(1 << 16))
  const directory = openSync(folder, "r")
  const onDisk = openSync(path, "r+")
  const memory = ram()
  const readOnly = openSync(`/proc/self/fd/${memory.fd}`, "r")
  for (const fd of [reader, writer, event, directory, readOnly, 999_999]) {
    expect(refusal(() => MemoryTable.map([region()], [fd], MEMORY))).toBe("memory-region")
  }
  const any: MemoryPolicy = { files: "any" }
  MemoryTable.map([region()], [onDisk], any).close()
  // On a machine whose temporary folder is a tmpfs the same file counts as memory.
  using probe = Mapping.map({ fd: onDisk, offset: 0, size: 4096 })
  if (!probe.inMemory)
    expect(refusal(() => MemoryTable.map([region()], [onDisk], MEMORY))).toBe("memory-region")
  for (const fd of [reader, writer, event]) closeFd(fd)
  for (const fd of [directory, onDisk, readOnly]) closeSync(fd)
  rmSync(folder, { recursive: true })
})

test("H3: a file that shrinks later faults without harm", () => {
  const path = `/dev/shm/memory-table-${process.pid}`
  const fd = openSync(path, "w+")
  cleanups.push(
    () => rmSync(path, { force: true }),
    () => closeSync(fd),
  )
  ftruncateSync(fd, 1 << 16)
  const table = MemoryTable.map([region()], [fd], MEMORY)
  table.memory.write(0, Uint8Array.of(7))
  ftruncateSync(fd, 0)
  const seen = new Uint8Array(4)
  table.memory.read(0x8000, seen)
  expect([...seen]).toEqual([0, 0, 0, 0])
  expect(table.faulted).toBe(true)
  table.close()
})

test("a region can be added and removed; the mappings in common stay", () => {
  const [low, high] = [ram(), ram()]
  const before = openFds()
  const second = region({ guestAddress: 1n << 20n, userAddress: 0x7100_0000_0000n })
  const one = MemoryTable.map([region()], [low.fd], MEMORY)
  const two = one.with(second, high.fd, MEMORY)
  expect(two.regionCount).toBe(2)
  expect(refusal(() => two.with(second, high.fd, MEMORY))).toBe("memory-region")
  const back = two.without(region())!
  two.closeExcept(back)
  back.memory.write(1 << 20, Uint8Array.of(5))
  expect(new Uint8Array(high.buffer)[0]).toBe(5)
  expect(refusal(() => back.without(region()))).toBe("memory-region")
  expect(back.without(second)).toBeUndefined()
  back.close()
  expect(openFds()).toBe(before)
})

test("a mapping larger than one buffer is split and still one region to the front end", {
  timeout: 20_000,
}, () => {
  const path = `/dev/shm/memory-table-big-${process.pid}`
  const fd = openSync(path, "w+")
  cleanups.push(
    () => rmSync(path, { force: true }),
    () => closeSync(fd),
  )
  const size = 2 ** 32 + 2 ** 20
  ftruncateSync(fd, size)
  const table = MemoryTable.map([region({ size: BigInt(size) })], [fd], MEMORY)
  expect(table.memory.regions.length).toBe(2)
  table.memory.write(2 ** 32 - 2, Uint8Array.of(1, 2, 3, 4))
  const seen = new Uint8Array(4)
  table.memory.read(2 ** 32 - 2, seen)
  expect([...seen]).toEqual([1, 2, 3, 4])
  table.close()
})
