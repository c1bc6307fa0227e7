import { type ChildProcess, spawn } from "node:child_process"
import { once } from "node:events"
import { existsSync, mkdtempSync, rmSync, truncateSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { VIRTIO_BLK_F_RO } from "@ts-vmm/virtio-devices/block"
import { VhostUserFrontend } from "@ts-vmm/virtio-devices/vhost-user"
import { afterAll, afterEach, beforeAll, expect, test } from "vitest"
import { type Bundle, bundle } from "../../../packages/virtio-devices/test/bundle.js"

let example: Bundle
let folder: string
const children: ChildProcess[] = []
beforeAll(async () => {
  example = await bundle(new URL("./index.ts", import.meta.url))
  folder = mkdtempSync(join(tmpdir(), "example-"))
}, 240_000)
afterAll(() => {
  example[Symbol.dispose]()
  rmSync(folder, { recursive: true })
})
afterEach(() => {
  for (const child of children.splice(0)) child.kill("SIGKILL")
})

function start(...args: string[]): ChildProcess {
  const child = spawn(process.execPath, [example.program, ...args], { stdio: ["ignore", "ignore", "pipe"] })
  children.push(child)
  return child
}

function makeDisk(): string {
  const disk = join(folder, "disk.img")
  writeFileSync(disk, "")
  truncateSync(disk, 1 << 20)
  return disk
}

test("serves a disk until it is told to stop", { timeout: 30_000 }, async () => {
  const socketPath = join(folder, "disk.sock")
  const child = start(makeDisk(), socketPath, "--read-only")
  const [line] = await once(child.stderr!, "data")
  expect(String(line)).toContain("serving")
  const frontend = await VhostUserFrontend.connect({ socketPath })
  const capacity = new DataView((await frontend.readConfig(0, 8)).slice().buffer).getBigUint64(0, true)
  expect(capacity).toBe(2048n)
  expect(frontend.offeredFeatures & VIRTIO_BLK_F_RO).not.toBe(0n)
  frontend.close()
  child.kill("SIGTERM")
  expect(await once(child, "exit")).toEqual([0, null])
  expect(existsSync(socketPath)).toBe(false)
})

test("bad use is one line and an exit code", { timeout: 30_000 }, async () => {
  for (const [args, code, text] of [
    [[], 2, "usage"],
    [[join(folder, "missing.img"), join(folder, "s")], 1, "cannot be opened"],
    [[makeDisk(), join(folder, "x".repeat(120))], 1, "socket path"],
  ] as const) {
    const child = start(...args)
    const lines: Buffer[] = []
    child.stderr!.on("data", chunk => lines.push(chunk))
    const [status] = await once(child, "close")
    expect(status).toBe(code)
    const output = Buffer.concat(lines).toString()
    expect(output).toContain(text)
    expect(output.trim().split("\n").length).toBe(1)
  }
})
