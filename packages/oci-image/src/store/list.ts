import type { StoreContext } from "./context.js"
import { readRecords } from "./names.js"
import { StoredImage } from "./stored-image.js"

/** An image in a list. */
export interface ImageEntry {
  readonly image: StoredImage
  /** Its names, sorted; none for one that was loaded without. */
  readonly names: readonly string[]
}

/** All images, by digest. @see ImageStore.list */
export async function listImages({ folder, names }: StoreContext): Promise<ImageEntry[]> {
  const named = await names.all()
  const records = await readRecords(folder)
  return records.map(record => ({
    image: new StoredImage(folder, record),
    names: named.get(record.digest) ?? [],
  }))
}
