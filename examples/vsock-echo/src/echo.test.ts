import { existsSync, mkdtempSync, rmSync, statSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { RingGuest } from "@ts-vmm/vsock/testing"
import { afterEach, beforeEach, expect, test } from "vitest"
import { ECHO_PORT, serveEcho } from "./echo.js"

let folder: string

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "vsock-echo-"))
})

afterEach(() => {
  rmSync(folder, { recursive: true })
})

test("what a guest sends comes back, and the end of it is reported", async () => {
  const lines: string[] = []
  using service = serveEcho(join(folder, "vsock.sock"), line => lines.push(line))
  using ring = new RingGuest(service.vsock)
  let got = ""

  const socket = await ring.guest.connect(ECHO_PORT, { onData: bytes => (got += Buffer.from(bytes)) })
  socket.write(Buffer.from("hello, host"))
  socket.shutdown()
  await ring.settle()

  expect(got).toBe("hello, host")
  expect(lines).toEqual([`guest port ${socket.port}: 11 bytes echoed`])
  expect(socket.closed).toBe(true)
})

test("the vhost-user socket is private, and gone afterwards", () => {
  const path = join(folder, "vsock.sock")
  const service = serveEcho(path, () => undefined)
  expect(statSync(path).mode & 0o777).toBe(0o600)

  service[Symbol.dispose]()

  expect(existsSync(path)).toBe(false)
})
