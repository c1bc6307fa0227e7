import { digestHex } from "../digest.js"
import {
  type FoundConfig,
  type FoundImage,
  type ImageSource,
  type ResolveOptions,
  readFoundConfig,
  readFoundImage,
} from "../sources/source.js"
import type { Descriptor } from "../spec/manifest.js"
import type { StoreContext } from "./context.js"
import { loadLayers } from "./load-layers.js"
import type { LoadOptions } from "./load-options.js"
import { makeImage } from "./make-image.js"
import { refreshIndex } from "./names.js"
import { type ImageRecord, readRecord } from "./stored-image.js"

/** Loads the image that was found in a source and is not in the store; the caller holds a lease. */
export async function loadMissing(
  context: StoreContext,
  source: ImageSource,
  found: Descriptor,
  options: LoadOptions & ResolveOptions,
): Promise<ImageRecord> {
  const image = await readFoundImage(found, source.blobs, options)
  const config = await readFoundConfig(image, options)
  await loadLayers(context, image, config.diffIds, options)
  options.signal?.throwIfAborted()
  const record = await makeOnce(context, image, config, options.signal)
  await refreshIndex(context.folder, context.names)
  return record
}

/** Makes an image, unless another process does so at the same time; then it is waited for. */
async function makeOnce(
  { folder, leases, limits }: StoreContext,
  image: FoundImage,
  config: FoundConfig,
  signal: AbortSignal | undefined,
): Promise<ImageRecord> {
  let made: ImageRecord | undefined
  const isMade = async () => {
    made = await readRecord(folder, image.digest)
    return made !== undefined
  }
  const claim = await leases.claim(`image-${digestHex(image.digest)}`, isMade, signal)
  if (!claim) return made as ImageRecord
  try {
    await folder.replaceFile(folder.blob(image.manifest.config.digest), config.document)
    await folder.replaceFile(folder.blob(image.digest), image.document)
    return await makeImage(folder, image, config, limits)
  } finally {
    await claim[Symbol.asyncDispose]()
  }
}
