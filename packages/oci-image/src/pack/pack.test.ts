import { execFileSync } from "node:child_process"
import { chmodSync, linkSync, lutimesSync, mkdirSync, symlinkSync, writeFileSync } from "node:fs"
import { createServer } from "node:net"
import { join } from "node:path"
import fc from "fast-check"
import { describe, expect, test } from "vitest"
import { codeOf, readTar, tarOf, temporaryFolder } from "../test-support/images.js"
import { tarStream } from "./items.js"
import { packImage } from "./pack-image.js"
import { encodeTarHeader, type TarHeaderFields } from "./tar-writer.js"
import { walkFolder } from "./walk.js"

describe("tar headers", () => {
  const bytes = fc.string({
    unit: fc.integer({ min: 1, max: 255 }).map(c => String.fromCharCode(c)),
    minLength: 1,
    maxLength: 300,
  })
  const entries = fc.record({
    type: fc.constant("symlink" as const),
    path: bytes,
    linkPath: bytes,
    mode: fc.integer({ min: 0, max: 0o7777 }),
    uid: fc.integer({ min: 0, max: 0xfffffffe }),
    gid: fc.integer({ min: 0, max: 0xfffffffe }),
    size: fc.constant(0),
    mtime: fc.record({
      seconds: fc.integer({ min: -(2 ** 40), max: 2 ** 40 }),
      nanoseconds: fc.integer({ min: 0, max: 999_999_999 }),
    }),
    devmajor: fc.constant(0),
    devminor: fc.constant(0),
    xattrs: fc.option(
      fc.uint8Array({ maxLength: 200 }).map(v => new Map([["user.x", Buffer.from(v)]])),
      { nil: undefined },
    ),
  })

  test("read back as they were written, whatever the fields", () => {
    fc.assert(
      fc.property(entries, (entry: TarHeaderFields) => {
        expect(readTar(encodeTarHeader(entry))).toEqual([[entry, ""]])
      }),
      { seed: 1, numRuns: 500 },
    )
  })

  test("are what GNU tar understands", () => {
    const stream = tarOf([
      { path: "d/", mode: 0o700 },
      { path: `d/${"x".repeat(120)}`, content: "hello", uid: 3_000_000, mtime: 1_500_000_000.5 },
      { path: "l", target: "d" },
    ])
    const listing = execFileSync("tar", ["--numeric-owner", "--full-time", "-tvf", "-"], {
      input: stream,
      env: { ...process.env, TZ: "UTC" },
    }).toString()
    expect(listing).toContain("drwx------ 0/0")
    expect(listing).toMatch(/-rw-r--r-- 3000000\/0 +5 2017-07-14 02:40:00.5 d\/x{120}\n/)
    expect(listing).toContain("l -> d")
  })
})

describe("images", () => {
  test("equal input gives equal digests", async () => {
    const folder = temporaryFolder()
    const options = {
      layers: [{ files: [{ path: "a", content: "x" }] }],
      config: { cmd: ["/a"] },
      compression: "gzip" as const,
    }
    const [one, two] = [
      await packImage(join(folder, "1"), options),
      await packImage(join(folder, "2"), options),
    ]
    expect(two.digest).toBe(one.digest)
    expect((await packImage(join(folder, "3"), { ...options, config: {} })).digest).not.toBe(one.digest)
  })

  test("takes a ready-made tar stream as a layer", async () => {
    const folder = temporaryFolder()
    const packed = await packImage(folder, { layers: [{ tar: [tarOf([{ path: "a" }])] }] })
    const same = await packImage(join(folder, "same"), { layers: [{ files: [{ path: "a" }] }] })
    expect(packed.digest).toBe(same.digest)
  })

  test("a missing folder and an unwritable target are errors with their reason", async () => {
    const folder = temporaryFolder()
    expect(await codeOf(() => packImage(folder, { layers: [{ folder: join(folder, "nope") }] }))).toBe(
      "source-missing",
    )
    writeFileSync(join(folder, "file"), "")
    expect(await codeOf(() => packImage(join(folder, "file/x"), { layers: [] }))).toBe("io")
  })
})

describe("root folders", () => {
  async function walked(path: string) {
    const chunks: Buffer[] = []
    for await (const chunk of tarStream(walkFolder(path))) chunks.push(chunk)
    return readTar(Buffer.concat(chunks))
  }

  test("are walked in byte order, with owners, modes, times, links and names of any bytes; sockets are skipped", async () => {
    const folder = temporaryFolder()
    mkdirSync(join(folder, "d"))
    writeFileSync(join(folder, "d/f"), "content")
    chmodSync(join(folder, "d/f"), 0o6755)
    linkSync(join(folder, "d/f"), join(folder, "hard"))
    symlinkSync("/etc/passwd", join(folder, "sym"))
    lutimesSync(join(folder, "sym"), 5, 5)
    execFileSync("mkfifo", [join(folder, "pipe")])
    writeFileSync(Buffer.concat([Buffer.from(`${folder}/`), Buffer.from([0xff, 0x41])]), "")
    const server = createServer().listen(join(folder, "socket"))
    await new Promise(resolve => server.once("listening", resolve))
    try {
      const entries = await walked(folder)
      expect(entries.map(([e]) => [e.type, e.path])).toEqual([
        ["directory", "."],
        ["directory", "d/"],
        ["file", "d/f"],
        ["link", "hard"],
        ["fifo", "pipe"],
        ["symlink", "sym"],
        ["file", "\xffA"],
      ])
      expect(entries[2]?.[0]).toMatchObject({ mode: 0o6755, uid: process.getuid?.(), size: 7 })
      expect(entries[2]?.[1]).toBe("content")
      expect(entries[3]?.[0].linkPath).toBe("d/f")
      expect(entries[5]?.[0]).toMatchObject({
        linkPath: "/etc/passwd",
        mtime: { seconds: 5, nanoseconds: 0 },
      })
    } finally {
      server.close()
    }
  })

  test("I1: a folder inside that is a symlink is a symlink, and what it points to is not read", async () => {
    const outside = temporaryFolder()
    writeFileSync(join(outside, "secret"), "secret")
    const folder = temporaryFolder()
    symlinkSync(outside, join(folder, "dir"))
    expect((await walked(folder)).map(([e]) => [e.type, e.path])).toEqual([
      ["directory", "."],
      ["symlink", "dir"],
    ])
  })

  test("I1: a file that is replaced by a symlink after it was seen is not followed", async () => {
    const folder = temporaryFolder()
    writeFileSync(join(folder, "a"), "mine")
    const items = walkFolder(folder)
    await items.next()
    const { value: item } = await items.next()
    execFileSync("ln", ["-sf", "/etc/passwd", join(folder, "a")])
    const read = async () => {
      for await (const _ of item?.content ?? []) throw new Error("was read")
    }
    await expect(read()).rejects.toThrow(/ELOOP|replaced/)
    await items.return(undefined)
  })

  test("a file that grows while it is read is an error, not a broken archive", async () => {
    const folder = temporaryFolder()
    writeFileSync(join(folder, "a"), Buffer.alloc(600_000))
    const read = async () => {
      let chunks = 0
      // The first chunk is the header of the folder, the second that of the file.
      for await (const _ of tarStream(walkFolder(folder))) {
        if (++chunks === 2) writeFileSync(join(folder, "a"), Buffer.alloc(700_000))
      }
    }
    expect(await codeOf(read)).toBe("source-invalid")
  })
})
