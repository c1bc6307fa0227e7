import { execFileSync } from "node:child_process"
import {
  chmodSync,
  cpSync,
  linkSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs"
import { join } from "node:path"
import { gzipSync } from "node:zlib"
import { describe, expect, test } from "vitest"
import { readDiskBytes, readErofs } from "../test-support/erofs-reader.js"
import { codeOf, hasProgram, sha256, tarOf, temporaryFolder } from "../test-support/images.js"
import { ImageStore } from "./store.js"

const TAR = tarOf([
  { path: "bin/", mode: 0o700 },
  { path: "bin/x", content: Buffer.alloc(200_000, "x"), uid: 7, mode: 0o4755, mtime: 1.5 },
  { path: "l", target: "bin/x" },
])

async function setUp(limits = {}) {
  const folder = temporaryFolder()
  return { folder, store: await ImageStore.open(join(folder, "store"), { limits }) }
}

function expectEmpty(folder: string): void {
  for (const name of ["tmp", "leases", "parts", "images"])
    expect(readdirSync(join(folder, "store", name))).toEqual([])
}

async function* pieces(bytes: Buffer, size: number): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size)
}

describe("importTar", () => {
  test("makes an image of one layer, with what it is told", async () => {
    const { folder, store } = await setUp()
    writeFileSync(join(folder, "a.tar"), TAR)
    const config = { cmd: ["/bin/x"], env: ["A=b"], workingDir: "/bin" }
    const platform = { os: "linux", architecture: "arm64" }
    const image = await store.importTar(join(folder, "a.tar"), { name: "mine", config, platform })
    expect(image.config).toMatchObject({ ...config, platform })
    expect((await store.inspect("mine")).RootFS.Layers).toEqual([sha256(TAR)])
    const file = readErofs(readDiskBytes(image.disk())).get("bin/x")
    expect(file).toMatchObject({ mode: 0o104755, uid: 7, mtime: 1, nsec: 500_000_000 })
    expect(file?.content.length).toBe(200_000)
  })

  test("gives the same image however it was packed and cut", async () => {
    const { folder, store } = await setUp()
    const plain = await store.importTar(pieces(TAR, 1000))
    const packed = [gzipSync(TAR), gzipSync(TAR, { level: 1 })]
    if (hasProgram("zstd")) packed.push(execFileSync("zstd", ["-c"], { input: TAR }))
    expect(packed).toHaveLength(3)
    for (const [i, bytes] of packed.entries()) {
      writeFileSync(join(folder, `${i}`), bytes)
      expect((await store.importTar(join(folder, `${i}`))).digest).toBe(plain.digest)
      expect((await store.importTar(pieces(bytes, 1))).digest).toBe(plain.digest)
    }
  })

  test("takes what GNU tar writes", async () => {
    const { folder, store } = await setUp()
    mkdirSync(join(folder, "root"))
    writeFileSync(join(folder, "root/x"), "x")
    execFileSync("tar", ["-czf", join(folder, "a.tgz"), "-C", join(folder, "root"), "."])
    const image = await store.importTar(join(folder, "a.tgz"))
    expect(readErofs(readDiskBytes(image.disk())).get("x")?.content.toString()).toBe("x")
  })

  test.each([
    ["I1: a way out", tarOf([{ path: "../x" }]), "entry-escapes"],
    ["I4: a cut-off tar", TAR.subarray(0, 5000), "tar-truncated"],
    ["I5: a cut-off gzip", gzipSync(TAR).subarray(0, 100), "compression-invalid"],
    ["I5: something behind gzip", Buffer.concat([gzipSync(TAR), Buffer.from("x")]), "compression-invalid"],
    ["I5: gzip in gzip", gzipSync(gzipSync(TAR)), "media-type"],
    ["no tar at all", Buffer.alloc(2048, "x"), "tar-header"],
    ["nothing", Buffer.alloc(0), "source-invalid"],
  ])("refuses %s and leaves nothing", async (_, bytes, code) => {
    const { folder, store } = await setUp()
    expect(await codeOf(() => store.importTar(pieces(bytes, 4096), { name: "x" }))).toBe(code)
    expectEmpty(folder)
  })

  test("I5: bounds what comes in and what comes out of it", async () => {
    const small = await setUp({ blobBytes: 10_000 })
    expect(await codeOf(() => small.store.importTar(pieces(TAR, 4096)))).toBe("limit")
    const bomb = await setUp({ ratioFloor: 100_000, ratio: 10 })
    expect(await codeOf(() => bomb.store.importTar(pieces(gzipSync(TAR), 64)))).toBe("limit")
    for (const { folder } of [small, bomb]) expectEmpty(folder)
  })

  test("refuses a missing file, a folder, a wrong config, and ends at a signal", async () => {
    const { folder, store } = await setUp()
    const from = (source: string | Buffer, options = {}) =>
      store.importTar(typeof source === "string" ? join(folder, source) : pieces(source, 4096), options)
    expect(await codeOf(() => from("none"))).toBe("source-missing")
    expect(await codeOf(() => from("store"))).toBe("source-invalid")
    expect(await codeOf(() => from(TAR, { config: { workingDir: "x" } }))).toBe("config-invalid")
    await expect(from(TAR, { signal: AbortSignal.abort() })).rejects.toThrow(/aborted/)
    expectEmpty(folder)
  })

  test("an end of the stream closes it, a failure too", async () => {
    const { store } = await setUp()
    for (const bytes of [TAR, Buffer.alloc(100_000, "x")]) {
      let closed = false
      const source = async function* () {
        try {
          yield* pieces(bytes, 512)
        } finally {
          closed = true
        }
      }
      await codeOf(() => store.importTar(source()))
      expect(closed).toBe(true)
    }
  })
})

describe("buildRootfs", () => {
  function makeRoot(path: string): string {
    mkdirSync(join(path, "bin"), { recursive: true })
    for (const name of ["b", "a", "c.d"]) writeFileSync(join(path, "bin", name), name)
    chmodSync(join(path, "bin/a"), 0o4711)
    linkSync(join(path, "bin/a"), join(path, "hard"))
    symlinkSync("bin/a", join(path, "soft"))
    for (const name of ["bin/a", "bin/b", "bin/c.d", "bin", "."]) utimesSync(join(path, name), 1000, 1000)
    return path
  }

  test("equal folders give equal images", async () => {
    const { folder, store } = await setUp()
    const one = makeRoot(join(folder, "one"))
    cpSync(one, join(folder, "two"), { recursive: true, preserveTimestamps: true, verbatimSymlinks: true })
    const two = makeRoot(join(folder, "three"))
    const options = { latestTime: 1000, owner: { uid: 0, gid: 0 }, config: { cmd: ["/bin/a"] } }
    const [first, second] = [await store.buildRootfs(one, options), await store.buildRootfs(two, options)]
    expect(second.digest).toBe(first.digest)
    expect((await store.buildRootfs(one, { ...options, latestTime: 999 })).digest).not.toBe(first.digest)
    expect((await store.buildRootfs(one, { ...options, config: {} })).digest).not.toBe(first.digest)
    chmodSync(join(one, "bin/b"), 0o600)
    expect((await store.buildRootfs(one, options)).digest).not.toBe(first.digest)
  })

  test("cuts times down and sets owners; what is not asked for stays", async () => {
    const { folder, store } = await setUp()
    const root = makeRoot(join(folder, "root"))
    writeFileSync(join(root, "bin/b"), "new")
    const options = { name: "app", latestTime: 2000, owner: { uid: 5, gid: 6 } }
    const files = readErofs(readDiskBytes((await store.buildRootfs(root, options)).disk()))
    expect(files.get("bin/b")).toMatchObject({ mtime: 2000, nsec: 0, uid: 5, gid: 6 })
    expect(files.get("bin/a")).toMatchObject({ mtime: 1000, mode: 0o104711, nlink: 2 })
    expect(files.get("hard")?.nid).toBe(files.get("bin/a")?.nid)
    const kept = readErofs(readDiskBytes((await store.buildRootfs(root)).disk()))
    expect(kept.get("bin/b")?.uid).toBe(process.getuid?.())
    expect(kept.get("bin/b")?.mtime).toBeGreaterThan(1_600_000_000)
    expect((await store.get("app"))?.config.cmd).toEqual([])
  })

  test("without options is the image that loading the folder gives", async () => {
    const { folder, store } = await setUp()
    const root = makeRoot(join(folder, "root"))
    expect((await store.buildRootfs(root)).digest).toBe((await store.load(`rootfs:${root}`)).digest)
    expect(await codeOf(() => store.buildRootfs(join(folder, "none")))).toBe("source-missing")
    expect(readFileSync(join(root, "bin/a"), "utf8")).toBe("a")
  })
})
