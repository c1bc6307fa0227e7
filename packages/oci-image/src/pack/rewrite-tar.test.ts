import { execFileSync } from "node:child_process"
import { mkdirSync, symlinkSync, truncateSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { gzipSync } from "node:zlib"
import { describe, expect, test } from "vitest"
import { codeOf, temporaryFolder } from "../test-support/images.js"
import { END, rawEntry } from "../test-support/raw-tar.js"
import { tarStream } from "./items.js"
import { rewriteTar } from "./rewrite-tar.js"
import { walkTree } from "./walk.js"

const MAX = 2 ** 28

async function rewritten(stream: Buffer, size = 777): Promise<Buffer> {
  async function* cut() {
    for (let at = 0; at < stream.length; at += size) yield stream.subarray(at, at + size)
  }
  return all(rewriteTar(cut()))
}

async function all(chunks: AsyncIterable<Buffer>): Promise<Buffer> {
  const parts: Buffer[] = []
  for await (const chunk of chunks) parts.push(Buffer.from(chunk))
  return Buffer.concat(parts)
}

/** What GNU tar sees in a stream, content included. */
function seen(stream: Buffer): string {
  const options = { input: stream, encoding: "utf8", maxBuffer: MAX } as const
  const list = execFileSync("tar", ["--numeric-owner", "--full-time", "-tvf", "-"], options)
  return list.replace(/ +/g, " ") + execFileSync("tar", ["--to-command=md5sum", "-xf", "-"], options)
}

function folder(): string {
  const root = join(temporaryFolder(), "root")
  mkdirSync(join(root, "e"), { recursive: true })
  writeFileSync(join(root, "e", "n".repeat(120)), "long")
  writeFileSync(join(root, "holes"), "begin")
  truncateSync(join(root, "holes"), 3_000_000)
  writeFileSync(join(root, "holes"), "end", { flag: "a" })
  symlinkSync("../..", join(root, "link"))
  return root
}

describe("rewriting a tar stream", () => {
  test.each([
    "--format=gnu",
    "--format=posix",
    "--format=gnu -S",
    "--format=posix -S",
    "--format=posix -S -z",
  ])("what GNU tar writes with %s means the same and has one form", async text => {
    const options = text.split(" ")
    const root = folder()
    const stream = execFileSync("tar", [...options, "-C", root, "-c", "."], { maxBuffer: MAX })
    const plain = await rewritten(stream)
    const tar = options.includes("-z")
      ? execFileSync("gzip", ["-d"], { input: stream, maxBuffer: MAX })
      : stream
    expect(seen(plain)).toBe(seen(tar))
    expect(plain.includes("GNU.sparse")).toBe(false)
    expect(plain.includes("ustar  \0")).toBe(false)
    expect((await rewritten(plain)).equals(plain)).toBe(true)
  })

  test("devices, emptiness, half a stream and two meanings are refused", async () => {
    const device = Buffer.concat([rawEntry({ type: "3" }), END])
    expect(await codeOf(() => rewritten(device))).toBe("entry-device")
    expect(await codeOf(() => rewritten(Buffer.alloc(0)))).toBe("source-invalid")
    expect(await codeOf(() => rewritten(rawEntry({}, "x".repeat(600)).subarray(0, 700)))).toBe(
      "tar-truncated",
    )
    expect(await codeOf(() => rewritten(gzipSync(rawEntry({}, "x")).subarray(0, 20)))).toBe(
      "compression-invalid",
    )
  })
})

describe("walking a tree under another name", () => {
  test("a folder, a file, a link; what is not there", async () => {
    const root = folder()
    const names = async (path: string) =>
      execFileSync("tar", ["-tf", "-"], {
        input: await all(tarStream(walkTree(path, "new"))),
        encoding: "utf8",
      })
        .trim()
        .split("\n")
    expect(await names(root)).toEqual(["new/", "new/e/", `new/e/${"n".repeat(120)}`, "new/holes", "new/link"])
    expect(await names(join(root, "holes"))).toEqual(["new"])
    expect(await names(join(root, "link"))).toEqual(["new"])
    expect(await codeOf(() => names(join(root, "none")))).toBe("source-missing")
    expect(await codeOf(() => names(join(root, "holes/x")))).toBe("source-missing")
  })
})
