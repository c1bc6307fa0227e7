import { mkdtempSync, rmSync, statSync } from "node:fs"
import { createConnection, type Server } from "node:net"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterEach, beforeEach, describe, expect, test } from "vitest"
import { SandboxError } from "../errors.js"
import { receiveControl, requestControl, sendControl } from "./ask-control.js"
import { type ControlStreams, serveControl } from "./control.js"
import type { ControlRequest } from "./control-protocol.js"

let directory: string
let server: Server
let asked: ControlRequest[]
let answer: unknown
let copy: (streams: ControlStreams) => Promise<unknown>
/** For what comes soon, unless the machine has much else to do. */
const SOON = { timeout: 20_000, interval: 10 }
beforeEach(async () => {
  directory = mkdtempSync(join(tmpdir(), "tsv-"))
  asked = []
  server = await serveControl(directory, async (request, streams) => {
    asked.push(request)
    if (request.op === "copy-in" || request.op === "copy-out") return copy(streams)
    if (request.op === "kill") throw new SandboxError("stopped", "too late")
    return request.op === "diff" ? answer : undefined
  })
})
afterEach(() => {
  server.close()
  rmSync(directory, { recursive: true })
})

describe("the control socket", () => {
  test("R1: is 0600", () => expect(statSync(join(directory, "ctl.sock")).mode & 0o777).toBe(0o600))

  test("hands a request to the owner", async () => {
    await requestControl(directory, { op: "signal", signal: 15 })
    expect(asked).toEqual([{ op: "signal", signal: 15 }])
  })

  test("hands the owner's error back", async () => {
    await expect(requestControl(directory, { op: "kill" })).rejects.toMatchObject({
      code: "stopped",
      message: "too late",
    })
  })

  test("hands the owner's answer back, also a long one, and says when it is too long", async () => {
    for (answer of [[], [{ path: "/a\n\u{1f600}" }], "x".repeat(1_000_000)])
      expect(await requestControl(directory, { op: "diff" })).toEqual(answer)
    answer = "x".repeat(64 * 1024 * 1024)
    await expect(requestControl(directory, { op: "diff" })).rejects.toMatchObject({
      code: "output-too-large",
    })
  })

  test("nobody there is `stopped`", async () => {
    await expect(requestControl(join(directory, "none"), { op: "kill" })).rejects.toMatchObject({
      code: "stopped",
    })
  })

  test.each([
    ["no JSON", "hello\n"],
    ["an unknown request", '{"op":"format"}\n'],
    ["a wrong type", '{"op":"signal","signal":"9; rm"}\n'],
    ["null", "null\n"],
  ])("R4: %s is answered with an error and does nothing", async (_, line) => {
    expect(JSON.parse(await talk(line))).toMatchObject({ ok: false })
    expect(asked).toEqual([])
  })

  test("R2: an endless line ends the connection", async () => {
    expect(await talk("x".repeat(100_000))).toBe("")
    expect(asked).toEqual([])
  })
})

describe("what is copied over the control socket", () => {
  const IN: ControlRequest = { op: "copy-in", options: { path: "/x", name: "n", contents: true } }
  const OUT: ControlRequest = { op: "copy-out", options: { path: "/x" } }
  const chunks = [Buffer.alloc(3_000_000, 1), Buffer.from("end"), Buffer.alloc(0), Buffer.from("\n{}")]

  async function* source(error?: Error): AsyncGenerator<Buffer> {
    for (const chunk of chunks) yield chunk
    if (error) throw error
  }

  async function all(from: AsyncIterable<Buffer>): Promise<Buffer> {
    const parts: Buffer[] = []
    for await (const part of from) parts.push(part)
    return Buffer.concat(parts)
  }

  test("arrives whole, in both directions", async () => {
    copy = async streams => (await all(streams.received())).equals(Buffer.concat(chunks))
    expect(await sendControl(directory, IN, source())).toBe(true)
    copy = streams => streams.send(source())
    expect((await all(receiveControl(directory, OUT))).equals(Buffer.concat(chunks))).toBe(true)
    expect(asked).toEqual([IN, OUT])
  })

  test("an owner that fails is heard, however much is still to be sent", async () => {
    async function* endless(): AsyncGenerator<Buffer> {
      for (;;) yield Buffer.alloc(100_000)
    }
    copy = async streams => {
      for await (const chunk of streams.received())
        if (chunk.length > 0) throw new SandboxError("no-space", "full")
    }
    await expect(sendControl(directory, IN, endless())).rejects.toMatchObject({ code: "no-space" })
    copy = streams => streams.send(source(new SandboxError("guest-died", "gone")))
    await expect(all(receiveControl(directory, OUT))).rejects.toMatchObject({ code: "guest-died" })
  })

  test("a source that fails, and a peer that goes, are no end of the stream", async () => {
    const ended: unknown[] = []
    copy = streams => all(streams.received()).catch(error => ended.push(error.message))
    await expect(sendControl(directory, IN, source(new RangeError("mine")))).rejects.toThrow(RangeError)
    await expect.poll(() => ended, SOON).toEqual(["the peer hung up"])
    copy = async streams => {
      await streams.send(endlessly()).catch(error => ended.push(error.code))
    }
    let returned = false
    async function* endlessly(): AsyncGenerator<Buffer> {
      try {
        for (;;) yield Buffer.alloc(100_000)
      } finally {
        returned = true
      }
    }
    for await (const chunk of receiveControl(directory, OUT)) if (chunk.length > 0) break
    await expect.poll(() => returned, SOON).toBe(true)
  })

  test.each([
    ["a frame that is too long", "\x7f\xff\xff\xff"],
    ["half a frame", "\0\0\0\x05ab"],
    ["half a length", "\0"],
  ])("R4: %s fails what reads it", async (_what, bytes) => {
    copy = async streams => (await all(streams.received())).length
    const line = `${JSON.stringify(IN)}\n`
    expect(JSON.parse(await talk(line + bytes, true))).toMatchObject({ ok: false })
  })
})

function talk(text: string, end = false): Promise<string> {
  return new Promise(resolve => {
    const socket = createConnection(join(directory, "ctl.sock"))
    let answer = ""
    socket.on("data", chunk => {
      answer += chunk
    })
    socket.on("error", () => resolve(answer))
    socket.on("close", () => resolve(answer))
    socket.write(text, "latin1")
    if (end) socket.end()
  })
}
