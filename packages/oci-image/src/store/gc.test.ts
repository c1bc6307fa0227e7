import { execFileSync } from "node:child_process"
import { existsSync, readdirSync, readFileSync, utimesSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { setTimeout as sleep } from "node:timers/promises"
import { describe, expect, test } from "vitest"
import type { Digest } from "../digest.js"
import { packImage } from "../pack/pack-image.js"
import { folderAttachments } from "../policy/attachments.js"
import { LayoutFolder, LayoutSource } from "../sources/layout.js"
import type { ImageSource } from "../sources/source.js"
import { readDiskBytes, readErofs } from "../test-support/erofs-reader.js"
import { codeOf, snapshot, temporaryFolder } from "../test-support/images.js"
import { Leases } from "./leases.js"
import { ownedName } from "./owner.js"
import { ImageStore } from "./store.js"

const SHARED = { files: [{ path: "shared", content: Buffer.alloc(50_000, "s") }] }
const only = (name: string) => ({ files: [{ path: name, content: Buffer.alloc(20_000, name) }] })

/** Images `a` and `b` with a name, `c` without one; the first two share a layer. */
async function setUp() {
  const folder = temporaryFolder()
  const path = join(folder, "store")
  const store = await ImageStore.open(path)
  const load = async (name: string, layers: object[], named: boolean) => {
    await packImage(join(folder, name), { layers: layers as [] })
    return store.load(`oci:${join(folder, name)}`, named ? { name } : {})
  }
  const a = await load("a", [SHARED, only("a")], true)
  const b = await load("b", [SHARED, only("b")], true)
  const c = await load("c", [only("c")], false)
  return { folder, path, store, a, b, c }
}

/** What `du` says of the files in a folder, its own figure for folders left out. */
function duOfFiles(path: string): number {
  const list = execFileSync("find", [path, "-type", "f", "-print0"])
  const lines = execFileSync("du", ["--apparent-size", "-B1", "--files0-from=-"], { input: list }).toString()
  return lines
    .split("\n")
    .filter(Boolean)
    .reduce((sum, line) => sum + Number(line.split("\t")[0]), 0)
}

describe("disk usage", () => {
  test("adds up to what du says, and says what images share", async () => {
    const { path, store, a, b, c } = await setUp()
    writeFileSync(join(path, "tmp", ownedName()), "12345")
    const usage = await store.diskUsage([a.digest])

    expect(usage.total).toBe(duOfFiles(path))
    const { metadata, parts, blobs, temporary, other } = usage
    expect(metadata.bytes + parts.bytes + blobs.bytes + temporary + other).toBe(usage.total)
    expect([metadata.count, parts.count, blobs.count, temporary]).toEqual([3, 4, 10, 5])

    const of = (digest: string) => usage.images.find(image => image.digest === digest)
    expect(of(a.digest)).toMatchObject({ names: ["docker.io/library/a:latest"], inUse: true })
    expect(of(c.digest)).toMatchObject({ names: [], inUse: false, shared: 0 })
    // Their shared layer counts for both, in the sum once.
    expect(of(a.digest)?.shared).toBe(usage.shared)
    expect(of(b.digest)?.shared).toBe(usage.shared)
    const sum = usage.images.reduce((bytes, image) => bytes + image.size, 0)
    expect(sum - usage.shared).toBe(metadata.bytes + parts.bytes + blobs.bytes)
  })

  test("reclaimable is what pruning frees", async () => {
    const { path, store, a } = await setUp()
    const inUse = [a.configDigest]
    const { reclaimable } = await store.diskUsage(inUse)
    const { bytes, images } = await store.prune({ all: true, inUse })
    expect(bytes).toBe(reclaimable)
    expect(images).toHaveLength(2)
    const after = await store.diskUsage(inUse)
    expect(after).toMatchObject({ reclaimable: 0, shared: 0, total: duOfFiles(path) })
  })

  test("an empty store takes its marker and its index", async () => {
    const path = join(temporaryFolder(), "store")
    const usage = await (await ImageStore.open(path)).diskUsage()
    expect(usage).toMatchObject({ images: [], shared: 0, reclaimable: 0, total: duOfFiles(path) })
    expect(usage.other).toBe(usage.total)
  })
})

describe("prune", () => {
  test("removes images without names and leaves others whole", async () => {
    const { path, store, a, b, c } = await setUp()
    const before = await store.diskUsage()
    const result = await store.prune()
    expect(result).toMatchObject({
      done: true,
      images: [{ digest: c.digest, names: [] }],
      parts: 1,
      blobs: 3,
    })
    const after = await store.diskUsage()
    const index = (usage: typeof after) => usage.total - usage.other
    expect(index(before) - index(after)).toBe(result.bytes)
    expect((await store.list()).map(entry => entry.image.digest).sort()).toEqual([a.digest, b.digest].sort())
    expect(readErofs(readDiskBytes(a.disk())).get("shared")?.content.length).toBe(50_000)
    expect(readFileSync(join(path, "index.json"), "utf8")).not.toContain(c.digest)
  })

  test("all: what is in use stays, by digest or by id, with its names", async () => {
    const { path, store, a, b, c } = await setUp()
    const result = await store.prune({ all: true, inUse: [a.digest, c.configDigest] })
    expect(result.images).toEqual([{ digest: b.digest, names: ["docker.io/library/b:latest"] }])
    expect((await store.get("a"))?.digest).toBe(a.digest)
    expect(await store.get("b")).toBeUndefined()
    expect((await store.prune({ all: true })).images).toHaveLength(2)
    for (const folder of ["images", "parts", "blobs/sha256", "refs", "tmp", "leases"])
      expect(readdirSync(join(path, folder))).toEqual([])
  })

  test("removes damaged images, names of nothing, and what dead processes left", async () => {
    const { path, store, a } = await setUp()
    writeFileSync(join(path, "images", a.digest.slice(7), "image.json"), "{")
    const dead = ownedName().replace(/^\d+-\d+/, "999999999-1")
    writeFileSync(join(path, "tmp", dead), "")
    writeFileSync(join(path, "folders", "0".repeat(64)), "not an entry")
    await store.prune()
    expect(existsSync(join(path, "images", a.digest.slice(7)))).toBe(false)
    expect(readdirSync(join(path, "refs"))).toHaveLength(1)
    for (const folder of ["tmp", "leases", "folders"]) expect(readdirSync(join(path, folder))).toEqual([])
  })

  test("an image that cannot be looked at is not taken for damaged", async () => {
    const { path, store, a } = await setUp()
    // A name in the way of a part's path fails otherwise than with "no such file".
    const record = join(path, "images", a.digest.slice(7), "image.json")
    const long = JSON.parse(readFileSync(record, "utf8"))
    const before = snapshot(join(path, "parts"))
    const part = join(path, "parts", long.parts[0].digest.slice(7))
    execFileSync("mv", [part, `${part}.aside`])
    writeFileSync(part, "in the way")
    expect(await codeOf(() => store.prune())).toBe("io")
    execFileSync("rm", [part])
    execFileSync("mv", [`${part}.aside`, part])
    expect(snapshot(join(path, "parts"))).toEqual(before)
    expect(await store.get("a")).toBeDefined()
  })
})

describe("I14: while something is loaded or saved", () => {
  test("nothing is pruned: parts of several layers at once, not yet in an image, stay", async () => {
    const { folder, path, store } = await setUp()
    await packImage(join(folder, "d"), { layers: ["d", "e", "f", "g"].map(only) })
    const layout = new LayoutSource(await LayoutFolder.open(join(folder, "d")))
    const other = await ImageStore.open(path)
    const results: boolean[] = []
    const source: ImageSource = {
      locate: options => layout.locate(options),
      blobs: {
        async *open(request) {
          yield* layout.blobs.open(request)
          results.push((await other.prune({ all: true })).done, await other.collectGarbage())
        },
      },
      [Symbol.asyncDispose]: () => layout[Symbol.asyncDispose](),
    }
    const image = await store.load(source)
    await layout[Symbol.asyncDispose]()
    expect(results).toEqual(Array.from({ length: 12 }, () => false))
    expect(readErofs(readDiskBytes(image.disk())).size).toBe(5)
    expect((await other.prune({ all: true })).done).toBe(true)
    expect(await store.list()).toEqual([])
  })

  test("a load waits for a collection that runs, until its signal", async () => {
    const { folder, path, store } = await setUp()
    const collecting = await new Leases(join(path, "leases")).collect()
    const stop = new AbortController()
    let ended = false
    const load = codeOf(() => store.load(`oci:${join(folder, "a")}`)).finally(() => (ended = true))
    const aborted = store.load(`oci:${join(folder, "a")}`, { signal: stop.signal })
    await sleep(50)
    expect(ended).toBe(false)
    stop.abort()
    await expect(aborted).rejects.toThrow(/aborted/)
    await collecting?.[Symbol.asyncDispose]()
    expect(await load).toBeUndefined()
  })
})

describe("what proves an image", () => {
  const HOUR_S = 60 * 60

  async function withTrust() {
    const setting = await setUp()
    const prove = async (digest: Digest) => {
      await folderAttachments(join(setting.path, "trust"), digest).set("provenance.json", Buffer.from("{}"))
      return join(setting.path, "trust", digest.slice(7))
    }
    const [a, b] = [await prove(setting.a.digest), await prove(setting.b.digest)]
    return { ...setting, prove, proofs: { a, b } }
  }

  test("goes with the image, and is counted", async () => {
    const { path, store, a, proofs } = await withTrust()
    await store.tag("a", "other")
    await store.remove("other")
    expect(existsSync(proofs.a)).toBe(true)
    expect((await store.diskUsage([a.digest])).total).toBe(duOfFiles(path))
    await store.remove("a")
    expect([existsSync(proofs.a), existsSync(proofs.b)]).toEqual([false, true])
  })

  test("goes with a prune, which frees what was said", async () => {
    const { path, store, proofs } = await withTrust()
    const { reclaimable } = await store.diskUsage()
    expect((await store.prune({ all: true })).bytes).toBe(reclaimable)
    expect([existsSync(proofs.a), existsSync(proofs.b)]).toEqual([false, false])
    expect((await store.diskUsage()).total).toBe(duOfFiles(path))
  })

  test("stays for an image that is on its way, but not for ever", async () => {
    const { store, prove } = await withTrust()
    const proof = await prove(`sha256:${"a".repeat(64)}`)
    expect(await store.collectGarbage()).toBe(true)
    expect(existsSync(proof)).toBe(true)
    const longAgo = Date.now() / 1000 - 25 * HOUR_S
    utimesSync(proof, longAgo, longAgo)
    expect(await store.collectGarbage()).toBe(true)
    expect(existsSync(proof)).toBe(false)
  })
})
