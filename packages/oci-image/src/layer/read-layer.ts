import { createHash } from "node:crypto"
import { type Digest, finishDigest } from "../digest.js"
import type { ImageLimits } from "../limits.js"
import type { Compression } from "../spec/media-types.js"
import type { Contents } from "./contents.js"
import { type CompressedInput, decompress } from "./decompress.js"
import { LayerTree } from "./layer-tree.js"
import { PartFiller } from "./part-filler.js"
import type { PartWriter } from "./part-writer.js"
import { TarReader } from "./tar-reader.js"
import type { TreeNode } from "./tree.js"

/** A layer's blob while it is read. */
export interface LayerInput extends CompressedInput {
  /** Reads the rest without handing it out. */
  drain(): Promise<void>
  /** Ends reading, also early. */
  close(): Promise<void>
}

/** What reading a layer needs. */
export interface ReadLayerOptions {
  readonly blob: LayerInput
  readonly compression: Compression
  /** Receives file contents. */
  readonly part: PartWriter
  readonly limits: ImageLimits
}

/** A layer that was read to its end. */
export interface ReadLayer {
  /** Digest of the tar stream. */
  readonly diffId: Digest
  readonly root: TreeNode
  readonly contents: Contents
}

/**
 * Reads one layer in one pass: blob bytes in, file contents into the data part, the tree in memory. Where the
 * blob checks what it hands out, this only resolves at its proven end.
 *
 * @throws ImageError what blob, decompression, tar stream and entries throw
 */
export async function readLayer({ blob, compression, part, limits }: ReadLayerOptions): Promise<ReadLayer> {
  const hash = createHash("sha256")
  const tree = new LayerTree(limits)
  const filler = new PartFiller(tree, part)
  const tar = new TarReader(filler, limits, { sparse: true })
  try {
    for await (const chunk of decompress(blob, compression, limits)) {
      hash.update(chunk)
      tar.push(chunk)
      await part.drain()
    }
    await blob.drain()
    tar.end()
    await part.finish()
    return { diffId: finishDigest(hash), root: tree.root, contents: filler.contents.finish() }
  } finally {
    await blob.close()
  }
}
