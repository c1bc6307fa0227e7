import { stat } from "node:fs/promises"
import { ImageError } from "../errors.js"
import type { BlobSource } from "../sources/blob.js"
import { LayoutFolder } from "../sources/layout.js"
import type { Descriptor, Manifest } from "../spec/manifest.js"
import type { StoreContext } from "./context.js"
import { withDocuments } from "./documents.js"
import type { ImageRecord } from "./stored-image.js"

/** A stored image as it came, to be sent on. */
export interface StoredContent {
  /** Its manifest. */
  readonly root: Descriptor
  /** Manifest, config and layers. */
  readonly blobs: BlobSource
}

/** Hands out an image's content; the caller holds a lease, so no blob goes meanwhile. @see ImageStore.withContent */
export async function withContent<T>(
  context: StoreContext,
  record: ImageRecord,
  use: (content: StoredContent) => Promise<T>,
): Promise<T> {
  await withDocuments(context, record, ({ image }) => checkKept(context, record, image.manifest))
  const blobs = await LayoutFolder.open(context.folder.path)
  try {
    const { digest, mediaType, manifestSize: size } = record
    return await use({ root: { digest, mediaType, size }, blobs })
  } finally {
    await blobs[Symbol.asyncDispose]()
  }
}

/**
 * Checks that the store has the layers as they came, and not only the parts made of them.
 *
 * @throws ImageError `store-no-blob`
 */
export async function checkKept(
  { folder }: StoreContext,
  image: ImageRecord,
  { layers }: Manifest,
): Promise<void> {
  for (const { digest, size } of layers) {
    const found = await stat(folder.blob(digest)).catch(() => undefined)
    if (found?.size === size) continue
    throw new ImageError(
      "store-no-blob",
      `image ${image.digest} cannot leave the store, which does not keep the blob of layer ${digest}; remove the image and load it again with blobs kept`,
      { image: image.digest, layer: digest },
    )
  }
}
