import { closeSync, openSync, readFileSync } from "node:fs"
import { fileURLToPath } from "node:url"
import { expect, test } from "vitest"
import { countFds } from "../test/support/process.js"
import { eventFd, Mapping, pipe } from "./index.js"

test("maps what is no file, shared and writable, and keeps an fd of its own", () => {
  const zero = openSync("/dev/zero", "r+")
  const memory = Mapping.mapDevice({ fd: zero, offset: 0, size: 8192 })
  closeSync(zero)
  const bytes = new Uint8Array(memory.buffer)
  const line = readFileSync("/proc/self/maps", "latin1")
    .split("\n")
    .find(map => map.startsWith(`${memory.hostAddress.toString(16)}-`))

  bytes[8191] = 7

  expect(bytes[8191]).toBe(7)
  expect(line).toContain(" rw-s ")
  expect(memory).toMatchObject({ size: 8192, sealed: false, inMemory: false, closed: false })
  memory.close()
  expect(memory.buffer.byteLength).toBe(0)
})

test("refuses files, pipes and what cannot be mapped, without leaking", () => {
  const before = countFds()
  const [reader, writer] = pipe()
  const event = eventFd()
  const file = openSync(fileURLToPath(import.meta.url), "r")
  const code = (fd: number): unknown => {
    try {
      return Mapping.mapDevice({ fd, offset: 0, size: 4096 })
    } catch (error) {
      return (error as { code?: string }).code
    }
  }

  expect([file, reader, event, 1_000_000].map(code)).toEqual(["EINVAL", "EINVAL", "ENODEV", "EBADF"])
  for (const offset of [100, -4096]) {
    expect(() => Mapping.mapDevice({ fd: event, offset, size: 4096 })).toThrow(RangeError)
  }
  for (const size of [0, 2 ** 33]) {
    expect(() => Mapping.mapDevice({ fd: event, offset: 0, size })).toThrow(RangeError)
  }

  for (const fd of [reader, writer, event, file]) closeSync(fd)
  expect(countFds()).toBe(before)
})
