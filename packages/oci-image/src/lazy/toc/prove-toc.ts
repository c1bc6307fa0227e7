import { type FileHandle, open, readFile } from "node:fs/promises"
import { join } from "node:path"
import { type Digest, digestHex } from "../../digest.js"
import { ImageError, printable } from "../../errors.js"
import { decodeLayerIndex } from "../../layer/layer-index.js"
import { readRange } from "../../sources/beneath.js"
import type { LayerDescriptor } from "../../spec/manifest.js"
import type { StoreContext } from "../../store/context.js"
import { makePart } from "../../store/make-part.js"
import { isPartThere, readPartIndex } from "../../store/parts.js"
import { differingContent } from "./same-content.js"
import { sameTree } from "./same-tree.js"
import { TOC_INDEX_FILE } from "./toc-index.js"

/** A table is in the layer that it describes, but does not tell of itself. */
const IGNORED: ReadonlySet<string> = new Set(["stargz.index.json"])

/** A layer of which all has come, as its table of contents told of it. */
export interface ArrivedLayer {
  readonly layer: LayerDescriptor
  readonly diffId: Digest
  /** All of the blob, its digest proven, and the content that the table told of. */
  readonly blob: FileHandle
  readonly data: FileHandle
  /** Where the table's tree is. */
  readonly folder: string
  /** All layers of the image. */
  readonly image: readonly Digest[]
}

/**
 * Puts a layer into the store that was begun with by its table of contents. It is read anew, as any other layer is, which
 * proves the digest of its tar stream; then the table is held against it, since both are shown as one image.
 *
 * @throws ImageError `toc-disagrees`, and what making a part throws; the signal's reason
 */
export async function storeArrived(
  { folder, limits, keepBlobs, leases }: StoreContext,
  arrived: ArrivedLayer,
  signal?: AbortSignal,
): Promise<void> {
  const { layer, diffId, blob, image } = arrived
  const isDone = () => isPartThere(folder, layer.digest, image)
  const claim = (await isDone()) ? undefined : await leases.claim(digestHex(layer.digest), isDone, signal)
  try {
    const blobs = { open: () => readRange(blob, 0, layer.size) }
    if (claim) await makePart({ folder, blobs, layer, diffId, limits, keepBlob: keepBlobs, signal })
  } finally {
    await claim?.[Symbol.asyncDispose]()
  }
  const actual = await open(folder.part(layer.digest, "data"))
  try {
    const told = decodeLayerIndex(await readFile(join(arrived.folder, TOC_INDEX_FILE)))
    const own = await readPartIndex(folder, layer.digest, diffId)
    const files = sameTree(told.root, own.root, IGNORED)
    const differs = "differs" in files ? files.differs : await differingContent(files, arrived.data, actual)
    if (differs !== undefined) throw disagrees(layer.digest, differs)
  } finally {
    await actual.close()
  }
}

function disagrees(digest: Digest, path: string): ImageError {
  return new ImageError(
    "toc-disagrees",
    `layer ${digest} is not what its table of contents says, at ${printable(path)}: load the image without it`,
    { digest, path: printable(path) },
  )
}
