import type { Digest } from "../digest.js"
import { type ImageSource, readFoundConfig, readFoundImage } from "../sources/source.js"
import { hostPlatform, type Platform } from "../spec/platform.js"
import type { StoreContext } from "../store/context.js"
import { withDocuments } from "../store/documents.js"
import { type ImageRecord, readRecord } from "../store/stored-image.js"
import { keepIndex } from "./kept-index.js"
import { LazyImage } from "./lazy-image.js"

/** How an image is opened before it is there. */
export interface OpenLazyOptions {
  /** Which image of an index. Default: Linux on this processor. */
  readonly platform?: Platform
  readonly signal?: AbortSignal
}

/**
 * Keeps what it takes to begin with an image that is not there, of one that is. @see ImageStore.keepLazyIndex
 *
 * @returns layers that can only be read whole
 */
export async function keepLazyIndex(context: StoreContext, record: ImageRecord): Promise<Digest[]> {
  return withDocuments(context, record, async ({ image, config }) => {
    const whole: Digest[] = []
    for (const [i, layer] of image.manifest.layers.entries()) {
      const isKept = await keepIndex(context.folder, layer, config.diffIds[i] as Digest, context.limits)
      if (!isKept) whole.push(layer.digest)
    }
    return whole
  })
}

/** Opens an image before it is there. @see ImageStore.openLazy */
export async function openLazy(
  context: StoreContext,
  source: ImageSource,
  { platform = hostPlatform(), signal }: OpenLazyOptions,
): Promise<LazyImage | undefined> {
  const resolved = { platform, signal, limits: context.limits }
  const found = await source.locate(resolved)
  if (await readRecord(context.folder, found.digest)) return undefined
  const image = await readFoundImage(found, source.blobs, resolved)
  return LazyImage.open(context, image, await readFoundConfig(image, resolved))
}
