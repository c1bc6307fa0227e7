import { mkdir, rm } from "node:fs/promises"
import { join } from "node:path"
import { type Digest, digestHex } from "../digest.js"
import { PartBlocks } from "../erofs/extents.js"
import { writeMetadata } from "../erofs/write.js"
import { ImageError, ioError } from "../errors.js"
import type { Contents } from "../layer/contents.js"
import { findEqualChunks } from "../layer/equal-contents.js"
import { isPartOf } from "../layer/layer-header.js"
import type { LayerIndex } from "../layer/layer-index.js"
import { type MergeLayer, mergeLayers } from "../layer/merge.js"
import { SharedContents } from "../layer/shared-contents.js"
import type { TreeNode } from "../layer/tree.js"
import type { ImageLimits } from "../limits.js"
import type { FoundImage } from "../sources/source.js"
import type { ConfigDocument } from "../spec/config.js"
import { type StoreFolder, writeSynced } from "./folder.js"
import { readPartIndex } from "./parts.js"
import { proveEqual } from "./prove-equal.js"
import { type ImageRecord, readRecord } from "./stored-image.js"

/**
 * Makes an image of layers whose parts are in the store: merges their trees, writes the metadata part and the
 * record, and publishes both in one step.
 */
export async function makeImage(
  folder: StoreFolder,
  image: FoundImage,
  document: ConfigDocument,
  limits: ImageLimits,
): Promise<ImageRecord> {
  const readIndex: ReadIndex = (digest, diffId) => readPartIndex(folder, digest, diffId)
  const merged = await mergeImage(image, document, limits, readIndex)
  const { parts } = merged
  const paths = parts.map(part => folder.part(part.digest, "data"))
  const shared = await shareContents(merged, paths)
  const temporary = folder.temporary()
  try {
    await mkdir(temporary, { mode: 0o700 })
    const counted = new CountedPieces(metadataPieces(image, merged, shared))
    await writeSynced(join(temporary, "metadata"), counted)
    const record = recordOf(image, document, { parts, metadataSize: counted.size, sharedSize: shared.bytes })
    await writeSynced(join(temporary, "image.json"), JSON.stringify(record))
    // One that is there but not whole makes room; one that another process just made stays.
    if (!(await readRecord(folder, image.digest))) await folder.removeFolder(folder.image(image.digest))
    await folder.publishFolder(temporary, folder.image(image.digest))
    return record
  } catch (error) {
    await rm(temporary, { recursive: true, force: true })
    throw (error as NodeJS.ErrnoException).syscall ? ioError(error, "cannot write to the image store") : error
  }
}

type Part = ImageRecord["parts"][number]

/** Gives a layer's tree, proven to be the layer that the image means. */
export type ReadIndex = (digest: Digest, diffId: Digest) => Promise<LayerIndex>

/** An image before it has a disk: its tree, and the data parts that its files' contents are in. */
export interface MergedImage {
  readonly root: TreeNode
  readonly parts: readonly Part[]
  /** What stands in each part. */
  readonly contents: readonly Contents[]
}

/**
 * Merges the trees of an image's layers. A layer that occurs twice has one part.
 *
 * @throws ImageError `store-corrupt` for a layer that was read together with one that the image does not have
 */
export async function mergeImage(
  image: FoundImage,
  document: ConfigDocument,
  limits: ImageLimits,
  readIndex: ReadIndex,
): Promise<MergedImage> {
  const parts: Part[] = []
  const contents: Contents[] = []
  const layers: MergeLayer[] = []
  const digests = image.manifest.layers.map(layer => layer.digest)
  for (const [i, digest] of digests.entries()) {
    const index = await readIndex(digest, document.diffIds[i] as Digest)
    if (!isPartOf(index, digests)) throw readForAnother(digest)
    const known = parts.findIndex(part => part.digest === digest)
    if (known < 0 && index.dataSize > 0) {
      parts.push({ digest, size: index.dataSize })
      contents.push(index.contents)
    }
    layers.push({ root: index.root, part: known < 0 ? parts.length - 1 : known })
  }
  return { root: mergeLayers(layers, limits), parts, contents }
}

/** Finds what of an image's contents stands in the parts of lower layers, all of which are there. */
async function shareContents(
  { root, parts, contents }: MergedImage,
  paths: readonly string[],
): Promise<SharedContents> {
  const blocks = new PartBlocks(parts.map(part => part.size))
  const shared = new SharedContents(blocks)
  for await (const chunk of proveEqual(findEqualChunks(root, contents, blocks), paths, blocks))
    shared.add(chunk)
  return shared
}

/** An image's metadata part, in pieces. */
export function metadataPieces(
  image: FoundImage,
  { root, parts }: MergedImage,
  shared?: SharedContents,
): Iterable<Buffer> {
  return writeMetadata({
    root,
    partSizes: parts.map(part => part.size),
    shared: file => shared?.extentsOf(file),
    uuid: Buffer.from(digestHex(image.digest).slice(0, 32), "hex"),
  })
}

/** Whoever brings the image in has looked before. */
function readForAnother(digest: Digest): ImageError {
  return new ImageError("store-corrupt", `layer ${digest} was read for another image: load it again`, {
    digest,
  })
}

function recordOf(
  image: FoundImage,
  document: ConfigDocument,
  disk: Pick<ImageRecord, "parts" | "metadataSize" | "sharedSize">,
): ImageRecord {
  return {
    version: 1,
    digest: image.digest,
    mediaType: image.mediaType,
    manifestSize: image.document.length,
    configDigest: image.manifest.config.digest,
    config: document.config,
    layers: image.manifest.layers.map(layer => layer.digest),
    ...disk,
  }
}

class CountedPieces implements Iterable<Buffer> {
  readonly #pieces: Iterable<Buffer>
  size = 0

  constructor(pieces: Iterable<Buffer>) {
    this.#pieces = pieces
  }

  *[Symbol.iterator](): Generator<Buffer> {
    for (const piece of this.#pieces) {
      this.size += piece.length
      yield piece
    }
  }
}
