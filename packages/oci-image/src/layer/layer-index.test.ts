import fc from "fast-check"
import { expect, test } from "vitest"
import { digestOf } from "../digest.js"
import type { PackFile } from "../pack/items.js"
import { codeOf, layerOf } from "../test-support/images.js"
import { decodeLayerIndex, encodeLayerIndex } from "./layer-index.js"

const files: PackFile[] = [
  { path: "d/", mode: 0o1777, uid: 4_000_000_000, mtime: -0.5 },
  { path: "d/f", content: "x", xattrs: { "user.a": Buffer.from([0, 255]) } },
  { path: "d/l", type: "link", target: "d/f" },
  { path: "lower", type: "link", target: "not/here" },
  { path: "d/.wh.w" },
  { path: "o/.wh..wh..opq" },
  { path: "s", target: "t" },
  { path: "c", type: "char", major: 1, minor: 3 },
  { path: "p", type: "fifo" },
]
const encoded = () => encodeLayerIndex({ diffId: digestOf("x"), dataSize: 4096, root: layerOf(files).root })

test("reads back what was written, hard links as one node", () => {
  const index = decodeLayerIndex(encoded())
  expect(index).toMatchObject({ diffId: digestOf("x"), dataSize: 4096 })
  const directory = index.root.children?.get("d")
  expect(directory).toMatchObject({ mode: 0o1777, uid: 4_000_000_000, mtime: -1, mtimeNsec: 500_000_000 })
  expect(directory?.children?.get("l")).toBe(directory?.children?.get("f"))
  expect(directory?.whiteouts).toEqual(new Set(["w"]))
  expect(encodeLayerIndex(index)).toEqual(encoded())
})

test("does not depend on the order of the stream", () => {
  const shuffled = [...files.slice(3), ...files.slice(0, 3)]
  const again = encodeLayerIndex({ diffId: digestOf("x"), dataSize: 4096, root: layerOf(shuffled).root })
  expect(again).toEqual(encoded())
})

test("I14: refuses every damaged index with its code", async () => {
  const good = encoded()
  await fc.assert(
    fc.asyncProperty(fc.nat(good.length - 1), fc.integer({ min: 1, max: 255 }), async (at, change) => {
      const bad = Buffer.from(good)
      bad[at] = (bad[at] as number) ^ change
      expect(await codeOf(() => decodeLayerIndex(bad))).toBe("index-corrupt")
      expect(await codeOf(() => decodeLayerIndex(good.subarray(0, at)))).toBe("index-corrupt")
    }),
    { seed: 14, numRuns: 300 },
  )
})
