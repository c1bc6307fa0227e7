import { randomBytes } from "node:crypto"
import { readFileSync, rmSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { describe, expect, test } from "vitest"
import { PartBlocks } from "../erofs/extents.js"
import { ErofsMetadata } from "../erofs/read.js"
import { decodeLayerIndex, encodeLayerIndex } from "../layer/layer-index.js"
import type { PackFile } from "../pack/items.js"
import { packImage } from "../pack/pack-image.js"
import { readDiskBytes, readErofs } from "../test-support/erofs-reader.js"
import { temporaryFolder } from "../test-support/images.js"
import { proveEqual } from "./prove-equal.js"
import { ImageStore } from "./store.js"
import type { StoredImage } from "./stored-image.js"

const BLOCK = 4096
const CHUNK = 16 * BLOCK

/** Stores images, each given by the files of its layers. */
async function stored(...images: (readonly PackFile[])[][]): Promise<StoredImage[]> {
  const folder = temporaryFolder()
  const store = await ImageStore.open(join(folder, "store"))
  const loaded: StoredImage[] = []
  for (const [i, layers] of images.entries()) {
    const layout = join(folder, `${i}`)
    await packImage(layout, { layers: layers.map(files => ({ files })), compression: "gzip" })
    loaded.push(await store.load(`oci:${layout}`))
  }
  return loaded
}

const one = async (...layers: (readonly PackFile[])[]) => (await stored(layers))[0] as StoredImage
const filesOf = (image: StoredImage) => readErofs(readDiskBytes(image.disk()))

/** Pages of a host's page cache that hold the contents of all files of some images: by file and number. */
function pagesOf(...images: StoredImage[]): Set<string> {
  const pages = new Set<string>()
  for (const image of images) {
    const [metadata, ...parts] = image.disk().parts as { path: string; size: number }[]
    const erofs = new ErofsMetadata(readFileSync(metadata?.path as string))
    for (const run of fileRuns(erofs)) {
      let at = run.start - (metadata?.size ?? 0)
      let part = 0
      while (at >= (parts[part]?.size ?? 0)) at -= parts[part++]?.size ?? 0
      for (let page = at; page < at + run.size; page += BLOCK)
        pages.add(`${parts[part]?.path} ${page / BLOCK}`)
    }
  }
  return pages
}

function* fileRuns(erofs: ErofsMetadata, directory = erofs.root): Generator<{ start: number; size: number }> {
  for (const [, file] of erofs.entries(directory)) {
    if (file.kind === "directory") yield* fileRuns(erofs, file)
    if (file.kind !== "file") continue
    for (const { start, size } of erofs.runs(file)) if (start !== undefined && size > 0) yield { start, size }
  }
}

describe("content that a lower layer has", () => {
  const contents = [1, 100, BLOCK, 5000, CHUNK, CHUNK + 1, 10 * CHUNK + 77].map(size => randomBytes(size))
  const blocks = contents.reduce((sum, content) => sum + Math.ceil(content.length / BLOCK), 0)
  const files = (mode: number) => contents.map((content, i) => ({ path: `f${i}`, content, mode }))

  test("a layer that only changes modes takes no page of its own, in two images together", async () => {
    const [base, changed] = (await stored([files(0o644)], [files(0o644), files(0o755)])) as [
      StoredImage,
      StoredImage,
    ]
    expect([base.sharedSize, changed.sharedSize]).toEqual([0, blocks * BLOCK])
    expect(pagesOf(base).size).toBe(blocks)
    // Before there was sharing: twice as many.
    expect(pagesOf(base, changed).size).toBe(blocks)
    const seen = filesOf(changed)
    for (const [i, content] of contents.entries()) {
      expect(seen.get(`f${i}`)?.content.equals(content)).toBe(true)
      expect((seen.get(`f${i}`)?.mode ?? 0) & 0o777).toBe(0o755)
    }
  })

  test("is found under another name, below another directory and across several layers", async () => {
    const content = randomBytes(3 * BLOCK)
    const image = await one(
      [{ path: "a", content }],
      [{ path: "x", content: randomBytes(BLOCK) }],
      [{ path: "d/b", content }, { path: ".wh.a" }],
      [{ path: "c", content, uid: 7 }],
    )
    expect(image.sharedSize).toBe(2 * content.length)
    expect(pagesOf(image).size).toBe(3 + 1)
    const seen = filesOf(image)
    for (const path of ["d/b", "c"]) expect(seen.get(path)?.content.equals(content)).toBe(true)
    expect(seen.get("a")).toBeUndefined()
  })

  test("chunks of a large file that was changed in the middle and grew at its end", async () => {
    const before = randomBytes(20 * CHUNK + 100)
    const after = Buffer.concat([before, randomBytes(CHUNK)])
    after.fill(0, 5 * CHUNK + 10, 5 * CHUNK + 20)
    const image = await one([{ path: "db", content: before }], [{ path: "db", content: after }])
    expect(filesOf(image).get("db")?.content.equals(after)).toBe(true)
    // All chunks of the first but the changed one, and its last, which is longer now.
    expect(image.sharedSize).toBe(19 * CHUNK)
    const paths = [...pagesOf(image)].map(page => page.split(" ")[0])
    const [lower, upper] = image
      .disk()
      .parts.slice(1)
      .map(part => part.path)
    expect(paths.filter(path => path === lower).length).toBe(19 * 16)
    expect(paths.filter(path => path === upper).length).toBe(2 * 16 + 1)
  })

  test("hard links and a layer that occurs twice stay what they are", async () => {
    const content = randomBytes(2 * BLOCK)
    const again = [
      { path: "b", content, mode: 0o600 },
      { path: "c", type: "link", target: "b" },
    ] as const
    const image = await one([{ path: "a", content }], again, [{ path: ".wh.c" }], again)
    const seen = filesOf(image)
    expect([seen.get("b")?.nlink, seen.get("c")?.nid]).toEqual([2, seen.get("b")?.nid])
    expect(seen.get("c")?.content.equals(content)).toBe(true)
    expect(pagesOf(image).size).toBe(2)
  })

  test("nothing is shared where nothing is equal, and the image is as it was without sharing", async () => {
    const image = await one([{ path: "a", content: "a" }], [{ path: "b", content: "b" }])
    expect(image.sharedSize).toBe(0)
    const text = (path: string) => filesOf(image).get(path)?.content.toString()
    expect([text("a"), text("b")]).toEqual(["a", "b"])
  })
})

describe("I4: what a layer says of its content", () => {
  const honest = randomBytes(2 * CHUNK + 5)
  const other = randomBytes(honest.length)

  /** Two layers in a store, whose upper one claims to have the lower one's content. */
  async function claimed(files: readonly PackFile[]): Promise<{ store: ImageStore; layout: string }> {
    const folder = temporaryFolder()
    const layout = join(folder, "image")
    const layers = [{ files: [{ path: "lower", content: honest }] }, { files }]
    await packImage(layout, { layers })
    const store = await ImageStore.open(join(folder, "store"))
    const image = await store.load(`oci:${layout}`)
    const [lower, upper] = image.layers.map(digest => join(folder, "store/parts", digest.slice(7), "index"))
    const { contents } = decodeLayerIndex(readFileSync(lower as string))
    const { root, diffId, dataSize } = decodeLayerIndex(readFileSync(upper as string))
    writeFileSync(upper as string, encodeLayerIndex({ root, diffId, dataSize, contents }))
    rmSync(join(folder, "store/images", image.digest.slice(7)), { recursive: true })
    return { store, layout }
  }

  test("is not believed: other bytes stay other bytes, whatever their hashes are said to be", async () => {
    const { store, layout } = await claimed([{ path: "upper", content: other }])
    const image = await store.load(`oci:${layout}`)
    expect(image.sharedSize).toBe(0)
    expect(filesOf(image).get("upper")?.content.equals(other)).toBe(true)
    expect(filesOf(image).get("lower")?.content.equals(honest)).toBe(true)
  })

  test("counts for the chunks that are equal, and not for those that are not", async () => {
    const half = Buffer.concat([honest.subarray(0, CHUNK), other.subarray(CHUNK)])
    const { store, layout } = await claimed([{ path: "upper", content: half }])
    const image = await store.load(`oci:${layout}`)
    expect(image.sharedSize).toBe(CHUNK)
    expect(filesOf(image).get("upper")?.content.equals(half)).toBe(true)
  })

  test("does not reach behind its own end: a file longer than the content that it begins with", async () => {
    const long = Buffer.concat([honest, randomBytes(5 * CHUNK)])
    const { store, layout } = await claimed([{ path: "upper", content: long }])
    const image = await store.load(`oci:${layout}`)
    // The last chunk of what is claimed is shorter than that of the file.
    expect(image.sharedSize).toBe(2 * CHUNK)
    expect(filesOf(image).get("upper")?.content.equals(long)).toBe(true)
  })
})

test("I14: a part that became shorter shares nothing that it has no longer", async () => {
  const path = join(temporaryFolder(), "part")
  const content = randomBytes(2 * CHUNK)
  writeFileSync(path, content)
  const short = `${path}-short`
  writeFileSync(short, content.subarray(0, CHUNK + BLOCK))
  const parts = new PartBlocks([2 * CHUNK, 2 * CHUNK])
  const chunks = [0, 16].map(lower => ({ block: 32 + lower, count: 16, lower }))
  for (const paths of [
    [path, short],
    [short, path],
  ]) {
    const proven = []
    for await (const { lower } of proveEqual(chunks, paths, parts)) proven.push(lower)
    expect(proven).toEqual([0])
  }
})
