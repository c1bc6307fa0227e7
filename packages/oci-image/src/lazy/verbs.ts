import type { Digest } from "../digest.js"
import { type ImageSource, readFoundConfig, readFoundImage } from "../sources/source.js"
import { hostPlatform, type Platform } from "../spec/platform.js"
import type { StoreContext } from "../store/context.js"
import { withDocuments } from "../store/documents.js"
import { existingRecord } from "../store/resolve.js"
import { type ImageRecord, readRecord } from "../store/stored-image.js"
import { withLease } from "../store/with-lease.js"
import { keepIndex } from "./kept-index.js"
import type { LazyLayerReport } from "./known-layer.js"
import { LazyImage } from "./lazy-image.js"

/** How an image is opened before it is there. */
export interface OpenLazyOptions {
  /** Which image of an index. Default: Linux on this processor. */
  readonly platform?: Platform
  readonly signal?: AbortSignal
  /**
   * Whether the tables of contents count that layers carry (eStargz, zstd:chunked). They are as the image's maker wrote
   * them, and held against the layers only when all of these have come. Default true; without them an image has to have
   * been there before.
   */
  readonly useToc?: boolean
  /** Told of each layer that is not in the store how it is begun with; or else of those that keep the image from it. */
  readonly onLayer?: (report: LazyLayerReport) => void
}

/**
 * Keeps what it takes to begin with an image that is not there, of one that is. @see ImageStore.keepLazyIndex
 *
 * @returns layers that can only be read whole
 */
export async function keepLazyIndex(context: StoreContext, reference: string): Promise<Digest[]> {
  return withLease(context, async () => keepLayers(context, await existingRecord(context, reference)))
}

async function keepLayers(context: StoreContext, record: ImageRecord): Promise<Digest[]> {
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
  options: OpenLazyOptions,
): Promise<LazyImage | undefined> {
  return withLease(context, () => openFound(context, source, options), options.signal)
}

async function openFound(
  context: StoreContext,
  source: ImageSource,
  { platform = hostPlatform(), signal, useToc = true, onLayer }: OpenLazyOptions,
): Promise<LazyImage | undefined> {
  const resolved = { platform, signal, limits: context.limits }
  const found = await source.locate(resolved)
  if (await readRecord(context.folder, found.digest)) return undefined
  const image = await readFoundImage(found, source.blobs, resolved)
  return LazyImage.open(context, image, await readFoundConfig(image, resolved), {
    useToc,
    signal,
    onLayer,
  })
}
