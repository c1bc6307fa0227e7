import { readdirSync } from "node:fs"
import { join } from "node:path"
import { afterEach, beforeEach, describe, expect, test } from "vitest"
import { digestOf } from "../digest.js"
import type { ImageError } from "../errors.js"
import type { LoadProgress } from "../store/load-options.js"
import { ImageStore } from "../store/store.js"
import { readDiskBytes } from "../test-support/erofs-reader.js"
import { codeOf, temporaryFolder } from "../test-support/images.js"
import { configOf, TestRegistry, testClient } from "../test-support/test-registry.js"

let registry: TestRegistry
let mirror: TestRegistry
let other: TestRegistry

beforeEach(async () => {
  ;[registry, mirror, other] = await Promise.all([
    TestRegistry.start(),
    TestRegistry.start(),
    TestRegistry.start(),
  ])
})
afterEach(async () => {
  for (const one of [registry, mirror, other]) await one[Symbol.asyncDispose]()
})

/** Pulls into a store of its own. */
async function load(mirrors: readonly TestRegistry[]) {
  const warnings: ImageError[] = []
  const progress: LoadProgress[] = []
  const hosts = configOf({ [registry.host]: { mirrors: mirrors.map(({ host }) => `http://${host}`) } })
  await using client = testClient({ hosts, onWarning: warning => warnings.push(warning) })
  const path = join(temporaryFolder(), "store")
  const store = await ImageStore.open(path)
  const name = `${registry.host}/app:1`
  const pull = () => store.load(client.source(name), { name, onProgress: one => progress.push(one) })
  const code = await codeOf(pull)
  const left = ["tmp", "leases"].flatMap(folder => readdirSync(join(path, folder)))
  return { store, name, code, warnings, progress, left }
}

/** Bytes of the right number, all wrong. */
const wrong = (content: Buffer) => Buffer.alloc(content.length, "x")

describe("a mirror that gives a wrong blob is passed over, with a warning", () => {
  test("a layer comes from the next mirror, and nothing is left of the wrong one", async () => {
    mirror.failAt(mirror.layerPath, (response, _, content) => response.end(wrong(content)))
    const { store, name, code, warnings, left } = await load([mirror, other])
    expect(code).toBeUndefined()
    const image = await store.get(name)
    expect(image && readDiskBytes(image.disk()).length).toBe(image?.size)
    expect([other.count(other.layerPath), registry.requests.length]).toEqual([1, 0])
    expect(left).toEqual([])
    expect(warnings).toMatchObject([{ code: "digest-mismatch", fields: { host: mirror.host } }])
    expect(warnings[0]?.message).toContain(`the mirror ${mirror.host} is left out`)
  })

  test.each([
    ["longer", (content: Buffer) => Buffer.concat([content, content]), "size-mismatch"],
    ["shorter", (content: Buffer) => content.subarray(1), "size-mismatch"],
  ])("a %s one comes from the registry itself", async (_, change, expected) => {
    mirror.failAt(mirror.layerPath, (response, _, content) => response.end(change(content)))
    const { code, warnings } = await load([mirror])
    expect(code).toBeUndefined()
    expect(registry.count(registry.layerPath)).toBe(1)
    expect(warnings.map(warning => warning.code)).toEqual([expected])
  })

  test("so is one that never comes to its end", async () => {
    mirror.failAt(mirror.layerPath, (response, _, content) => {
      response.writeHead(200, { "content-length": content.length })
      response.write(content.subarray(0, 10), () => response.destroy())
    })
    const { code, warnings } = await load([mirror])
    expect(code).toBeUndefined()
    expect(warnings).toHaveLength(1)
  })

  test("so is its manifest, and it is asked for nothing more", async () => {
    const { digest } = mirror
    mirror.failAt(`manifests/${digest}`, (response, _, content) => response.end(wrong(content)))
    const { code, warnings } = await load([mirror])
    expect(code).toBeUndefined()
    expect(mirror.count("/blobs/")).toBe(0)
    expect(warnings).toHaveLength(1)
  })

  test("a layer begins anew in what is told of it", async () => {
    mirror.failAt(mirror.layerPath, (response, _, content) => response.end(wrong(content)))
    const { progress } = await load([mirror])
    expect(progress.filter(({ state, done }) => state === "reading" && done === 0)).toHaveLength(2)
    expect(progress.at(-1)?.state).toBe("done")
  })

  test("the registry's own wrong blob is the end", async () => {
    for (const one of [mirror, registry])
      one.failAt(one.layerPath, (response, _, content) => response.end(wrong(content)))
    const { store, code, left } = await load([mirror])
    expect(code).toBe("digest-mismatch")
    expect([left, await store.list()]).toEqual([[], []])
  })

  test("a layer that is not what the image says is no fault of the mirror's", async () => {
    for (const one of [mirror, registry]) {
      const lie = { architecture: "amd64", os: "linux", rootfs: { type: "layers", diff_ids: [digestOf("")] } }
      replaceConfig(one, lie)
    }
    const { code, warnings } = await load([mirror])
    expect([code, warnings]).toEqual(["digest-mismatch", []])
  })
})

/** Gives an image another config, and a manifest that names it. */
function replaceConfig(one: TestRegistry, config: object): void {
  const body = Buffer.from(JSON.stringify(config))
  const old = one.content.get(`manifests/${one.digest}`)
  const document = JSON.parse(`${old?.body}`)
  document.config = { ...document.config, digest: digestOf(body), size: body.length }
  const manifest = Buffer.from(JSON.stringify(document))
  one.content.set(`blobs/${digestOf(body)}`, { body, type: "application/octet-stream" })
  for (const name of ["1", digestOf(manifest)])
    one.content.set(`manifests/${name}`, { body: manifest, type: old?.type ?? "" })
}
