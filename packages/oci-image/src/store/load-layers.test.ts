import { readdirSync } from "node:fs"
import { join } from "node:path"
import { setTimeout as sleep } from "node:timers/promises"
import { expect, test } from "vitest"
import { ImageError } from "../errors.js"
import { packImage } from "../pack/pack-image.js"
import type { BlobSource } from "../sources/blob.js"
import { LayoutFolder, LayoutSource } from "../sources/layout.js"
import type { ImageSource } from "../sources/source.js"
import { codeOf, temporaryFolder } from "../test-support/images.js"
import type { LoadProgress } from "./load-options.js"
import { ImageStore } from "./store.js"

const LAYERS = 7

/** An image of seven layers, and a source that lets a test in between store and blobs. */
async function setUp(open: (blobs: BlobSource) => BlobSource["open"]) {
  const folder = temporaryFolder()
  const layers = Array.from({ length: LAYERS }, (_, i) => ({
    files: [{ path: `f${i}`, content: Buffer.alloc(300_000, `${i}`) }],
  }))
  const packed = await packImage(join(folder, "image"), { layers })
  const layout = new LayoutSource(await LayoutFolder.open(join(folder, "image")))
  const source: ImageSource = {
    blobs: { open: open(layout.blobs) },
    locate: options => layout.locate(options),
    [Symbol.asyncDispose]: () => layout[Symbol.asyncDispose](),
  }
  return { folder, source, packed, path: join(folder, "store") }
}

const countIn = (path: string, folder: string) => readdirSync(join(path, folder)).length

test.each([1, 3, 20])("makes at most %i parts at once", async parallelLayers => {
  const expected = Math.min(parallelLayers, LAYERS)
  let [open, most] = [0, 0]
  await using set = Object.assign(
    await setUp(
      blobs =>
        async function* (request) {
          if (request.size > 100_000) most = Math.max(most, ++open)
          try {
            yield* blobs.open(request)
            // One whose process is up sooner than another one is begun with must not end before that.
            while (request.size > 100_000 && most < expected) await sleep(5)
            await sleep(20)
          } finally {
            if (request.size > 100_000) open--
          }
        },
    ),
    { [Symbol.asyncDispose]: async () => undefined },
  )
  const store = await ImageStore.open(set.path, { parallelLayers })
  const image = await store.load(set.source)
  await set.source[Symbol.asyncDispose]()
  expect(image.digest).toBe(set.packed.digest)
  expect(most).toBe(expected)
})

test("tells of every layer: waiting, reading, done; and what was there already", async () => {
  const { source, path } = await setUp(blobs => request => blobs.open(request))
  const store = await ImageStore.open(path)
  const seen: LoadProgress[] = []
  const image = await store.load(source, { onProgress: progress => seen.push(progress) })

  for (const [position, layer] of image.layers.entries()) {
    const own = seen.filter(progress => progress.position === position)
    expect([...new Set(own.map(progress => progress.state))]).toEqual(["waiting", "reading", "done"])
    expect(own.map(progress => progress.done)).toEqual(own.map(p => p.done).sort((a, b) => a - b))
    const total = own[0]?.total as number
    expect(own.at(-1)).toEqual({ layer, position, layers: LAYERS, state: "done", done: total, total })
  }

  // The image is gone but its parts are not yet: another load keeps them.
  let last: LoadProgress[] = []
  const other = await ImageStore.open(path)
  const slow: ImageSource = {
    ...source,
    locate: async options => {
      await other.remove(image.digest)
      return source.locate(options)
    },
  }
  await store.load(slow, { onProgress: progress => (last = [...last, progress]) })
  await source[Symbol.asyncDispose]()
  expect(last.map(progress => progress.state)).toEqual([
    ...Array.from({ length: LAYERS }, () => "waiting"),
    ...Array.from({ length: LAYERS }, () => "exists"),
  ])
})

test("the first failure ends the others and leaves nothing half done", async () => {
  let started = 0
  let ended = 0
  const { source, path } = await setUp(
    blobs =>
      async function* (request, signal) {
        if (request.size < 100_000) return yield* blobs.open(request)
        const position = started++
        try {
          if (position === 1) {
            // It must not end the others before they have begun.
            while (started < 3) await sleep(1)
            throw new ImageError("blob-missing", "this one is not there")
          }
          // The others hang until they are told to stop.
          await sleep(600_000, undefined, { signal })
        } finally {
          ended++
        }
      },
  )
  const store = await ImageStore.open(path)
  expect(await codeOf(() => store.load(source))).toBe("blob-missing")
  await source[Symbol.asyncDispose]()
  expect([started, ended]).toEqual([3, 3])
  expect(["tmp", "leases", "parts", "images"].map(folder => countIn(path, folder))).toEqual([0, 0, 0, 0])
})
