import { deepStrictEqual, ok, strictEqual } from "node:assert"
import { createHash } from "node:crypto"
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs"
import { type FileHandle, open } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
// The layer reader is an inner part of its package: a store around it would cost a thousand syncs a second.
import { writeMetadata } from "../../packages/oci-image/src/erofs/write.js"
import { isImageError } from "../../packages/oci-image/src/errors.js"
import { decodeLayerIndex, encodeLayerIndex } from "../../packages/oci-image/src/layer/layer-index.js"
import { mergeLayers } from "../../packages/oci-image/src/layer/merge.js"
import { PartWriter } from "../../packages/oci-image/src/layer/part-writer.js"
import { type ReadLayer, readLayer } from "../../packages/oci-image/src/layer/read-layer.js"
import type { TreeNode } from "../../packages/oci-image/src/layer/tree.js"
import { DEFAULT_LIMITS } from "../../packages/oci-image/src/limits.js"
import { VerifiedBlob } from "../../packages/oci-image/src/sources/blob.js"
import { fuzz } from "./harness.js"
import { type LayerCase, randomLayer } from "./tar-cases.js"

const MIB = 2 ** 20
const BLOCK = 4096
const LIMITS = {
  ...DEFAULT_LIMITS,
  layerBytes: 2 * MIB,
  ratioFloor: MIB / 2,
  ratio: 50,
  paddingBytes: 4096,
  entries: 200,
  depth: 32,
}

let folder: string
let file: FileHandle

fuzz<LayerCase>({
  name: "layers",
  share: 0.1,
  async setUp() {
    folder = mkdtempSync(join(tmpdir(), "ts-vmm-fuzz-layers-"))
    writeFileSync(join(folder, "sentinel"), "untouched")
    file = await open(join(folder, "part"), "wx+")
  },
  async tearDown() {
    await file.close()
    deepStrictEqual(readdirSync(folder).sort(), ["part", "sentinel"], "files were made")
    rmSync(folder, { recursive: true, force: true })
  },
  generate: randomLayer,
  async run(input) {
    await file.truncate(0)
    const part = new PartWriter(file)
    const layer = await read(input, part)
    if (!layer) return
    checkTree(layer.root, part.size, 0)
    checkIndex(layer, part.size)
    checkImage(layer, part.size)
    strictEqual((await file.stat()).size, part.size, "size of the data part")
  },
})

/** @returns undefined when the layer was refused, with an error that says so */
async function read(
  { bytes, compression, chunks, wrongDigest }: LayerCase,
  part: PartWriter,
): Promise<ReadLayer | undefined> {
  const hash = createHash("sha256").update(bytes)
  if (wrongDigest) hash.update("x")
  const source = {
    async *open() {
      for (let at = 0, i = 0; at < bytes.length; i++) {
        const size = Math.max(1, chunks[i % chunks.length] ?? 1)
        yield Buffer.from(bytes.subarray(at, at + size))
        at += size
      }
    },
  }
  const request = { digest: `sha256:${hash.digest("hex")}` as const, size: bytes.length }
  try {
    const layer = await readLayer({
      blob: new VerifiedBlob(source, request, "layer"),
      compression,
      part,
      limits: LIMITS,
    })
    ok(!wrongDigest, "accepted with a wrong digest")
    return layer
  } catch (error) {
    if (isImageError(error)) return undefined
    throw error
  }
}

/** Every name is one, every file lies inside the data part. */
function checkTree(node: TreeNode, partSize: number, depth: number): number {
  ok(depth <= LIMITS.depth + 1, "tree deeper than the limit")
  if (node.kind === "file" && node.size > 0) {
    ok(
      Number.isInteger(node.block) && node.block * BLOCK + node.size <= partSize,
      "file outside the data part",
    )
  }
  ok(node.mode >= 0 && node.mode <= 0o7777 && node.uid >= 0 && node.uid < 2 ** 32 - 1, "mode or owner")
  let count = 1
  for (const [name, child] of node.children ?? []) {
    ok(
      name !== "" && name !== "." && name !== ".." && !/[/\0]/.test(name) && name.length <= 255,
      `name ${name}`,
    )
    ok(!name.startsWith(".wh."), "whiteout in the tree")
    count += checkTree(child, partSize, depth + 1)
  }
  ok(count <= LIMITS.entries + 1, "more entries than the limit")
  return count
}

/** What the store keeps comes back the same. */
function checkIndex(layer: ReadLayer, dataSize: number): void {
  const bytes = Buffer.from(encodeLayerIndex({ ...layer, dataSize }))
  const again = decodeLayerIndex(bytes)
  ok(bytes.equals(encodeLayerIndex(again)), "index does not survive a round trip")
}

/** An image of the layer on top of itself: merged, and written as EROFS. */
function checkImage(layer: ReadLayer, dataSize: number): void {
  const stored = encodeLayerIndex({ diffId: layer.diffId, dataSize, root: fresh(layer.root) })
  const layers = [0, 1].map(part => ({ root: decodeLayerIndex(Buffer.from(stored)).root, part }))
  try {
    const root = mergeLayers(layers, { ...LIMITS, entries: 2 * LIMITS.entries })
    checkTree(root, dataSize, 0)
    let size = 0
    for (const piece of writeMetadata({ root, partSizes: [dataSize, dataSize], uuid: Buffer.alloc(16) }))
      size += piece.length
    strictEqual(size % BLOCK, 0, "size of the metadata part")
  } catch (error) {
    if (!isImageError(error)) throw error
  }
}

/** The encoder numbers nodes in their `slot`: gives them back unused. */
function fresh(node: TreeNode): TreeNode {
  node.slot = -1
  for (const child of node.children?.values() ?? []) fresh(child)
  return node
}
