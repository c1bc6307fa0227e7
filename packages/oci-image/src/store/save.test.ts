import { execFileSync } from "node:child_process"
import { readdirSync, readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { PassThrough } from "node:stream"
import { buffer } from "node:stream/consumers"
import { describe, expect, test } from "vitest"
import { packImage } from "../pack/pack-image.js"
import { readDiskBytes } from "../test-support/erofs-reader.js"
import { codeOf, readTar, sha256, tarOf, temporaryFolder } from "../test-support/images.js"
import { ownedName } from "./owner.js"
import type { SaveFormat } from "./save.js"
import { ImageStore } from "./store.js"

const FORMATS: readonly SaveFormat[] = ["oci-archive", "docker-archive"]
const SHARED = { files: [{ path: "a", content: "one" }] }

/** Two images, gzip and plain, that have a layer's content in common. */
async function setUp(options = {}) {
  const folder = temporaryFolder()
  const file = join(folder, "saved.tar")
  const big = { files: [{ path: "big", content: Buffer.alloc(3_000_000, "x") }, { path: ".wh.a" }] }
  await packImage(join(folder, "one"), { layers: [SHARED, big, SHARED], compression: "gzip" })
  await packImage(join(folder, "two"), { layers: [SHARED], config: { cmd: ["/a"] } })
  const store = await ImageStore.open(join(folder, "store"), options)
  const one = await store.load(`oci:${join(folder, "one")}`, { name: "one" })
  const two = await store.load(`oci:${join(folder, "two")}`, { name: "host.example/two:2" })
  return { folder, file, store, one, two }
}

const fresh = (folder: string) => ImageStore.open(join(folder, "fresh"))

describe("save", () => {
  test.each(FORMATS)("%s: several images and their names come back", async format => {
    const { store, folder, file, one, two } = await setUp()
    await store.tag("one", "one:again")
    await store.save(["one", "one:again", two.digest], file, { format })

    const other = await fresh(folder)
    const loaded = await other.loadArchive(file, { names: "take" })

    const names = ["docker.io/library/one:again", "docker.io/library/one:latest"]
    const [first, second] = loaded[0]?.names.length === 2 ? loaded : loaded.toReversed()
    expect([first?.names, second?.names]).toEqual([names, []])
    expect([first?.image.configDigest, second?.image.configDigest]).toEqual([
      one.configDigest,
      two.configDigest,
    ])
    if (format === "oci-archive") expect(first?.image.digest).toBe(one.digest)
    expect((await other.get("one"))?.digest).toBe(first?.image.digest)
    expect((await other.inspect("one")).RootFS).toEqual((await store.inspect("one")).RootFS)
    const [again, before] = [first?.image.disk(), one.disk()].map(disk => disk && readDiskBytes(disk).length)
    expect(again).toBe(before)
  })

  test.each(FORMATS)("%s: equal images give equal bytes, in a file and in a stream", async format => {
    const { store, file } = await setUp()
    await store.save(["one", "host.example/two:2"], file, { format })
    const stream = new PassThrough()
    const [bytes] = await Promise.all([
      buffer(stream),
      store.save(["host.example/two:2", "one", "one"], stream, { format }),
    ])
    expect(sha256(bytes)).toBe(sha256(readFileSync(file)))
  })

  test("docker-archive: layers are unpacked, named by their digest, each once", async () => {
    const { store, file, one } = await setUp()
    await store.save(["one", "host.example/two:2"], file, { format: "docker-archive" })
    const files = new Map(readTar(readFileSync(file)).map(([entry, content]) => [entry.path, content]))
    const manifest = JSON.parse(files.get("manifest.json") ?? "") as { Layers: string[]; Config: string }[]
    const { Layers: diffIds } = (await store.inspect("one")).RootFS
    expect(manifest).toHaveLength(2)
    const own = manifest.find(entry => entry.Config === `${one.configDigest.slice(7)}.json`)
    expect(own).toMatchObject({ RepoTags: ["docker.io/library/one:latest"] })
    expect(own?.Layers).toEqual(diffIds.map(diffId => `${diffId.slice(7)}/layer.tar`))
    for (const [i, path] of (own?.Layers ?? []).entries())
      expect(sha256(Buffer.from(files.get(path) ?? "", "latin1"))).toBe(diffIds[i])
    expect([...files.keys()].filter(path => path.endsWith("layer.tar"))).toHaveLength(2)
  })

  test.each(FORMATS)("%s: GNU tar lists it without complaint", async format => {
    const { store, file } = await setUp()
    await store.save(["one"], file, { format })
    const listing = execFileSync("tar", ["-tvf", file], { encoding: "utf8", env: { TZ: "UTC" } })
    expect(listing).toContain(format === "oci-archive" ? "index.json" : "manifest.json")
    expect(new Set(listing.match(/\d{4}-\d\d-\d\d/g))).toEqual(new Set(["1970-01-01"]))
  })

  test.each(FORMATS)("%s: without kept blobs it is refused and nothing is written", async format => {
    const { store, folder, file } = await setUp({ keepBlobs: false })
    expect(await codeOf(() => store.save(["one"], file, { format }))).toBe("store-no-blob")
    expect(readdirSync(folder).sort()).toEqual(["one", "store", "two"])
  })

  test.each(FORMATS)("I8: %s: damaged blobs are refused, and the file that was there stays", async format => {
    const { store, folder, file, one } = await setUp()
    writeFileSync(file, "before")
    const blob = join(folder, "store/blobs/sha256", (one.layers[1] as string).slice(7))
    const bytes = readFileSync(blob)
    bytes[bytes.length - 1] = ~(bytes[bytes.length - 1] as number)
    writeFileSync(blob, bytes)
    expect(await codeOf(() => store.save(["one"], file, { format }))).toBe("digest-mismatch")
    expect(readFileSync(file, "utf8")).toBe("before")
    expect(readdirSync(folder).sort()).toEqual(["one", "saved.tar", "store", "two"])
  })

  test("refuses what is not there, and ends at a signal", async () => {
    const { store, file, folder } = await setUp()
    expect(await codeOf(() => store.save(["one", "none"], file))).toBe("not-found")
    expect(await codeOf(() => store.save(["one"], join(folder, "no/such/file")))).toBe("io")
    await expect(store.save(["one"], file, { signal: AbortSignal.abort() })).rejects.toThrow(/aborted/)
    expect(readdirSync(folder)).not.toContain("saved.tar")
    expect(readdirSync(join(folder, "store/leases"))).toEqual([])
  })

  test("I14: what a dead process left beside the file goes, a living one's work stays", async () => {
    const { store, folder, file } = await setUp()
    const living = ownedName()
    const dead = living.replace(/^\d+-\d+/, "999999999-1")
    const [gone, ...stay] = [`.ts-vmm-save-${dead}`, `.ts-vmm-save-${living}`, `other-${dead}`] as const
    for (const name of [gone, ...stay]) writeFileSync(join(folder, name), "")
    await store.save(["one"], file)
    expect(readdirSync(folder)).not.toContain(gone)
    expect(readdirSync(folder)).toEqual(expect.arrayContaining(stay))
  })
})

describe("loadArchive", () => {
  const archiveOf = (tags: unknown) => {
    const layer = tarOf([{ path: "a" }])
    const config = JSON.stringify({
      ...{ architecture: "amd64", os: "linux" },
      rootfs: { type: "layers", diff_ids: [sha256(layer)] },
    })
    const entry = { Config: "c.json", Layers: ["l.tar"], RepoTags: tags }
    return tarOf([
      { path: "manifest.json", content: JSON.stringify([entry]) },
      { path: "c.json", content: config },
      { path: "l.tar", content: layer },
    ])
  }

  test("I15: names are used only when they are asked for", async () => {
    const { store, folder, file, one } = await setUp()
    writeFileSync(file, archiveOf(["one:latest"]))
    expect((await store.loadArchive(file)).map(entry => entry.names)).toEqual([[]])
    expect((await store.get("one"))?.digest).toBe(one.digest)
    expect((await store.loadArchive(file, { names: "take" })).map(entry => entry.names)).toEqual([
      ["docker.io/library/one:latest"],
    ])
    expect((await store.get("one"))?.digest).not.toBe(one.digest)
    expect(readdirSync(join(folder, "store/leases"))).toEqual([])
  })

  test.each([[["../../x"]], [["ok:1", "Not A Name"]], [[""]], [["a:b:c"]], [["x\ny"]]])(
    "I15: bad names are refused before anything is loaded: %j",
    async tags => {
      const folder = temporaryFolder()
      const store = await fresh(folder)
      writeFileSync(join(folder, "a.tar"), archiveOf(tags))
      expect(await codeOf(() => store.loadArchive(join(folder, "a.tar"), { names: "take" }))).toBe(
        "reference-invalid",
      )
      expect(await store.list()).toEqual([])
      expect(readdirSync(join(folder, "fresh/parts"))).toEqual([])
      expect(await store.loadArchive(join(folder, "a.tar"))).toHaveLength(1)
    },
  )

  test("a mere tag names nothing, and a name with a digest is left out", async () => {
    const folder = temporaryFolder()
    const digest = `sha256:${"0".repeat(64)}`
    const store = await fresh(folder)
    writeFileSync(join(folder, "a.tar"), archiveOf([`a@${digest}`, "b:1", "b:1"]))
    const [entry] = await store.loadArchive(join(folder, "a.tar"), { names: "take" })
    expect(entry?.names).toEqual(["docker.io/library/b:1"])
    await packImage(join(folder, "image"), { layers: [SHARED], tag: "latest" })
    execFileSync("tar", ["-cf", join(folder, "o.tar"), "-C", join(folder, "image"), "."])
    const [tagged] = await store.loadArchive(join(folder, "o.tar"), { names: "take" })
    expect(tagged?.names).toEqual([])
  })

  test("images of other platforms are left out; only such is an error", async () => {
    const folder = temporaryFolder()
    const store = await fresh(folder)
    const image = join(folder, "image")
    await packImage(image, { layers: [SHARED] })
    const index = JSON.parse(readFileSync(join(image, "index.json"), "utf8"))
    const [own] = index.manifests
    const foreign = {
      ...own,
      digest: `sha256:${"1".repeat(64)}`,
      platform: { os: "linux", architecture: "mips" },
    }
    for (const [manifests, expected] of [
      [[foreign, own], undefined],
      [[foreign], "platform-missing"],
      [[], "archive-invalid"],
    ] as const) {
      writeFileSync(join(image, "index.json"), JSON.stringify({ ...index, manifests }))
      execFileSync("tar", ["-cf", join(folder, "o.tar"), "-C", image, "."])
      expect(await codeOf(() => store.loadArchive(join(folder, "o.tar")))).toBe(expected)
    }
    expect(await store.list()).toHaveLength(1)
  })

  test("refuses what holds no image", async () => {
    const folder = temporaryFolder()
    const store = await fresh(folder)
    writeFileSync(join(folder, "a.tar"), tarOf([{ path: "x" }]))
    for (const path of ["a.tar", "none.tar"])
      expect(await codeOf(() => store.loadArchive(join(folder, path)))).toMatch(/^(archive-inv|source-miss)/)
  })
})
