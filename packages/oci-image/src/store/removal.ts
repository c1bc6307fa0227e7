import type { Digest } from "../digest.js"
import { exists, type StoreContext } from "./context.js"
import { collectGarbage } from "./gc.js"
import { refreshIndex } from "./names.js"
import { noSuchImage, resolveReference } from "./resolve.js"
import { withLease } from "./with-lease.js"

/** What a removal did. */
export interface RemovedImage {
  readonly digest: Digest
  /** Names that are gone, sorted. */
  readonly names: readonly string[]
  /** Whether the image is gone too; false while it has another name. */
  readonly deleted: boolean
}

/** Removes a name and with its last name the image, or by digest or id the image. @see ImageStore.remove */
export async function removeImage(context: StoreContext, reference: string): Promise<RemovedImage> {
  const removed = await withLease(context, () => removeReference(context, reference))
  // Collecting brings `index.json` up to date too, and on a full disk makes room for it.
  if (!(await collectGarbage(context, removed.deleted ? removed.digest : undefined)))
    await refreshIndex(context.folder, context.names)
  return removed
}

async function removeReference(context: StoreContext, reference: string): Promise<RemovedImage> {
  const { folder, names } = context
  const found = await resolveReference(context, reference)
  if (!found || !(await exists(folder.image(found.digest)))) throw noSuchImage(reference)
  const { digest, name } = found
  const namesNow = async () => (await names.all()).get(digest) ?? []
  const going = name === undefined ? await namesNow() : [name]
  const isWanted = async () => (await namesNow()).some(other => !going.includes(other))
  // The image goes first: a name of nothing is no name, but an image without names would stay if this were killed.
  // A name set after the first look is seen by the second one, or sees that the image is gone.
  const deleted = !(await isWanted()) && (await folder.removeFolder(folder.image(digest), isWanted))
  for (const gone of going) await names.delete(gone)
  return { digest, names: going, deleted }
}
