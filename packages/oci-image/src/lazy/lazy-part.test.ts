import { randomBytes } from "node:crypto"
import { readFileSync } from "node:fs"
import { type FileHandle, open } from "node:fs/promises"
import { join } from "node:path"
import { gzipSync } from "node:zlib"
import { afterEach, describe, expect, test } from "vitest"
import { parseDigest } from "../digest.js"
import { DEFAULT_LIMITS } from "../limits.js"
import type { PackFile } from "../pack/items.js"
import type { Compression } from "../spec/media-types.js"
import { StoreFolder } from "../store/folder.js"
import { ImageStore } from "../store/store.js"
import { codeOf, TestLayout, tarOf, temporaryFolder } from "../test-support/images.js"
import { skippableZstd, storedZstd } from "../test-support/stored-zstd.js"
import { findCheckpoints } from "./checkpoints.js"
import { type FetchRange, LazyPart } from "./lazy-part.js"
import { restingFetch } from "./resting-fetch.js"
import { decodeSpanIndex, encodeSpanIndex, type SpanIndex } from "./span-index.js"

const MEDIA_TYPE = {
  none: "application/vnd.oci.image.layer.v1.tar",
  gzip: "application/vnd.oci.image.layer.v1.tar+gzip",
  zstd: "application/vnd.oci.image.layer.v1.tar+zstd",
}
const opened: FileHandle[] = []
afterEach(async () => {
  for (const file of opened.splice(0)) await file.close()
})

const noise = randomBytes(3_000_000)

/** Files of many sizes: text that packs well, noise that does not, nothing, several names of one. */
const FILES: PackFile[] = [
  { path: "empty", content: "" },
  { path: "text", content: Array.from({ length: 600_000 }, (_, i) => `${i % 1013} `).join("") },
  ...Array.from(
    { length: 300 },
    (_, i): PackFile => ({ path: `small/${i}`, content: `file ${i}\n`.repeat(i) }),
  ),
  { path: "noise", content: noise },
  { path: "twice", content: "first" },
  { path: "twice", content: "the second one counts" },
  { path: "last", content: "end" },
]

/** Stores a layer, and indexes it. */
async function indexed(
  pack: (tar: Buffer) => Buffer = gzipSync,
  compression: Compression = "gzip",
  content = FILES,
) {
  const { folder, blob, layer, whole } = await keptIndex(pack, compression, content)
  expect(whole).toEqual([])
  const files = new StoreFolder(join(folder, "store"))
  const index = decodeSpanIndex(readFileSync(files.lazy(layer, "spans")))
  return { index, blob, data: readFileSync(files.part(layer, "data")), folder }
}

/** Stores a layer, and keeps its index, if there can be one. */
async function keptIndex(pack: (tar: Buffer) => Buffer, compression: Compression, content: PackFile[]) {
  const folder = temporaryFolder()
  const layout = new TestLayout(join(folder, "layout"))
  const tar = tarOf(content)
  const blob = pack(tar)
  layout.image([{ blob, tar, mediaType: MEDIA_TYPE[compression] }])
  const store = await ImageStore.open(join(folder, "store"))
  const image = await store.load(`oci:${layout.path}`)
  const layer = parseDigest(image.layers[0])
  return { folder, blob, layer, whole: await store.keepLazyIndex(image.digest) }
}

async function lazy(index: SpanIndex, fetch: FetchRange, folder: string) {
  const file = await open(join(folder, `lazy-${opened.length}`), "wx+")
  opened.push(file)
  return { part: await LazyPart.create({ index, fetch, file, limits: DEFAULT_LIMITS }), file }
}

const from =
  (blob: Buffer, asked: [number, number][] = []): FetchRange =>
  async (start, end) => {
    asked.push([start, end])
    return blob.subarray(start, end)
  }

function flip(bytes: Buffer, at: number): void {
  bytes.writeUInt8(bytes.readUInt8(at) ^ 0x55, at)
}

const PACKINGS: [string, (tar: Buffer) => Buffer, Compression][] = [
  ["gzip", tar => gzipSync(tar), "gzip"],
  ["gzip -1", tar => gzipSync(tar, { level: 1 }), "gzip"],
  [
    "gzip of several members",
    tar => Buffer.concat([gzipSync(tar.subarray(0, 2_000_000)), gzipSync(tar.subarray(2_000_000))]),
    "gzip",
  ],
  ["zstd of many frames", zstdFrames, "zstd"],
  ["nothing", tar => tar, "none"],
]

function zstdFrames(tar: Buffer): Buffer {
  const frames = [skippableZstd(Buffer.from("first"))]
  for (let at = 0; at < tar.length; at += 70_000) frames.push(storedZstd(tar.subarray(at, at + 70_000)))
  return Buffer.concat([...frames, skippableZstd(Buffer.from("last"))])
}

describe.each(PACKINGS)("a layer packed with %s", (_, pack, compression) => {
  test("every range is what the whole part has there, and only what it needs is fetched", async () => {
    const { index, blob, data, folder } = await indexed(pack, compression)
    const { part, file } = await lazy(index, from(blob), folder)
    expect(part.size).toBe(data.length)
    for (const at of [0, 5 * 4096, data.length - 4096, 1_000_000 & ~4095]) {
      await part.prepare(at, 4096)
      expect(part.prepare(at, 4096)).toBeUndefined()
      const { buffer } = await file.read(Buffer.alloc(4096), 0, 4096, at)
      expect(buffer.equals(data.subarray(at, at + 4096))).toBe(true)
    }
    expect(part.isWhole).toBe(false)
    expect(part.bytesFetched).toBeLessThan(blob.length)
  })

  test("filled, it is the whole part", async () => {
    const { index, blob, data, folder } = await indexed(pack, compression)
    const { part, file } = await lazy(index, from(blob), folder)
    await part.fill([index.spans.length - 1, 0, 7_000_000])
    expect(part.spansWanted).toEqual([])
    await part.prepare(data.length - 4096, 4096)
    expect(part.spansWanted).toEqual([index.spans.length - 1])
    await part.fill()
    expect(part.isWhole).toBe(true)
    await part.finish()
    for (const { position, size } of index.runs) {
      const { buffer } = await file.read(Buffer.alloc(size), 0, size, position)
      expect(buffer.equals(data.subarray(position, position + size))).toBe(true)
    }
  })

  test("the index survives being stored", async () => {
    const { index } = await indexed(pack, compression)
    const bytes = encodeSpanIndex(index)
    expect(encodeSpanIndex(decodeSpanIndex(bytes)).equals(bytes)).toBe(true)
  })
})

describe("I14: while it arrives", () => {
  test("several that need a span share its fetching", async () => {
    const { index, blob, folder } = await indexed()
    const asked: [number, number][] = []
    const { part } = await lazy(index, from(blob, asked), folder)
    await Promise.all([part.prepare(0, 4096), part.prepare(0, 4096), part.prepare(0, 4096)])
    expect(asked).toHaveLength(1)
  })

  test("other bytes than those indexed are refused, and the range stays missing", async () => {
    const { index, blob, folder } = await indexed()
    let spoilt: Buffer = Buffer.from(blob)
    flip(spoilt, Math.floor(blob.length / 100))
    const { part } = await lazy(index, async (start, end) => spoilt.subarray(start, end), folder)
    expect(await codeOf(() => part.prepare(0, part.size))).toBe("digest-mismatch")
    spoilt = blob
    await part.prepare(0, part.size)
    await part.finish()
  })

  test("a registry that is lost fails what needs it, and nothing else", async () => {
    const { index, blob, folder } = await indexed()
    let isLost = false
    const fetch: FetchRange = async (start, end) => {
      if (isLost) throw new Error("lost")
      return blob.subarray(start, end)
    }
    const { part } = await lazy(index, fetch, folder)
    await part.prepare(0, 4096)
    isLost = true
    expect(part.prepare(0, 4096)).toBeUndefined()
    await expect(part.prepare(part.size - 4096, 4096)).rejects.toThrow("lost")
    isLost = false
    await part.prepare(part.size - 4096, 4096)
  })

  test("I13: after a failure nothing is asked for a while", async () => {
    let asked = 0
    const failing: FetchRange = async () => {
      asked++
      throw new Error("lost")
    }
    const never = new AbortController().signal
    const patient = restingFetch(failing, 60_000)
    for (let i = 0; i < 3; i++) await expect(patient(0, 1, never)).rejects.toThrow("lost")
    expect(asked).toBe(1)
    const impatient = restingFetch(failing, 0)
    for (let i = 0; i < 3; i++) await expect(impatient(0, 1, never)).rejects.toThrow("lost")
    expect(asked).toBe(4)
  })

  test("closing ends what is on its way", async () => {
    const { index, folder } = await indexed()
    const fetch: FetchRange = (_start, _end, signal) =>
      new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason)))
    const { part } = await lazy(index, fetch, folder)
    const waiting = codeOf(() => part.prepare(0, 4096))
    part.close()
    expect(await waiting).toBe("io")
  })
})

describe("I9: an index that was damaged", () => {
  test("is refused wherever a byte is wrong", async () => {
    const bytes = encodeSpanIndex((await indexed()).index)
    for (let at = 0; at < bytes.length; at += Math.ceil(bytes.length / 200)) {
      const damaged = Buffer.from(bytes)
      flip(damaged, at)
      expect(await codeOf(() => decodeSpanIndex(damaged))).toBe("index-corrupt")
    }
    expect(await codeOf(() => decodeSpanIndex(bytes.subarray(0, 10)))).toBe("index-corrupt")
  })

  test("is refused when it does not hold together, whatever its checksum", async () => {
    const { index } = await indexed()
    const [first, ...others] = index.spans
    if (!first) throw new Error("no spans")
    const wrong: SpanIndex[] = [
      { ...index, spans: [{ ...first, to: index.blobSize + 1 }, ...others] },
      { ...index, spans: [{ ...first, bit: 9 }, ...others] },
      { ...index, spans: [{ ...first, end: 2 ** 40 }, ...others] },
      { ...index, runs: [{ position: 0, offset: 0, size: 2 ** 40 }] },
      { ...index, runs: [{ position: 2 ** 43, offset: 0, size: 1 }] },
      { ...index, runs: [...index.runs, ...index.runs] },
    ]
    for (const one of wrong)
      expect(await codeOf(() => decodeSpanIndex(encodeSpanIndex(one)))).toBe("index-corrupt")
  })
})

test("files of equal content, which the part has once, are there when one of them is", async () => {
  const again = [...FILES, { path: "again", content: noise }, { path: "end", content: "end" }]
  const { index, blob, data, folder } = await indexed(gzipSync, "gzip", again)
  expect(data.length).toBeLessThan((await indexed()).data.length + 2 * 4096)
  const { part, file } = await lazy(index, from(blob), folder)
  await part.prepare(0, part.size)
  for (const { position, size } of index.runs) {
    const { buffer } = await file.read(Buffer.alloc(size), 0, size, position)
    expect(buffer.equals(data.subarray(position, position + size))).toBe(true)
  }
  await part.fill()
  await part.finish()
})

describe("what cannot be divided is read whole", () => {
  const large = [{ path: "large", content: Buffer.alloc(17 * 1024 * 1024, "0123456789") }]

  test("a zstd layer of one frame", async () => {
    const { layer, whole } = await keptIndex(storedZstd, "zstd", large)
    expect(whole).toEqual([layer])
  })

  test("but not one of many frames", async () => {
    const { index } = await indexed(zstdFrames, "zstd", large)
    expect(index.spans.length).toBeGreaterThan(8)
  })

  test("nothing at all", () => {
    expect(findCheckpoints(() => 0, "zstd", 0, DEFAULT_LIMITS)).toBeUndefined()
  })
})
