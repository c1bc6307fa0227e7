import { randomBytes } from "node:crypto"
import { readFileSync } from "node:fs"
import { join } from "node:path"
import { describe, expect, test } from "vitest"
import type { PackFile } from "../../pack/items.js"
import { readErofs } from "../../test-support/erofs-reader.js"
import { codeOf, plainLayer, TestLayout } from "../../test-support/images.js"
import { lazyStore } from "../../test-support/lazy-store.js"
import { estargzLayer, type TocLayerOptions, zstdChunkedLayer } from "../../test-support/toc-layers.js"
import type { LazyImage } from "../lazy-image.js"

const noise = randomBytes(300_000)

const FILES: PackFile[] = [
  { path: "./", mode: 0o750, mtime: 77 },
  { path: "etc/", mode: 0o700, uid: 7, gid: 8, mtime: 1_700_000_000 },
  { path: "etc/hosts", content: "127.0.0.1 localhost\n", mtime: 1_700_000_000.25 },
  { path: "empty", content: "" },
  { path: "noise", content: noise, mode: 0o4755, uid: 100_000 },
  { path: "block", content: Buffer.alloc(4096, "b") },
  ...Array.from(
    { length: 40 },
    (_, i): PackFile => ({ path: `small/${i}`, content: `file ${i}\n`.repeat(i) }),
  ),
  { path: "small/again", type: "link", target: "small/39" },
  { path: "link", target: "../etc/hosts" },
  { path: "dev/null", type: "char", major: 1, minor: 3, mode: 0o666 },
  { path: "dev/disk", type: "block", major: 8, minor: 1 },
  { path: "pipe", type: "fifo" },
  { path: "capable", content: "x", xattrs: { "security.capability": Buffer.from([1, 0, 0, 2, 0]) } },
  { path: "größe", content: "häß" },
  { path: `long/${"n".repeat(150)}/${"m".repeat(120)}`, content: "deep" },
  { path: "below/.wh.gone", content: "" },
  { path: "opaque/.wh..wh..opq", content: "" },
  { path: "twice", content: "first" },
  { path: "twice", content: "the second one counts" },
]
const LOWER: PackFile[] = [
  { path: "below/gone", content: "gone" },
  { path: "below/stays", content: "stays" },
  { path: "opaque/hidden", content: "hidden" },
]

/** All files of a disk as a guest sees them. */
async function filesOf(disk: ReturnType<LazyImage["disk"]>): Promise<[string, object][]> {
  const pieces: Buffer[] = []
  for (const { path, size, prepare } of disk.parts) {
    await prepare?.(0, size)
    pieces.push(readFileSync(path))
  }
  // The table is in the layer that it describes, but does not tell of itself.
  const files = [...readErofs(Buffer.concat(pieces))].filter(([path]) => path !== "stargz.index.json")
  return files.map(([path, { nid: _, nsec, ...file }]) => {
    const isDirectory = (file.mode & 0o170000) === 0o040000
    const content = isDirectory ? undefined : file.content.toString("latin1")
    return [path, { ...file, mtime: Math.round(file.mtime + nsec / 1e9), content }]
  })
}

const FORMATS = [
  ["estargz", estargzLayer],
  ["zstd:chunked", zstdChunkedLayer],
] as const

const VARIANTS: [string, TocLayerOptions][] = [
  ["chunks smaller than a block", {}],
  ["large chunks", { chunkSize: 100_000 }],
  ["small files in one member", { shareBelow: 5000, chunkSize: 50_000 }],
]

describe.each(FORMATS)("an image of %s layers", (format, layerOf) => {
  test.each(VARIANTS)(
    "has at its first start the files that it has when it is loaded: %s",
    async (_, options) => {
      const { store, source, reports, open, temporary } = await lazyStore([
        layerOf(LOWER, options),
        layerOf(FILES, options),
      ])
      const image = await open()
      if (!image) throw new Error(`${reports.map(report => report.reason)}`)
      expect([...image.bases.values()]).toEqual([format, format])
      const lazily = await filesOf(image.disk())
      await image.fill()
      const stored = await store.load(source)
      expect(lazily).toEqual(await filesOf(stored.disk()))
      await image[Symbol.asyncDispose]()
      expect(temporary()).toEqual([])
    },
  )

  test("fetches little for little", async () => {
    const large = { path: "zz", content: randomBytes(3_000_000) }
    const { source, open } = await lazyStore([layerOf([...FILES, large], { chunkSize: 100_000 })])
    await using image = await open()
    const before = source.bytes
    await image?.disk().parts[1]?.prepare?.(0, 1)
    expect(source.bytes - before).toBeGreaterThan(0)
    expect(source.bytes - before).toBeLessThan(1_000_000)
  })

  test("needs no table where the layer is in the store", async () => {
    const lower = plainLayer(LOWER)
    const { folder, store, open } = await lazyStore([lower, layerOf(FILES)])
    const other = new TestLayout(join(folder, "other"))
    other.image([lower])
    await store.load(`oci:${other.path}`)
    await using image = await open()
    expect([...(image?.bases.values() ?? [])]).toEqual([format])
  })

  test("is not begun with when one layer has no table", async () => {
    const { reports, open, temporary } = await lazyStore([plainLayer(LOWER), layerOf(FILES)])
    expect(await open()).toBeUndefined()
    expect(reports.map(({ by }) => by)).toEqual(["whole"])
    expect(reports[0]?.reason?.message).toContain("no table of contents")
    expect(temporary()).toEqual([])
  })

  test("is not begun with by its table when that does not count", async () => {
    const { store, source } = await lazyStore([layerOf(FILES)])
    expect(await store.openLazy(source, { useToc: false })).toBeUndefined()
  })

  test("I13: a registry that is lost fails what needs it, and nothing else", async () => {
    const { source, open, temporary } = await lazyStore([layerOf(FILES)])
    const image = await open()
    const part = image?.disk().parts[1]
    await part?.prepare?.(0, 1)
    source.isLost = true
    expect(part?.prepare?.(0, 1)).toBeUndefined()
    await expect(image?.fill()).rejects.toThrow("lost")
    await image?.[Symbol.asyncDispose]()
    expect(temporary()).toEqual([])
  })

  test("I6: other bytes than those of a chunk are refused, and none of them is seen", async () => {
    const honest = layerOf([{ path: "a", content: noise }], { chunkSize: 300_000 })
    const blob = Buffer.from(honest.blob)
    blob.writeUInt8(blob.readUInt8(150_000) ^ 0x55, 150_000)
    const { store, open } = await lazyStore([{ ...honest, blob }])
    await using image = await open()
    const part = image?.disk().parts[1]
    expect(await codeOf(() => part?.prepare?.(0, 4096))).toBe("digest-mismatch")
    expect(readFileSync(part?.path ?? "").every(byte => byte === 0)).toBe(true)
    expect(await codeOf(() => image?.fill())).toBe("digest-mismatch")
    expect(await store.list()).toEqual([])
  })
})

test("I5: what is packed together is fetched once, however many chunks are in it", async () => {
  const content = randomBytes(6_000_000)
  const files: PackFile[] = Array.from({ length: 60 }, (_, i) => ({
    path: `part/${String(i).padStart(2, "0")}`,
    content: content.subarray(100_000 * i, 100_000 * (i + 1)),
  }))
  const { source, open } = await lazyStore([estargzLayer(files, { shareBelow: 100_000, chunkSize: 50_000 })])
  await using image = await open()
  const part = image?.disk().parts[1]
  const before = source.bytes
  for (let at = 0; at < (part?.size ?? 0); at += 4096 * 25) await part?.prepare?.(at, 4096)
  expect(source.bytes - before).toBeLessThan(1.1 * content.length)
  await image?.fill()
  expect(source.bytes - before).toBeLessThan(1.2 * content.length)
})
