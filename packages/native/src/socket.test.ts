import { mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs"
import { createConnection } from "node:net"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterEach, beforeEach, describe, expect, test } from "vitest"
import { countFds } from "../test/support/process.js"
import * as native from "./index.js"

let dir: string
let before: number

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "tsvmm-native-"))
  before = countFds()
})
afterEach(() => {
  // Every test closes what it opened: a call that leaks fails here.
  expect(countFds()).toBe(before)
  rmSync(dir, { recursive: true })
})

function closeAll(...fds: readonly (number | undefined)[]): void {
  for (const fd of fds) if (fd !== undefined) native.closeFd(fd)
}

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text)

describe("listen, accept, connect", () => {
  test("a connection carries bytes, and names its peer", () => {
    const path = join(dir, "socket")
    const listener = native.unixListen(path)
    expect(native.unixAccept(listener)).toBeUndefined()

    const client = native.unixConnect(path)
    const server = native.unixAccept(listener) ?? -1
    native.sendMessage(client, bytes("hi"))
    const into = new Uint8Array(10)

    expect(native.receiveMessage(server, into)).toEqual({ length: 2, fds: [], truncated: false })
    expect(native.peerCredentials(server)).toEqual({
      pid: process.pid,
      uid: process.getuid?.(),
      gid: process.getgid?.(),
    })
    expect(native.fdStat(server).nonBlocking).toBe(true)
    closeAll(listener, client, server)
  })

  test("accept never blocks, not even on a blocking listener", () => {
    const listener = native.unixListen(join(dir, "socket"))
    native.setNonBlocking(listener, false)

    expect(native.unixAccept(listener)).toBeUndefined()
    closeAll(listener)
  })

  test("the socket file is for its owner only unless asked otherwise", () => {
    const closed = native.unixListen(join(dir, "closed"))
    const open = native.unixListen(join(dir, "open"), { mode: 0o660, backlog: 1 })

    expect(statSync(join(dir, "closed")).mode & 0o777).toBe(0o600)
    expect(statSync(join(dir, "open")).mode & 0o777).toBe(0o660 & ~process.umask())
    closeAll(closed, open)
  })

  test("a path that is too long is one clear error and makes no file", () => {
    const path = join(dir, "x".repeat(native.MAX_UNIX_PATH - dir.length))
    expect(path.length).toBe(native.MAX_UNIX_PATH + 1)

    for (const call of [native.unixListen, native.unixConnect]) {
      expect(() => call(path)).toThrow(expect.objectContaining({ code: "ENAMETOOLONG" }))
      expect(() => call(path)).toThrow("the path has 108 bytes and a unix socket allows 107")
    }
    closeAll(native.unixListen(path.slice(0, -1)))
    expect(readdirSync(dir)).toHaveLength(1)
  })

  test("an existing file is not replaced", () => {
    const path = join(dir, "file")
    writeFileSync(path, "mine")

    expect(() => native.unixListen(path)).toThrow(
      expect.objectContaining({ code: "EADDRINUSE", syscall: "bind" }),
    )
    expect(() => native.unixConnect(path)).toThrow(expect.objectContaining({ code: "ECONNREFUSED" }))
    expect(() => native.unixConnect(join(dir, "missing"))).toThrow(
      expect.objectContaining({ code: "ENOENT" }),
    )
  })

  test("a full backlog is EAGAIN, not a wait", () => {
    const path = join(dir, "socket")
    const listener = native.unixListen(path, { backlog: 1 })
    const clients: number[] = []
    let refusal: unknown

    try {
      for (let i = 0; i < 10; i++) clients.push(native.unixConnect(path))
    } catch (error) {
      refusal = error
    }

    expect(refusal).toMatchObject({ code: "EAGAIN" })
    closeAll(listener, ...clients)
  })

  test("a Node stream can be the client", async () => {
    const path = join(dir, "socket")
    const listener = native.unixListen(path)
    const client = createConnection(path)
    await new Promise(resolve => client.once("connect", resolve))

    const server = native.unixAccept(listener) ?? -1
    native.sendMessage(server, bytes("from native"))
    const data = await new Promise<Buffer>(resolve => client.once("data", resolve))

    expect(data.toString()).toBe("from native")
    closeAll(server, listener)
    client.destroy()
    await new Promise(resolve => client.once("close", resolve))
  })
})

describe("messages", () => {
  test("file descriptors arrive as working, close-on-exec duplicates", () => {
    const [a, b] = native.socketPair()
    const event = native.eventFd()
    using memory = native.Mapping.create({ name: "passed", size: 4096 })

    expect(native.sendMessage(a, bytes("x"), [event, memory.fd])).toBe(1)
    const message = native.receiveMessage(b, new Uint8Array(1), 2)
    const [event2 = -1, memory2 = -1] = message?.fds ?? []

    expect(message).toMatchObject({ length: 1, truncated: false })
    native.signal(event2)
    expect(native.drain(event)).toBe(8)
    expect(native.fdStat(memory2)).toEqual(native.fdStat(memory.fd))
    closeAll(a, b, event, event2, memory2)
  })

  test("more fds than asked for are closed and reported", () => {
    const [a, b] = native.socketPair()
    const event = native.eventFd()
    const open = countFds()

    for (const [sent, asked] of [
      [1, 0],
      [2, 1],
      [3, 2],
      [native.MAX_MESSAGE_FDS, 3],
    ] as const) {
      native.sendMessage(a, bytes("x"), Array<number>(sent).fill(event))
      const message = native.receiveMessage(b, new Uint8Array(1), asked)
      expect(message).toMatchObject({ length: 1, truncated: true })
      expect(message?.fds).toHaveLength(asked)
      closeAll(...(message?.fds ?? []))
      expect(countFds()).toBe(open)
    }
    closeAll(a, b, event)
  })

  test("nothing there is undefined, the end of the stream is length 0", () => {
    const [a, b] = native.socketPair()
    native.setNonBlocking(b, false)

    expect(native.receiveMessage(b, new Uint8Array(8))).toBeUndefined()
    native.closeFd(a)
    expect(native.receiveMessage(b, new Uint8Array(8))).toEqual({ length: 0, fds: [], truncated: false })
    expect(() => native.sendMessage(b, bytes("x"))).toThrow(expect.objectContaining({ code: "EPIPE" }))
    closeAll(b)
  })

  test("a full socket takes a part, then nothing, and loses nothing", () => {
    const [a, b] = native.socketPair()
    native.setNonBlocking(a, false)
    const chunk = new Uint8Array(1 << 20).fill(1)
    let sent = 0
    for (let took = native.sendMessage(a, chunk); took !== undefined; took = native.sendMessage(a, chunk))
      sent += took

    const into = new Uint8Array(1 << 16)
    let received = 0
    for (let m = native.receiveMessage(b, into); m !== undefined; m = native.receiveMessage(b, into)) {
      received += m.length
    }

    expect(sent).toBeGreaterThan(0)
    expect(received).toBe(sent)
    closeAll(a, b)
  })

  test("any view will do, and only its own bytes are used", () => {
    const [a, b] = native.socketPair()
    const source = new Uint8Array([0, 1, 2, 3, 4, 5, 6, 7])
    const target = new Uint8Array(8).fill(9)

    expect(native.sendMessage(a, new Uint16Array(source.buffer, 2, 2))).toBe(4)
    expect(native.receiveMessage(b, new DataView(target.buffer, 1, 6))?.length).toBe(4)

    expect([...target]).toEqual([9, 2, 3, 4, 5, 9, 9, 9])
    closeAll(a, b)
  })

  test("refuses empty views and too many fds", () => {
    const [a, b] = native.socketPair()

    expect(() => native.sendMessage(a, new Uint8Array(0))).toThrow(RangeError)
    expect(() => native.receiveMessage(a, new Uint8Array(0))).toThrow(RangeError)
    expect(() => native.sendMessage(a, bytes("x"), Array<number>(254).fill(a))).toThrow(RangeError)
    expect(() => native.receiveMessage(a, new Uint8Array(1), 254)).toThrow(RangeError)
    expect(() => native.sendMessage(a, bytes("x"), [1_000_000])).toThrow(
      expect.objectContaining({ code: "EBADF" }),
    )
    closeAll(a, b)
  })

  test("a peer that floods with fds cannot exhaust ours", () => {
    const [a, b] = native.socketPair()
    const event = native.eventFd()
    const open = countFds()

    for (let i = 0; i < 100; i++) {
      if (native.sendMessage(a, bytes("x"), Array<number>(200).fill(event)) === undefined) break
      native.receiveMessage(b, new Uint8Array(16), 0)
    }

    expect(countFds()).toBe(open)
    closeAll(a, b, event)
  })
})

test("a socket has room for as much as its user may have", () => {
  const [a, b] = native.socketPair()
  try {
    const size = native.setSendBuffer(a, 64 * 1024)
    // The kernel doubles it.
    expect(size).toBe(128 * 1024)
    expect(native.setSendBuffer(a, 2 ** 22)).toBeGreaterThan(size)
    for (const bytes of [0, -1, 2 ** 31, 1.5])
      expect(() => native.setSendBuffer(a, bytes)).toThrow(RangeError)
  } finally {
    for (const end of [a, b]) native.closeFd(end)
  }
  expect(() => native.setSendBuffer(a, 4096)).toThrow(expect.objectContaining({ code: "EBADF" }))
})
