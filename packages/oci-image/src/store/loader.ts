import { digestHex } from "../digest.js"
import type { LayerInput } from "../pack/pack-image.js"
import { openSource } from "../sources/open.js"
import {
  type FoundConfig,
  type FoundImage,
  type ImageSource,
  type ResolveOptions,
  readFoundConfig,
  readFoundImage,
} from "../sources/source.js"
import { hostPlatform } from "../spec/platform.js"
import { bringImage } from "./bring.js"
import type { StoreContext } from "./context.js"
import { FolderCache } from "./folder-cache.js"
import { loadLayers } from "./load-layers.js"
import type { LoadOptions } from "./load-options.js"
import { makeImage } from "./make-image.js"
import { refreshIndex } from "./names.js"
import { type PackSourceOptions, packToLayout } from "./pack-source.js"
import { type ImageRecord, readRecord, type StoredImage } from "./stored-image.js"

/** Loads an image and gives it its name. @see ImageStore.load */
export async function loadSource(
  context: StoreContext,
  source: string | ImageSource,
  options: LoadOptions,
): Promise<StoredImage> {
  return bringImage(context, options, () =>
    typeof source === "string" ? loadText(context, source, options) : loadImage(context, source, options),
  )
}

async function loadText(context: StoreContext, text: string, options: LoadOptions): Promise<ImageRecord> {
  const opened = await openSource(text, context.limits)
  if ("rootfs" in opened) return loadFolder(context, opened.rootfs, options)
  try {
    return await loadImage(context, opened.image, options)
  } finally {
    await opened.image[Symbol.asyncDispose]()
  }
}

async function loadFolder(context: StoreContext, rootfs: string, options: LoadOptions): Promise<ImageRecord> {
  const { folder } = context
  const cache = await FolderCache.look(folder, rootfs, options.platform ?? hostPlatform())
  const digest = await cache.get()
  const known = digest && (await readRecord(folder, digest))
  if (known) return known
  const record = await loadPacked(context, { folder: rootfs }, options)
  await cache.set(record.digest)
  return record
}

/** Loads an image with one layer, which is packed first; the caller holds a lease. */
export async function loadPacked(
  context: StoreContext,
  layer: LayerInput,
  options: LoadOptions & PackSourceOptions,
): Promise<ImageRecord> {
  const source = await packToLayout(layer, context.folder, options)
  try {
    return await loadImage(context, source, options)
  } finally {
    await source[Symbol.asyncDispose]()
  }
}

/** Loads the image of a source, unless it is there; the source stays open, and the caller holds a lease. */
export async function loadImage(
  context: StoreContext,
  source: ImageSource,
  options: LoadOptions,
): Promise<ImageRecord> {
  const { folder, names, limits } = context
  const { platform = hostPlatform(), signal } = options
  const resolved: ResolveOptions = { platform, signal, limits }
  const found = await source.locate(resolved)
  const known = await readRecord(folder, found.digest)
  if (known) return known
  const image = await readFoundImage(found, source.blobs, resolved)
  const config = await readFoundConfig(image, resolved)
  await loadLayers(context, image, config.diffIds, options)
  signal?.throwIfAborted()
  const record = await makeOnce(context, image, config, signal)
  await refreshIndex(folder, names)
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
