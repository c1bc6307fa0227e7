import { randomBytes } from "node:crypto"
import { gzipSync } from "node:zlib"
import { expect, test } from "vitest"
import type { PackFile } from "../pack/items.js"
import { ImageStore } from "../store/store.js"
import { codeOf, TestLayout, tarOf, temporaryFolder } from "../test-support/images.js"
import { type MadePart, PartMaker } from "../test-support/layers.js"

const BLOCK = 4096

async function made(files: readonly PackFile[]): Promise<MadePart> {
  const tar = tarOf(files)
  const maker = await PartMaker.open(temporaryFolder())
  return maker.make({ blob: gzipSync(tar), tar, compression: "gzip" })
}

function contentOf({ data, root }: MadePart, name: string): Buffer {
  const { block, size } = root.children?.get(name) ?? { block: 0, size: 0 }
  return data.subarray(block * BLOCK, block * BLOCK + size)
}

test("equal files of a layer are stored once, whatever their size and what stands between them", async () => {
  const contents = [4096, 5000, 2 ** 20, 3 * 2 ** 20 + 1].map(size => randomBytes(size))
  const files = [0, 1, 2].flatMap(round =>
    contents.flatMap((content, i) => [
      { path: `${i}-${round}`, content },
      { path: `small-${i}-${round}`, content: `${i} ${round}` },
    ]),
  )
  const part = await made(files)
  for (const [i, content] of contents.entries())
    for (const round of [0, 1, 2]) expect(contentOf(part, `${i}-${round}`).equals(content)).toBe(true)
  for (const round of [0, 1, 2]) expect(contentOf(part, `small-3-${round}`).toString()).toBe(`3 ${round}`)
  const stored = contents.reduce((sum, content) => sum + Math.ceil(content.length / BLOCK), 0) + 12
  expect(part.data.length).toBe(stored * BLOCK)
})

test("a copy at the very end leaves nothing behind it", async () => {
  const content = randomBytes(5 * 2 ** 20)
  const part = await made([
    { path: "a", content },
    { path: "b", content },
  ])
  expect(part.data.equals(content)).toBe(true)
})

test("equal content with other metadata stays two files", async () => {
  const content = randomBytes(BLOCK)
  const { root } = await made([
    { path: "a", content, mode: 0o600 },
    { path: "b", content, mode: 0o755 },
  ])
  expect(root.children?.get("a")).toMatchObject({ block: 0, mode: 0o600 })
  expect(root.children?.get("b")).toMatchObject({ block: 0, mode: 0o755 })
})

test("a long PAX path, link and attribute come through the process", async () => {
  const long = `${"d".repeat(200)}/${"f".repeat(200)}`
  const capability = Buffer.from([1, 0, 0, 2, 0, 32, 0, 0, 255])
  const { root } = await made([
    { path: long, content: "x", xattrs: { "security.capability": capability } },
    { path: "s", target: "t".repeat(3000) },
    { path: "h", type: "link", target: long },
  ])
  expect(root.children?.get("h")?.xattrs?.get("security.capability")).toEqual(capability)
  expect(root.children?.get("s")?.target).toHaveLength(3000)
})

test.each([
  "application/vnd.oci.image.layer.nondistributable.v1.tar",
  "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
  "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
])("I9: a foreign layer is refused, and its addresses are not looked at: %s", async mediaType => {
  const folder = temporaryFolder()
  const layout = new TestLayout(`${folder}/image`)
  const tar = tarOf([{ path: "a" }])
  layout.image([{ blob: tar, tar, mediaType }], manifest => ({
    ...manifest,
    layers: manifest.layers.map(layer => ({ ...layer, urls: ["http://127.0.0.1:1/layer"] })),
  }))
  const store = await ImageStore.open(`${folder}/store`)
  expect(await codeOf(() => store.load(`oci:${layout.path}`))).toBe("layer-foreign")
})
