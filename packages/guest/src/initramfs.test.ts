import { execFileSync } from "node:child_process"
import { mkdtempSync, readFileSync, readlinkSync, rmSync, statSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterEach, beforeEach, describe, expect, test } from "vitest"
import { type InitramfsEntry, writeInitramfs } from "./initramfs.js"

const ENTRIES: InitramfsEntry[] = [
  { type: "directory", path: "dev", mode: 0o755 },
  { type: "character-device", path: "dev/console", mode: 0o600, major: 5, minor: 1 },
  { type: "block-device", path: "dev/vda", mode: 0o660, major: 254, minor: 0 },
  { type: "directory", path: "bin", mode: 0o1777 },
  { type: "file", path: "bin/odd", mode: 0o4755, data: Buffer.from("12345") },
  { type: "file", path: "empty", mode: 0o400, data: new Uint8Array() },
  { type: "symlink", path: "init", target: "bin/odd" },
]

function hasCpio(): boolean {
  try {
    execFileSync("cpio", ["--version"], { stdio: "ignore" })
    return true
  } catch {
    return false
  }
}

describe("initramfs writer", () => {
  let dir: string
  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), "tsvmm-cpio-"))
  })
  afterEach(() => rmSync(dir, { recursive: true, force: true }))

  test.skipIf(!hasCpio())("writes what the system's cpio lists (skipped without cpio)", () => {
    const input = writeInitramfs(ENTRIES)
    const lines = execFileSync("cpio", ["-itv", "--numeric-uid-gid", "--quiet"], {
      input,
      encoding: "utf8",
      env: { TZ: "UTC" },
    })
    const found = lines
      .trim()
      .split("\n")
      .map(line => line.replace(/\s+/g, " "))
    expect(found).toEqual([
      "drwxr-xr-x 2 0 0 0 Jan 1 1970 dev",
      "crw------- 1 0 0 5, 1 Jan 1 1970 dev/console",
      "brw-rw---- 1 0 0 254, 0 Jan 1 1970 dev/vda",
      "drwxrwxrwt 2 0 0 0 Jan 1 1970 bin",
      "-rwsr-xr-x 1 0 0 5 Jan 1 1970 bin/odd",
      "-r-------- 1 0 0 0 Jan 1 1970 empty",
      "lrwxrwxrwx 1 0 0 7 Jan 1 1970 init -> bin/odd",
    ])
  })

  test.skipIf(!hasCpio())("unpacks with the system's cpio to the same bytes (skipped without cpio)", () => {
    const input = writeInitramfs(ENTRIES.filter(entry => !entry.type.endsWith("device")))
    execFileSync("cpio", ["-id", "--quiet"], { input, cwd: dir })
    expect(readFileSync(join(dir, "init"), "utf8")).toBe("12345")
    expect(readlinkSync(join(dir, "init"))).toBe("bin/odd")
    expect(statSync(join(dir, "empty")).size).toBe(0)
  })

  test("is reproducible, and aligned to 4 bytes", () => {
    const image = writeInitramfs(ENTRIES)
    expect(Buffer.compare(image, writeInitramfs(ENTRIES))).toBe(0)
    expect(image.length % 4).toBe(0)
  })

  test.each(["/init", "a//b", "../x", "./x", "", "a/../b", "x\0y", "TRAILER!!!", "p".repeat(4096)])(
    "refuses the path %j",
    path => {
      const entry: InitramfsEntry = { type: "file", path, mode: 0o644, data: new Uint8Array() }
      expect(() => writeInitramfs([entry])).toThrow(expect.objectContaining({ code: "invalid-argument" }))
    },
  )

  test("refuses a path twice, a child before its directory, and a device number out of range", () => {
    const file = (path: string): InitramfsEntry => ({
      type: "file",
      path,
      mode: 0o644,
      data: new Uint8Array(),
    })
    const device: InitramfsEntry = { type: "character-device", path: "d", mode: 0o600, major: -1, minor: 0 }
    for (const entries of [[file("a"), file("a")], [file("dir/a")], [device]]) {
      expect(() => writeInitramfs(entries)).toThrow(expect.objectContaining({ code: "invalid-argument" }))
    }
  })
})
