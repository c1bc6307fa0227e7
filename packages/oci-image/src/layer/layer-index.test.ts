import fc from "fast-check"
import { describe, expect, test } from "vitest"
import { digestOf } from "../digest.js"
import type { PackFile } from "../pack/items.js"
import { codeOf, layerOf } from "../test-support/images.js"
import { decodeLayerIndex, encodeLayerIndex } from "./layer-index.js"
import { implicitDirectory, TreeNode } from "./tree.js"

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

test("keeps where the content of sparse files is", () => {
  const root = implicitDirectory()
  const node = new TreeNode("file")
  Object.assign(node, { size: 40_000, block: 1, runs: [0, 1, 5, 2] })
  root.children?.set("f", node)
  const again = decodeLayerIndex(encodeLayerIndex({ diffId: digestOf("x"), dataSize: 4 * 4096, root }))
  expect(again.root.children?.get("f")).toMatchObject({
    size: 40_000,
    block: 1,
    runs: [0, 1, 5, 2],
  })
})

describe("an index that is whole but says what no layer does", () => {
  const cases: readonly (readonly [string, string, Partial<TreeNode>])[] = [
    ["name with a slash", "a/b", {}],
    ["name ..", "..", {}],
    ["empty name", "", {}],
    ["name with NUL", "a\0", {}],
    ["file beyond the data", "f", { size: 4097, block: 0 }],
    ["file that begins beyond the data", "f", { size: 1, block: 1 }],
    ["negative size", "f", { size: -1 }],
    ["size that is no integer", "f", { size: 0.5 }],
    ["size that is no number", "f", { size: Number.NaN }],
    ["runs beyond the data", "f", { size: 40_000, runs: [0, 1, 3, 1] }],
    ["runs beyond the file", "f", { size: 4096, runs: [1, 1] }],
    ["runs out of order", "f", { size: 40_000, runs: [5, 1, 3, 0] }],
    ["half a run", "f", { size: 40_000, runs: [5] }],
    ["mode of another type", "f", { mode: 0o100644 }],
    ["owner that is none", "f", { uid: 0xffffffff }],
    ["time beyond what counts", "f", { mtime: 1e300 }],
    ["too many nanoseconds", "f", { mtimeNsec: 1e9 }],
    ["attribute of overlayfs", "f", { xattrs: new Map([["trusted.overlay.opaque", Buffer.from("y")]]) }],
    ["attribute that EROFS does not have", "f", { xattrs: new Map([["x", Buffer.from("y")]]) }],
    ["empty symlink", "f", { kind: "symlink", target: "" }],
    ["symlink with NUL", "f", { kind: "symlink", target: "a\0" }],
    ["link out of the root", "f", { kind: "link", target: "../a" }],
    ["device number", "f", { kind: "char", major: 4096 }],
    ["whiteout of the parent", "d", { kind: "directory", whiteouts: new Set([".."]) }],
  ]

  test.each(cases)("I4: %s", async (_what, name, fields) => {
    const root = implicitDirectory()
    const node = new TreeNode(fields.kind ?? "file")
    root.children?.set(name, Object.assign(node, fields))
    const bytes = encodeLayerIndex({ diffId: digestOf("x"), dataSize: 4096, root })
    expect(await codeOf(() => decodeLayerIndex(bytes))).toBe("index-corrupt")
  })

  test("I6: more names than a layer may have", async () => {
    const bytes = encoded()
    expect(await codeOf(() => decodeLayerIndex(bytes, 8))).toBe("index-corrupt")
    expect(await codeOf(() => decodeLayerIndex(bytes, 9))).toBeUndefined()
  })

  test("I6: directories deeper than a path", async () => {
    const root = implicitDirectory()
    let at = root
    for (let i = 0; i < 2049; i++) {
      const next = implicitDirectory()
      at.children?.set("d", next)
      at = next
    }
    const bytes = encodeLayerIndex({ diffId: digestOf("x"), dataSize: 0, root })
    expect(await codeOf(() => decodeLayerIndex(bytes))).toBe("index-corrupt")
  })
})
