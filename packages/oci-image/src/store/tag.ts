import type { Digest } from "../digest.js"
import { ImageError, printable } from "../errors.js"
import { normalizeName, parseReference } from "../references.js"
import { exists, type StoreContext } from "./context.js"
import { refreshIndex } from "./names.js"
import { existingRecord, noSuchImage } from "./resolve.js"
import { withLease } from "./with-lease.js"

/** Gives an image another name. @see ImageStore.tag */
export async function tagImage(context: StoreContext, reference: string, name: string): Promise<void> {
  const stored = newName(name)
  await withLease(context, async () => {
    const { digest } = await existingRecord(context, reference)
    if (!(await setName(context, stored, digest))) throw noSuchImage(reference)
  })
}

/**
 * Gives an image that is there a name.
 *
 * @param name - in its stored spelling
 * @returns false when the image is gone; then the name is not set either
 */
export async function setName(context: StoreContext, name: string, digest: Digest): Promise<boolean> {
  const { folder, names } = context
  const before = await names.get(name)
  if (before !== digest) await names.set(name, digest)
  const isThere = await exists(folder.image(digest))
  if (!isThere) await names.delete(name)
  if (before !== digest) await refreshIndex(folder, names)
  return isThere
}

/** Checks a name that a user wants to give. @throws ImageError `reference-invalid` */
function newName(text: string): string {
  if (parseReference(text).digest === undefined) return normalizeName(text)
  throw new ImageError("reference-invalid", `a new name cannot have a digest: ${printable(text)}`, {
    reference: printable(text),
  })
}

/** The error for an image that another process removed before it got its name. */
export function goneMeanwhile(digest: Digest): ImageError {
  return new ImageError("not-found", `image ${digest} was removed while it was loaded`, { reference: digest })
}
