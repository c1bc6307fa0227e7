import { ImageError } from "../errors.js"
import { normalizeName, parseReference } from "../references.js"
import { hostPlatform } from "../spec/platform.js"
import { ArchiveImages } from "./archive-images.js"
import type { StoreContext } from "./context.js"
import type { LoadOptions } from "./load-options.js"
import type { ImageLoader } from "./loader.js"
import { setName } from "./removal.js"
import type { ImageRecord } from "./stored-image.js"

/** How all images of an archive are loaded. */
export interface LoadArchiveOptions extends Omit<LoadOptions, "name"> {
  /**
   * What becomes of the names in the archive. `take` gives them to the images, as `docker load` does, and takes them
   * from images that had them before: only for an archive that is trusted with that. Default `ignore`.
   */
  readonly names?: "ignore" | "take"
}

/** One image of an archive, and the names it was given. */
export interface LoadedRecord {
  readonly record: ImageRecord
  readonly names: readonly string[]
}

/** Loads every image of an archive; the caller holds a lease. Names are set when all are there. @see ImageStore.loadArchive */
export async function loadArchive(
  context: StoreContext,
  loader: ImageLoader,
  path: string,
  options: LoadArchiveOptions,
): Promise<LoadedRecord[]> {
  const { names = "ignore", platform = hostPlatform(), signal } = options
  const archive = await ArchiveImages.open(path, { platform, limits: context.limits, signal })
  try {
    // Bad names are found before anything is loaded.
    const wanted = archive.images.map(image => (names === "take" ? checkNames(image.names) : []))
    const loaded: LoadedRecord[] = []
    for (const [i, { source }] of archive.images.entries())
      loaded.push({ record: await loader.load(source, options), names: wanted[i] as string[] })
    for (const { record, names } of loaded) await setNames(context, record, names)
    return loaded
  } finally {
    await archive[Symbol.asyncDispose]()
  }
}

/** Names in their stored spelling; those of a digest name no image that could be another one later. */
function checkNames(names: readonly string[]): string[] {
  const tags = names.filter(name => parseReference(name).digest === undefined)
  return [...new Set(tags.map(normalizeName))].sort()
}

async function setNames(context: StoreContext, record: ImageRecord, names: readonly string[]): Promise<void> {
  for (const name of names) {
    if (await setName(context, name, record.digest)) continue
    throw new ImageError("not-found", `image ${record.digest} was removed while it was loaded`, {
      reference: record.digest,
    })
  }
}
