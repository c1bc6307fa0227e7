import {
  chmodSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterEach, beforeEach, describe, expect, test } from "vitest"
import {
  END,
  padded,
  paxRecord,
  rawEntry,
  rawHeader,
  rawPax,
} from "../../../oci-image/src/test-support/raw-tar.js"
import { type UnpackOptions, unpackCopy } from "./unpack.js"

let place: string
let target: string
beforeEach(() => {
  place = mkdtempSync(join(tmpdir(), "tsv-"))
  target = join(place, "target")
  mkdirSync(target)
  mkdirSync(join(place, "outside"))
  writeFileSync(join(place, "outside/secret"), "secret", { mode: 0o600 })
})
afterEach(() => rmSync(place, { recursive: true }))

const tar = (...parts: Buffer[]) => Buffer.concat([...parts, END])
const dir = (name: string, mode = 0o755) => rawEntry({ name, type: "5", mode })
const link = (name: string, to: string) => rawEntry({ name, type: "2", linkname: to })
const hard = (name: string, to: string) => rawEntry({ name, type: "1", linkname: to })

async function* cut(stream: Buffer, size: number): AsyncGenerator<Buffer> {
  for (let at = 0; at < stream.length; at += size) yield stream.subarray(at, at + size)
}

const unpack = (stream: Buffer, to = target, options: Partial<UnpackOptions> = {}) =>
  unpackCopy(cut(stream, 700), to, { path: "/x/d", ...options })

/** All that lies in the test's folder outside the target. */
function outside(): string[] {
  const list = (path: string): string[] =>
    readdirSync(path).flatMap(name => {
      const at = join(path, name)
      const stat = lstatSync(at)
      const line = `${at} ${stat.mode} ${stat.nlink} ${stat.isFile() ? readFileSync(at) : ""} ${stat.mtimeMs}`
      return stat.isDirectory() && at !== target ? [line, ...list(at)] : [at === target ? at : line]
    })
  return list(place)
}

/** Files and folders of the test's folder that this process has open; what else it opens and closes is not looked at. */
const openHere = (): string[] =>
  readdirSync("/proc/self/fd").flatMap(fd => {
    try {
      const path = readlinkSync(`/proc/self/fd/${fd}`)
      return path.startsWith(place) ? [path] : []
    } catch {
      return [] // the one that lists them
    }
  })

describe("what a guest copies out", () => {
  test("keeps content, mode, times and links; takes setuid and setgid away", async () => {
    const big = Buffer.alloc(200_000)
    big.write("begin")
    big.write("end", big.length - 3)
    const stream = tar(
      rawEntry({ name: "d/", type: "5", mode: 0o1710, mtime: 1_000_000_000 }),
      rawPax(paxRecord("mtime", "1500000000.123456789")),
      rawEntry({ name: "d/f", mode: 0o6755 }, "text"),
      hard("d/h", "d/f"),
      link("d/l", "/etc/passwd"),
      rawHeader({ name: "d/big", size: big.length, mode: 0o600 }),
      padded(big),
    )
    expect(await unpack(stream)).toEqual({ bytes: stream.length })
    const d = join(target, "d")
    expect([statSync(d).mode & 0o7777, statSync(d).mtimeMs]).toEqual([0o1710, 1_000_000_000_000])
    const f = statSync(join(d, "f"), { bigint: true })
    expect([Number(f.mode) & 0o7777, f.mtimeNs, f.nlink]).toEqual([0o755, 1500000000123456789n, 2n])
    expect(readlinkSync(join(d, "l"))).toBe("/etc/passwd")
    expect(readFileSync(join(d, "big")).equals(big)).toBe(true)
    expect(statSync(join(d, "big")).blocks * 512).toBeLessThan(100_000)
  })

  const FILE = tar(rawEntry({ name: "d" }, "new"))
  const FOLDER = tar(dir("d/", 0o700), rawEntry({ name: "d/a" }, "a"))
  const ROOT = tar(rawEntry({ name: "a" }, "a"))

  test.each([
    ["a file to a name that is not there", FILE, "name", "name"],
    ["a file over a file", FILE, "file", "file"],
    ["a file into a folder", FILE, "dir", "dir/d"],
    ["a file into the folder that a link leads to", FILE, "todir", "dir/d"],
    ["a file over the file that a link leads to", FILE, "tofile", "file"],
    ["a folder to a name that is not there", FOLDER, "name/", "name/a"],
    ["a folder into a folder", FOLDER, "dir", "dir/d/a"],
    ["a folder's contents into a folder", FOLDER, "dir", "dir/a", "/x/d/."],
    ["a folder's contents to a name that is not there", FOLDER, "name", "name/a", "/x/d/."],
    ["a root into a folder", ROOT, "dir", "dir/a", "/"],
    ["a root to a name that is not there", ROOT, "name", "name/a", "/x/.."],
  ])("docker's rules: %s", async (_what, stream, to, at, path = "/x/d") => {
    oldTarget()
    await unpack(stream, join(target, to), { path })
    expect(readFileSync(join(target, at), "utf8")).toBe(stream === FILE ? "new" : "a")
    expect(readlinkSync(join(target, "tofile"))).toBe("file")
  })

  test.each([
    ["a folder over a file", FOLDER, "file", "cannot copy a directory to a file"],
    ["a file to a folder that is not there", FILE, "none/", "no such directory"],
    ["a file below a folder that is not there", FILE, "none/x", "no such directory"],
    ["a file below a file", FILE, "file/x", "not a directory"],
    ["a folder of the same name", FILE, "has", "cannot overwrite a directory"],
    ["a file of the same name", FOLDER, "hasfile", "not a directory"],
  ])("docker's rules: %s is refused", async (_what, stream, to, message) => {
    oldTarget()
    mkdirSync(join(target, "has/d"), { recursive: true })
    mkdirSync(join(target, "hasfile"))
    writeFileSync(join(target, "hasfile/d"), "")
    await expect(unpack(stream, join(target, to))).rejects.toMatchObject({
      code: "copy-failed",
      message: expect.stringContaining(message),
    })
    expect(readFileSync(join(target, "file"), "utf8")).toBe("old")
  })

  function oldTarget(): void {
    mkdirSync(join(target, "dir"))
    writeFileSync(join(target, "file"), "old")
    symlinkSync("dir", join(target, "todir"))
    symlinkSync("file", join(target, "tofile"))
  }

  test("folders that are there keep mode and time, files that are there are replaced and not written to", async () => {
    mkdirSync(join(target, "d"))
    chmodSync(join(target, "d"), 0o750)
    symlinkSync(join(place, "outside/secret"), join(target, "d/f"))
    await unpack(tar(dir("d", 0o777), rawEntry({ name: "d/f" }, "new")))
    expect(statSync(join(target, "d")).mode & 0o777).toBe(0o750)
    expect(readFileSync(join(target, "d/f"), "utf8")).toBe("new")
    expect(readFileSync(join(place, "outside/secret"), "utf8")).toBe("secret")
  })

  test("devices, FIFOs and hard links to them are left out and told", async () => {
    const skipped: string[] = []
    const stream = tar(
      dir("d"),
      rawEntry({ name: "d/tty\u001b[31m\n", type: "3", devmajor: 5 }),
      rawEntry({ name: "d/sda", type: "4", devmajor: 8 }),
      rawEntry({ name: "d/pipe", type: "6" }),
      hard("d/again", "d/pipe"),
      rawEntry({ name: "d/f" }, "x"),
    )
    await unpack(stream, target, { onSkip: path => skipped.push(path) })
    expect(skipped).toEqual(['"d/tty\\x1b[31m\\x0a"', '"d/sda"', '"d/pipe"', '"d/again"'])
    expect(readdirSync(join(target, "d"))).toEqual(["f"])
  })

  const evil = (name: string) => rawEntry({ name }, "evil")
  const up = "../".repeat(20)
  test.each<readonly [string, Buffer]>([
    ["a name that climbs", tar(dir("d"), evil("d/../../outside/secret"))],
    ["a name that begins with a climb", tar(evil("../outside/secret"))],
    ["another name than was asked for", tar(dir("d"), evil("other"))],
    ["another first name than was asked for", tar(evil("passwd"))],
    ["an absolute name", tar(evil("/etc/evil"))],
    ["a file through a link", tar(dir("d"), link("d/l", "../../outside"), evil("d/l/secret"))],
    ["a folder through a link", tar(dir("d"), link("d/l", "../../outside"), dir("d/l/new"))],
    ["a link in place of the folder", tar(link("d", "../outside"), evil("d/secret"))],
    ["a folder over a link", tar(dir("d"), link("d/l", "../../outside"), dir("d/l", 0o777))],
    ["a link through a link", tar(dir("d"), link("d/l", "../../outside"), link("d/l/evil", "x"))],
    ["a hard link that climbs", tar(dir("d"), hard("d/h", "d/../../outside/secret"))],
    ["a hard link to another name", tar(dir("d"), hard("d/h", "outside/secret"))],
    [
      "a hard link through a link",
      tar(dir("d"), link("d/l", `${up}${"x"}`), link("d/o", "../../outside"), hard("d/h", "d/o/secret")),
    ],
    ["a hard link to a folder", tar(dir("d"), dir("d/e"), hard("d/h", "d/e"))],
    ["a hard link to all of it", tar(dir("d"), hard("d/h", "d/."))],
    ["a name that is none", tar(dir("d"), evil("d/."), evil("."))],
    ["a file over its own folder", tar(dir("d"), dir("d/e"), evil("d/e"))],
    ["folders too deep", tar(dir("d"), rawPax(paxRecord("path", `d/${"a/".repeat(600)}`)), dir("x"))],
    ["a path too long", tar(dir("d"), rawPax(paxRecord("path", `d/${"a/".repeat(2100)}`)), dir("x"))],
    ["a name too long", tar(dir("d"), rawPax(paxRecord("path", `d/${"a".repeat(300)}`)), evil("x"))],
    ["a NUL in a name", tar(dir("d"), rawPax(paxRecord("path", "d/a\0b")), evil("x"))],
    ["an empty link", tar(dir("d"), link("d/l", ""))],
    ["a wrong checksum", tar(dir("d"), rawHeader({ name: "d/x", checksum: "0000001\0" }))],
    [
      "a size that is too large",
      tar(dir("d"), rawPax(paxRecord("size", "9007199254740991")), rawHeader({ name: "d/x" })),
    ],
    [
      "half a file",
      Buffer.concat([dir("d"), rawHeader({ name: "d/half", size: 5000 }), Buffer.alloc(600, 1)]),
    ],
    ["two meanings", tar(dir("d"), rawPax(paxRecord("size", "512")), rawHeader({ name: "d/x" }))],
    ["a sparse file", tar(dir("d"), rawEntry({ name: "d/s", type: "S" }))],
    ["something after the end", Buffer.concat([tar(dir("d")), evil("d/x")])],
    ["nothing", END],
    ["no tar stream", Buffer.alloc(2048, 0x41)],
  ])("%s is refused, and nothing outside the target changes", async (_what, stream) => {
    const before = outside()
    await expect(unpack(stream)).rejects.toMatchObject({ code: "copy-failed" })
    expect(outside()).toEqual(before)
    const found = readdirSync(target, { recursive: true, encoding: "utf8" })
    expect(found.filter(name => /half|evil/.test(name))).toEqual([])
    expect(openHere()).toEqual([])
  })

  test("content is bounded, and what the stream throws is thrown", async () => {
    const stream = tar(
      dir("d"),
      rawEntry({ name: "d/a" }, "x".repeat(600)),
      rawEntry({ name: "d/b" }, "x".repeat(600)),
    )
    await expect(unpack(stream, target, { maxBytes: 1000 })).rejects.toMatchObject({
      code: "copy-failed",
      message: '"d/b": the copy has more than 1000 bytes',
    })
    async function* failing() {
      yield dir("d")
      throw new RangeError("guest")
    }
    await expect(unpackCopy(failing(), target, { path: "/d" })).rejects.toThrow(RangeError)
  })
})
