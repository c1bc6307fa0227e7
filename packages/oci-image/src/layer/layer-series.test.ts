import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { gzipSync } from "node:zlib"
import { describe, expect, test } from "vitest"
import { type Digest, digestOf } from "../digest.js"
import { DEFAULT_LIMITS } from "../limits.js"
import { StoreFolder } from "../store/folder.js"
import { makePart } from "../store/make-part.js"
import { partHeader } from "../store/parts.js"
import { ImageStore } from "../store/store.js"
import { childrenOf } from "../test-support/children.js"
import { readDiskBytes, readErofs } from "../test-support/erofs-reader.js"
import { codeOf, layerOf, TestLayout, tarOf, temporaryFolder } from "../test-support/images.js"
import { isPartOf, type LayerHeader, markReadAfter, READ_AFTER_MAX } from "./layer-header.js"
import { decodeLayerIndex, encodeLayerIndex } from "./layer-index.js"
import { LayerSeries } from "./layer-series.js"

const tarWith = (content: string) => tarOf([{ path: "f", content }])

/** Makes parts in a store of their own by one series; `script` stands in for the process. */
async function setUp(script?: string) {
  const path = temporaryFolder()
  const folder = new StoreFolder(path)
  await folder.prepare()
  const entry = script && join(path, "code/script.mjs")
  if (entry) {
    mkdirSync(join(path, "code"))
    writeFileSync(entry, script)
  }
  const series = new LayerSeries({ scratch: () => folder.scratch(), limits: DEFAULT_LIMITS, entry })
  const make = async (tar: Buffer, blob: Buffer = tar): Promise<Digest> => {
    const digest = digestOf(blob)
    await makePart({
      folder,
      blobs: {
        async *open() {
          yield blob
        },
      },
      layer: { mediaType: "test", digest, size: blob.length, compression: blob === tar ? "none" : "gzip" },
      diffId: digestOf(tar),
      limits: DEFAULT_LIMITS,
      keepBlob: false,
      series,
    })
    return digest
  }
  return { path, folder, series, make }
}

const processes = () => childrenOf(process.pid, "--allow-fs-read")

describe("small layers of one image", () => {
  test("are read by one process, each as if it were alone; its index says which came before", async () => {
    const { folder, series, make } = await setUp()
    const digests: Digest[] = []
    const pids = new Set<string>()
    for (const [i, content] of ["a".repeat(9000), "b", "", "c".repeat(5000)].entries()) {
      const tar = tarWith(content)
      const digest = await make(tar, i % 2 ? gzipSync(tar) : tar)
      for (const pid of processes()) pids.add(pid)
      const data = readFileSync(folder.part(digest, "data"))
      expect(data.toString().replace(/\0*$/, "")).toBe(content)
      const index = decodeLayerIndex(readFileSync(folder.part(digest, "index")))
      expect(index).toMatchObject({ diffId: digestOf(tar), dataSize: data.length, readAfter: digests })
      expect(index.root.children?.get("f")?.size).toBe(content.length)
      digests.push(digest)
    }
    expect(pids.size).toBe(1)
    await series.end()
    expect(processes()).toEqual([])
    expect(readdirSync(folder.top("tmp"))).toEqual([])
  })

  test("an image of 60 layers takes as many processes as layers are read at once", async () => {
    const { path } = await setUp()
    const layout = new TestLayout(temporaryFolder())
    const tars = Array.from({ length: 60 }, (_, i) => tarWith(`${i}`))
    layout.image(tars.map(tar => ({ blob: tar, tar })))
    const store = await ImageStore.open(path, { parallelLayers: 2 })
    const image = await store.load(`oci:${layout.path}`)
    const headers = await Promise.all(image.layers.map(digest => partHeader(new StoreFolder(path), digest)))
    expect(headers.filter(header => header?.readAfter.length === 0)).toHaveLength(2)
    expect(processes()).toEqual([])
  })

  test(`get another process after ${READ_AFTER_MAX} of them`, async () => {
    const { folder, series, make } = await setUp()
    await using _ = series
    const counts: number[] = []
    for (let i = 0; i < READ_AFTER_MAX + 2; i++)
      counts.push((await partHeader(folder, await make(tarWith(`${i}`))))?.readAfter.length ?? -1)
    expect(counts).toEqual([...Array(READ_AFTER_MAX).keys(), 0, 1])
  })

  test("a larger one gets a process of its own, and none waits beside it", async () => {
    const { folder, series, make } = await setUp()
    await using _ = series
    const tar = tarWith("x".repeat(2 ** 25))
    await make(tarWith("a"))
    expect(await partHeader(folder, await make(tar))).toMatchObject({ readAfter: [] })
    expect(processes()).toEqual([])
    expect(await partHeader(folder, await make(tarWith("b")))).toMatchObject({ readAfter: [] })
  })

  test("I8: one that is not what it claims to be, or is malformed, leaves nothing", async () => {
    const { folder, series, make } = await setUp()
    await using _ = series
    await make(tarWith("a"))
    expect(await codeOf(() => make(Buffer.from("rubbish".repeat(500))))).toBe("tar-header")
    expect(readdirSync(folder.top("tmp"))).toEqual([])
    expect(readdirSync(folder.top("parts"))).toHaveLength(1)
  })
})

/** A process that gives the same parts for whatever layers it is told to read. */
function forger(parts: readonly (readonly [data: Buffer, index: Buffer])[]): string {
  const encoded = parts.map(part => part.map(bytes => bytes.toString("base64")))
  return `
    import fs from "node:fs"
    const parts = ${JSON.stringify(encoded)}
    let input = Buffer.alloc(0)
    process.stdin.on("data", chunk => {
      input = Buffer.concat([input, chunk])
      const end = input.indexOf(10) + 1
      if (end === 0) return
      const { size } = JSON.parse(input.subarray(0, end))
      if (input.length < end + size) return
      input = input.subarray(end + size)
      for (const [i, bytes] of parts.shift().entries())
        fs.writeSync(3 + i, Buffer.from(bytes, "base64"), 0, undefined, 0)
      fs.writeSync(5, '{"peak":1}\\n')
    })`
}

describe("I4: a process that the first layer took over", () => {
  const [evil, victim] = [tarWith("evil"), tarWith("good")]
  const content = Buffer.alloc(4096)
  content.write("evil")
  const forged = (tar: Buffer) => {
    const { root } = layerOf([{ path: "f", content: "evil" }])
    return [content, encodeLayerIndex({ diffId: digestOf(tar), dataSize: 4096, root })] as const
  }

  const contentIn = async (path: string, ...tars: readonly Buffer[]) => {
    const layout = new TestLayout(temporaryFolder())
    const { digest } = layout.image(tars.map(tar => ({ blob: tar, tar })))
    const store = await ImageStore.open(path, { keepBlobs: false })
    const image = await store.load(`oci:${layout.path}`)
    expect(image.digest).toBe(digest)
    return readErofs(readDiskBytes(image.disk())).get("f")?.content.toString()
  }

  test("can forge later layers for images that have the first one, and for no others", async () => {
    const { path, folder, series, make } = await setUp(forger([forged(evil), forged(victim)]))
    const [first, second] = [await make(evil), await make(victim)]
    await series.end()
    const header = await partHeader(folder, second)
    expect(header?.readAfter).toEqual([first])
    expect([[second], [first, second]].map(layers => isPartOf(header as LayerHeader, layers))).toEqual([
      false,
      true,
    ])
    expect(await contentIn(path, evil, victim)).toBe("evil")
    expect(await contentIn(path, victim)).toBe("good")
    // Both have the part that was read alone from now on.
    expect((await partHeader(folder, second))?.readAfter).toEqual([])
    expect((await (await ImageStore.open(path)).list()).length).toBe(2)
  })

  test("cannot say itself that others were read before, nor that none were", async () => {
    const honest = forged(victim)[1]
    const marked = markReadAfter(honest, [digestOf(evil)])
    const { series, make } = await setUp(forger([forged(evil), [content, marked]]))
    await using _ = series
    await make(evil)
    expect(await codeOf(() => make(victim))).toBe("index-corrupt")
  })

  test("does not have its answer taken before its layer is there", async () => {
    const early = forger([]).replace("let input", `fs.writeSync(5, '{"peak":1}\\n{"peak":1}\\n'); let input`)
    const { series, make } = await setUp(early)
    await using _ = series
    expect(await codeOf(() => make(victim))).toBe("layer-process")
  })
})
