import { mkdir, rm } from "node:fs/promises"
import { join } from "node:path"
import { type Digest, digestHex } from "../digest.js"
import { writeMetadata } from "../erofs/write.js"
import { ImageError, ioError } from "../errors.js"
import { isPartOf } from "../layer/layer-header.js"
import type { LayerIndex } from "../layer/layer-index.js"
import { type MergeLayer, mergeLayers } from "../layer/merge.js"
import type { ImageLimits } from "../limits.js"
import type { FoundImage } from "../sources/source.js"
import type { ConfigDocument } from "../spec/config.js"
import { type StoreFolder, writeSynced } from "./folder.js"
import { readPartIndex } from "./parts.js"
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
  const { parts, pieces } = await mergeImage(image, document, limits, readIndex)
  const temporary = folder.temporary()
  try {
    await mkdir(temporary, { mode: 0o700 })
    const counted = new CountedPieces(pieces)
    await writeSynced(join(temporary, "metadata"), counted)
    const record = recordOf(image, document, parts, counted.size)
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

/** An image's disk before it is stored: the data parts behind the metadata part, and that part in pieces. */
export interface MergedImage {
  readonly parts: readonly Part[]
  readonly pieces: Iterable<Buffer>
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
  const layers: MergeLayer[] = []
  const digests = image.manifest.layers.map(layer => layer.digest)
  for (const [i, digest] of digests.entries()) {
    const index = await readIndex(digest, document.diffIds[i] as Digest)
    if (!isPartOf(index, digests)) throw readForAnother(digest)
    const known = parts.findIndex(part => part.digest === digest)
    if (known < 0 && index.dataSize > 0) parts.push({ digest, size: index.dataSize })
    layers.push({ root: index.root, part: known < 0 ? parts.length - 1 : known })
  }
  const pieces = writeMetadata({
    root: mergeLayers(layers, limits),
    partSizes: parts.map(part => part.size),
    uuid: Buffer.from(digestHex(image.digest).slice(0, 32), "hex"),
  })
  return { parts, pieces }
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
  parts: readonly Part[],
  metadataSize: number,
): ImageRecord {
  return {
    version: 1,
    digest: image.digest,
    mediaType: image.mediaType,
    manifestSize: image.document.length,
    configDigest: image.manifest.config.digest,
    config: document.config,
    layers: image.manifest.layers.map(layer => layer.digest),
    parts,
    metadataSize,
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
