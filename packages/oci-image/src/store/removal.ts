import type { Digest } from "../digest.js"
import { ImageError, printable } from "../errors.js"
import { normalizeName, parseReference } from "../references.js"
import { exists, type StoreContext } from "./context.js"
import { refreshIndex } from "./names.js"
import { noSuchImage, resolveReference } from "./resolve.js"

/** What a removal did. */
export interface RemovedImage {
  readonly digest: Digest
  /** Names that are gone, sorted. */
  readonly names: readonly string[]
  /** Whether the image is gone too; false while it has another name. */
  readonly deleted: boolean
}

/**
 * Removes a name and with its last name the image, or by digest or id the image. The caller brings `index.json` up to
 * date, best after it has made room for it.
 *
 * @see ImageStore.remove
 */
export async function removeReference(context: StoreContext, reference: string): Promise<RemovedImage> {
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
export function newName(text: string): string {
  if (parseReference(text).digest === undefined) return normalizeName(text)
  throw new ImageError("reference-invalid", `a new name cannot have a digest: ${printable(text)}`, {
    reference: printable(text),
  })
}
