import { writeFileSync } from "node:fs"
import { join } from "node:path"
import { describe, expect, test } from "vitest"
import { digestOf } from "../digest.js"
import { packImage } from "../pack/pack-image.js"
import { codeOf, plainLayer, sha256, TestLayout, temporaryFolder } from "../test-support/images.js"
import { ImageStore } from "./store.js"

async function setUp() {
  const folder = temporaryFolder()
  const packed = await packImage(join(folder, "image"), {
    layers: [{ files: [{ path: "a", content: "one" }] }],
    config: { cmd: ["/a"], labels: { x: "y" }, exposedPorts: ["80/tcp"] },
  })
  const other = await packImage(join(folder, "other"), {
    layers: [{ files: [{ path: "b", content: "two" }] }],
  })
  const store = await ImageStore.open(join(folder, "store"))
  await store.load(`oci:${join(folder, "image")}`, { name: "app:1" })
  await store.load(`oci:${join(folder, "other")}`, { name: "other" })
  return { folder, store, packed, other }
}

describe("references", () => {
  test("are names, digests, ids, the start of either, and names with a digest", async () => {
    const { store, packed } = await setUp()
    const [digest, id] = [packed.digest, packed.configDigest]
    const spellings = ["app:1", "docker.io/library/app:1", digest, id]
    spellings.push(digest.slice(0, 20), id.slice(0, 20), digest.slice(7, 19), id.slice(7, 19), id.slice(7))
    spellings.push(`app@${digest}`, `app:1@${digest}`)
    for (const spelling of spellings) expect((await store.get(spelling))?.digest).toBe(digest)
    const wrong = [`other@${digest}`, `sha256:${"0".repeat(64)}`, "sha256:00000", "0".repeat(64), "app"]
    for (const spelling of wrong) expect(await store.get(spelling)).toBeUndefined()
  })

  test("that could be several images are refused, whatever is done", async () => {
    const { folder, store } = await setUp()
    const ids = new Map<string, string>()
    // 16^4 prefixes: a few hundred images, of which only the documents are made, have two alike.
    for (let i = 0; ; i++) {
      const document = Buffer.from(
        JSON.stringify({
          architecture: "amd64",
          os: "linux",
          n: i,
          rootfs: { type: "layers", diff_ids: [] },
        }),
      )
      const prefix = digestOf(document).slice(7, 11)
      const twin = ids.get(prefix)
      ids.set(prefix, document.toString())
      if (twin === undefined) continue
      for (const text of [twin, document.toString()]) {
        const layout = new TestLayout(join(folder, sha256(Buffer.from(text)).slice(7)))
        const config = layout.put("application/vnd.oci.image.config.v1+json", Buffer.from(text))
        const mediaType = "application/vnd.oci.image.manifest.v1+json"
        layout.index([layout.put(mediaType, { schemaVersion: 2, mediaType, config, layers: [] })])
        await store.load(`oci:${layout.path}`)
      }
      for (const verb of ["get", "inspect", "history", "remove"] as const)
        expect(await codeOf(() => store[verb](prefix))).toBe("ambiguous")
      expect(await codeOf(() => store.tag(prefix, "x"))).toBe("ambiguous")
      expect(await store.list()).toHaveLength(4)
      return
    }
  })

  test.each(["", "sha256:", "sha256:abc", "sha256:ABCD", `sha256:${"0".repeat(65)}`, "../x", "A"])(
    "I8: %j is none",
    async text => {
      const store = await ImageStore.open(join(temporaryFolder(), "store"))
      expect(await codeOf(() => store.get(text))).toMatch(/^(digest|reference)-invalid$/)
    },
  )
})

describe("tag", () => {
  test("gives another name, and moves it from another image", async () => {
    const { store, packed } = await setUp()
    await store.tag("app:1", "host.example/copy")
    await store.tag(packed.configDigest.slice(7, 19), "other")
    expect((await store.inspect("other")).RepoTags).toEqual([
      "app:1",
      "other:latest",
      "host.example/copy:latest",
    ])
    expect((await store.list()).find(entry => entry.image.digest !== packed.digest)?.names).toEqual([])
  })

  test("refuses what is not there, and what is no name", async () => {
    const { store, packed } = await setUp()
    expect(await codeOf(() => store.tag("none", "x"))).toBe("not-found")
    expect(await codeOf(() => store.tag("app:1", "Not A Name"))).toBe("reference-invalid")
    expect(await codeOf(() => store.tag("app:1", `x@${packed.digest}`))).toBe("reference-invalid")
    expect(await store.get("x")).toBeUndefined()
  })
})

describe("remove", () => {
  test("tells what it did; by id all names go", async () => {
    const { store, packed, other } = await setUp()
    await store.tag("app:1", "app:2")
    const [one, two] = ["docker.io/library/app:1", "docker.io/library/app:2"]
    expect(await store.remove("app:1")).toEqual({ digest: packed.digest, names: [one], deleted: false })
    await store.tag("app:2", "app:1")
    const id = packed.configDigest.slice(7, 19)
    expect(await store.remove(id)).toEqual({ digest: packed.digest, names: [one, two], deleted: true })
    expect(await codeOf(() => store.remove(id))).toBe("not-found")
    expect((await store.list()).map(entry => entry.image.digest)).toEqual([other.digest])
  })

  test("I14: a name set at the same time either keeps the image or is told that it is gone", async () => {
    const { folder, store } = await setUp()
    for (let round = 0; round < 20; round++) {
      await store.load(`oci:${join(folder, "image")}`, { name: "app:1" })
      const [, tagged] = await Promise.all([store.remove("app:1"), codeOf(() => store.tag("app:1", "app:2"))])
      const kept = await store.get("app:2")
      expect(kept === undefined).toBe(tagged === "not-found")
      if (kept) await store.remove("app:2")
    }
  })
})

describe("inspect and history", () => {
  const history = [
    { created: "2024-01-01T00:00:00Z", created_by: "ADD rootfs", comment: "base" },
    { created: "2024-01-02T00:00:00Z", created_by: "ENV A=b", empty_layer: true },
    { created_by: "RUN x", author: "me" },
  ]

  async function loadDocument(change: (config: object) => object) {
    const folder = temporaryFolder()
    const layout = new TestLayout(join(folder, "image"))
    const layers = [[{ path: "a", content: Buffer.alloc(5000, "a") }], [{ path: "b/" }]].map(plainLayer)
    layout.image(layers, manifest => {
      const config = {
        ...{ architecture: "arm64", variant: "v8", os: "linux" },
        rootfs: { type: "layers", diff_ids: layers.map(layer => sha256(layer.tar)) },
      }
      return { ...manifest, config: layout.put(manifest.config.mediaType, change(config)) }
    })
    const store = await ImageStore.open(join(folder, "store"))
    const platform = { os: "linux", architecture: "arm64" }
    await store.load(`oci:${layout.path}`, { platform, name: "app" })
    return { store, folder, diffIds: layers.map(layer => sha256(layer.tar)) }
  }

  test("show what docker shows", async () => {
    const { store, packed } = await setUp()
    const details = await store.inspect("app:1")
    expect(details).toMatchObject({
      Id: packed.configDigest,
      RepoTags: ["app:1"],
      RepoDigests: [`app@${packed.digest}`],
      Created: "",
      Architecture: "amd64",
      Os: "linux",
      Config: { Env: [], Cmd: ["/a"], Labels: { x: "y" }, ExposedPorts: { "80/tcp": {} }, Volumes: {} },
    })
    expect(details.Size).toBe((await store.get("app:1"))?.size)
    expect(await codeOf(() => store.inspect("none"))).toBe("not-found")
    expect(await codeOf(() => store.history("none"))).toBe("not-found")
  })

  test("pair steps with layers, newest first", async () => {
    const { store, diffIds } = await loadDocument(config => ({
      ...config,
      ...{ created: "2024-01-03T00:00:00Z", author: "me", history },
    }))
    const details = await store.inspect("app")
    expect(details).toMatchObject({ Created: "2024-01-03T00:00:00Z", Author: "me", Variant: "v8" })
    expect(details.RootFS).toEqual({ Type: "layers", Layers: diffIds })
    const steps = await store.history("app")
    expect(steps.map(step => [step.createdBy, step.diffId, step.size])).toEqual([
      ["RUN x", diffIds[1], 0],
      ["ENV A=b", undefined, 0],
      ["ADD rootfs", diffIds[0], 8192],
    ])
    expect(steps.map(step => step.layer)).toEqual([diffIds[1], undefined, diffIds[0]])
  })

  test.each([
    ["none at all", {}],
    ["too many steps", { history: [...history, {}] }],
    ["too few", { history: [{}] }],
  ])("leave a history out that does not fit: %s", async (_, more) => {
    const { store, diffIds } = await loadDocument(config => ({ ...config, ...more }))
    const steps = await store.history("app")
    expect(steps.map(step => step.diffId)).toEqual([diffIds[1], diffIds[0]])
    expect(steps.map(step => step.createdBy)).toEqual(["", ""])
  })

  test.each([
    ["history is no list", { history: {} }],
    ["a step is no object", { history: [1] }],
    ["text is none", { history: [{ created_by: 1 }] }],
    ["text has a NUL", { created: "a\0" }],
    ["text is long", { created: "x".repeat(65) }],
  ])("I9: refuse an odd document: %s", async (_, more) => {
    const { store } = await loadDocument(config => ({ ...config, ...more }))
    const verb = "history" in more ? "history" : "inspect"
    expect(await codeOf(() => store[verb]("app"))).toBe("config-invalid")
  })

  test("I8: documents are proven again", async () => {
    const { store, folder, packed } = await setUp()
    writeFileSync(join(folder, "store/blobs/sha256", packed.configDigest.slice(7)), "{}")
    expect(await codeOf(() => store.inspect("app:1"))).toBe("size-mismatch")
    expect(await codeOf(() => store.history("app:1"))).toBe("size-mismatch")
  })
})
