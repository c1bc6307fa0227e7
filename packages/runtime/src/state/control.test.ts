import { mkdtempSync, rmSync, statSync } from "node:fs"
import { createConnection, type Server } from "node:net"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterEach, beforeEach, describe, expect, test } from "vitest"
import { SandboxError } from "../errors.js"
import { type ControlRequest, requestControl, serveControl } from "./control.js"

let directory: string
let server: Server
let asked: ControlRequest[]
let answer: unknown
beforeEach(async () => {
  directory = mkdtempSync(join(tmpdir(), "tsv-"))
  asked = []
  server = await serveControl(directory, async request => {
    asked.push(request)
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

function talk(text: string): Promise<string> {
  return new Promise(resolve => {
    const socket = createConnection(join(directory, "ctl.sock"))
    let answer = ""
    socket.on("data", chunk => {
      answer += chunk
    })
    socket.on("error", () => resolve(answer))
    socket.on("close", () => resolve(answer))
    socket.write(text)
  })
}
