import { readdirSync } from "node:fs"
import { join } from "node:path"
import { describe, expect, test } from "vitest"
import { readDiskBytes, readErofs } from "../test-support/erofs-reader.js"
import { codeOf, sha256, tarOf, temporaryFolder } from "../test-support/images.js"
import { ImageStore } from "./store.js"

const BELOW = tarOf([
  { path: "etc/", mode: 0o755 },
  { path: "etc/old", content: "old" },
  { path: "etc/gone", content: "gone" },
])
const ABOVE = tarOf([
  { path: "etc/", mode: 0o700 },
  { path: "etc/.wh.gone", content: "" },
  { path: "etc/old", content: "new", uid: 7 },
])

async function* stream(bytes: Buffer): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += 700) yield bytes.subarray(at, at + 700)
}

async function setUp(limits = {}) {
  const folder = join(temporaryFolder(), "store")
  const store = await ImageStore.open(folder, { limits })
  const config = { cmd: ["/a"], env: ["A=b"], user: "u" }
  const base = await store.importTar(stream(BELOW), { name: "base", config })
  const left = () => ["tmp", "leases"].flatMap(name => readdirSync(join(folder, name)))
  return { folder, store, base, left }
}

describe("commit", () => {
  test("makes an image of an image and one more layer, which shares what is below", async () => {
    const { store, base, left } = await setUp()
    const config = { cmd: ["/b"], labels: { l: "1" } }
    const about = { author: "ann", comment: "patched", createdBy: "sh", created: new Date(0) }
    const image = await store.commit("base", stream(ABOVE), { name: "new", config, ...about })
    expect(image.config).toMatchObject({ ...config, env: ["A=b"], user: "u", platform: base.config.platform })
    const files = readErofs(readDiskBytes(image.disk()))
    expect(files.get("etc")).toMatchObject({ mode: 0o040700 })
    expect(files.get("etc/old")).toMatchObject({ uid: 7 })
    expect(files.has("etc/gone")).toBe(false)
    const inspected = await store.inspect("new")
    expect(inspected.RootFS.Layers).toEqual([sha256(BELOW), sha256(ABOVE)])
    expect(await store.history("new")).toMatchObject([
      { created: "1970-01-01T00:00:00.000Z", createdBy: "sh", author: "ann", comment: "patched" },
      { createdBy: "", comment: "" },
    ])
    expect(left()).toEqual([])
  })

  test("twice: what was made so can be committed on, saved and loaded elsewhere", async () => {
    const { folder, store } = await setUp()
    await store.commit("base", stream(ABOVE), { name: "one", comment: "1" })
    const again = await store.commit("one", stream(tarOf([{ path: "top", content: "x" }])), { name: "two" })
    expect(await store.history("two")).toHaveLength(3)
    await store.save(["two"], join(folder, "two.tar"), { format: "oci-archive" })
    const other = await ImageStore.open(join(folder, "other"))
    const loaded = await other.load(`oci-archive:${join(folder, "two.tar")}`)
    expect(loaded.digest).toBe(again.digest)
    expect([...readErofs(readDiskBytes(loaded.disk())).keys()].sort()).toEqual(["", "etc", "etc/old", "top"])
  })

  test.each([
    ["is no tar stream", Buffer.alloc(512, "x"), "tar-header"],
    ["is cut off", ABOVE.subarray(0, 700), "tar-truncated"],
    ["climbs", tarOf([{ path: "../up", content: "x" }]), "entry-escapes"],
    ["has a wrong whiteout", tarOf([{ path: ".wh..", content: "" }]), "whiteout"],
  ])("a layer that %s is refused, and nothing of it stays", async (_, bytes, code) => {
    const { store, base, left } = await setUp()
    expect(await codeOf(() => store.commit("base", stream(bytes), { name: "bad" }))).toBe(code)
    expect((await store.list()).map(({ image }) => image.digest)).toEqual([base.digest])
    expect(left()).toEqual([])
  })

  test("is bounded, hands on what the stream throws, and needs an image below", async () => {
    const { store, left } = await setUp({ layerBytes: BELOW.length })
    const large = tarOf([{ path: "big", content: Buffer.alloc(BELOW.length) }])
    expect(await codeOf(() => store.commit("base", stream(large)))).toBe("limit")
    const broken = async function* () {
      yield ABOVE.subarray(0, 512)
      throw new Error("the guest ended")
    }
    await expect(store.commit("base", broken())).rejects.toThrow("the guest ended")
    expect(await codeOf(() => store.commit("none", stream(ABOVE)))).toBe("not-found")
    expect(left()).toEqual([])
  })
})
