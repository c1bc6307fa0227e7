import { normalizeName } from "../references.js"
import type { StoreContext } from "./context.js"
import type { LoadOptions } from "./load-options.js"
import { type ImageRecord, StoredImage } from "./stored-image.js"
import { goneMeanwhile, setName } from "./tag.js"
import { withLease } from "./with-lease.js"

/** Brings an image in and gives it its name. A name that is none is found before anything is done. */
export async function bringImage(
  context: StoreContext,
  { name, signal }: LoadOptions,
  make: () => Promise<ImageRecord>,
): Promise<StoredImage> {
  const stored = name === undefined ? undefined : normalizeName(name)
  const bring = async () => {
    const record = await make()
    if (stored !== undefined && !(await setName(context, stored, record.digest)))
      throw goneMeanwhile(record.digest)
    return new StoredImage(context.folder, record)
  }
  return withLease(context, bring, signal)
}
