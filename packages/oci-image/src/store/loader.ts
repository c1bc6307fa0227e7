import type { ImageSource } from "../sources/source.js"
import { hostPlatform } from "../spec/platform.js"
import { bringImage } from "./bring.js"
import type { StoreContext } from "./context.js"
import type { LoadOptions } from "./load-options.js"
import { type ImageRecord, readRecord, type StoredImage } from "./stored-image.js"

/** Loads an image and gives it its name. @see ImageStore.load */
export async function loadSource(
  context: StoreContext,
  source: string | ImageSource,
  options: LoadOptions,
): Promise<StoredImage> {
  return bringImage(context, options, async () => {
    if (typeof source !== "string") return loadImage(context, source, options)
    return (await import("./load-text.js")).loadText(context, source, options)
  })
}

/**
 * Loads the image of a source, unless it is there; the source stays open, and the caller holds a lease. What it takes
 * to make one is itself only loaded then: to see that nothing is new is the usual case, and a matter of milliseconds.
 */
export async function loadImage(
  context: StoreContext,
  source: ImageSource,
  options: LoadOptions,
): Promise<ImageRecord> {
  const { platform = hostPlatform(), signal } = options
  const { limits } = context
  const found = await source.locate({ platform, signal, limits })
  const known = await readRecord(context.folder, found.digest)
  if (known) return known
  const { loadMissing } = await import("./load-missing.js")
  return loadMissing(context, source, found, { ...options, platform, limits })
}
