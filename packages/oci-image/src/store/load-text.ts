import type { LayerInput } from "../pack/pack-image.js"
import { openSource } from "../sources/open.js"
import { hostPlatform } from "../spec/platform.js"
import type { StoreContext } from "./context.js"
import { FolderCache } from "./folder-cache.js"
import type { LoadOptions } from "./load-options.js"
import { loadImage } from "./loader.js"
import { type PackSourceOptions, packToLayout } from "./pack-source.js"
import { type ImageRecord, readRecord } from "./stored-image.js"

/** Loads what a text means: a layout, an archive, or a root folder. The caller holds a lease. */
export async function loadText(
  context: StoreContext,
  text: string,
  options: LoadOptions,
): Promise<ImageRecord> {
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
