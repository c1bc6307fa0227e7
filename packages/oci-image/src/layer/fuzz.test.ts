import fc from "fast-check"
import { expect, test } from "vitest"
import { isImageError } from "../errors.js"
import { DEFAULT_LIMITS } from "../limits.js"
import { readTar, tarOf } from "../test-support/images.js"
import { LayerTree } from "./layer-tree.js"
import { mergeLayers } from "./merge.js"

const stream = tarOf([
  { path: "d/", mode: 0o755 },
  { path: `d/${"n".repeat(120)}`, content: "content", xattrs: { "user.a": "b" }, mtime: 1.5 },
  { path: "l", target: "d" },
  { path: "h", type: "link", target: "l" },
  { path: "d/.wh.x" },
  { path: "c", type: "char", major: 1, minor: 3 },
])

test("I4: a damaged stream gives a tree or an ImageError, however it is cut, and the same one each time", () => {
  const changes = fc.array(fc.tuple(fc.nat(stream.length - 1), fc.nat(255)), { minLength: 1, maxLength: 8 })
  fc.assert(
    fc.property(
      changes,
      fc.integer({ min: 1, max: 2000 }),
      fc.boolean(),
      (edits, chunkSize, fixChecksums) => {
        const bad = Buffer.from(stream)
        for (const [at, value] of edits) bad[at] = value
        if (fixChecksums)
          for (let at = 0; at + 512 <= bad.length; at += 512) fixChecksum(bad.subarray(at, at + 512))
        expect(outcome(bad, chunkSize)).toEqual(outcome(bad, bad.length))
      },
    ),
    { seed: 4, numRuns: 2000 },
  )
})

/** Makes a block that may be a header pass as one, so that the fuzz gets behind the checksum. */
function fixChecksum(block: Buffer): void {
  if (!block.includes("ustar")) return
  block.fill(0x20, 148, 156)
  const sum = block.reduce((a, b) => a + b, 0)
  block.write(`${sum.toString(8).padStart(6, "0")}\0 `, 148, "latin1")
}

function outcome(bytes: Buffer, chunkSize: number): unknown {
  try {
    const tree = new LayerTree(DEFAULT_LIMITS)
    for (const [entry] of readTar(bytes, chunkSize)) tree.add(entry)
    return [...(mergeLayers([{ root: tree.root, part: 0 }], DEFAULT_LIMITS).children?.keys() ?? [])]
  } catch (error) {
    if (isImageError(error)) return error.code
    throw error
  }
}
