import { LayoutFolder } from "../sources/layout.js"
import { type FoundImage, readFoundConfig, readFoundImage } from "../sources/source.js"
import type { ConfigDocument } from "../spec/config.js"
import type { StoreContext } from "./context.js"
import type { ImageRecord } from "./stored-image.js"

/** An image of the store as it came: its documents, proven again, and where its blobs are. */
export interface StoredDocuments {
  readonly image: FoundImage
  readonly config: ConfigDocument & { readonly document: Buffer }
}

/**
 * Reads a stored image's manifest and config from the store's blobs.
 *
 * @param use - what to do with them; the blobs can be read until it is done
 * @throws ImageError `blob-missing`, `size-mismatch`, `digest-mismatch` when the store's files are not what they were
 */
export async function withDocuments<T>(
  { folder, limits }: StoreContext,
  record: ImageRecord,
  use: (documents: StoredDocuments) => T | Promise<T>,
): Promise<T> {
  const blobs = await LayoutFolder.open(folder.path)
  try {
    const options = { limits, platform: record.config.platform }
    const { digest, mediaType, manifestSize: size } = record
    const image = await readFoundImage({ digest, mediaType, size }, blobs, options)
    return await use({ image, config: await readFoundConfig(image, options) })
  } finally {
    await blobs[Symbol.asyncDispose]()
  }
}
