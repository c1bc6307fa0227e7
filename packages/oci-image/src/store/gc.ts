import { rm } from "node:fs/promises"
import { join } from "node:path"
import type { Digest } from "../digest.js"
import { ioError } from "../errors.js"
import { exists, type StoreContext } from "./context.js"
import { forgetFolders } from "./folder-cache.js"
import { readRecords, refreshIndex } from "./names.js"
import type { ImageRecord } from "./stored-image.js"
import { findGarbage, type Garbage, surveyStore } from "./survey.js"

/** Which images go. */
export interface PruneOptions {
  /** Every image that is not in use, and not only those without names. Default false. */
  readonly all?: boolean
  /** Images that stay in any case: digests of their manifests, or their ids. */
  readonly inUse?: Iterable<Digest>
}

/** What {@link ImageStore.prune} did. */
export interface PruneResult {
  /** False while another process, or this one, loads or saves an image: then nothing was removed. */
  readonly done: boolean
  /** Images that are gone, with the names they had. */
  readonly images: readonly { readonly digest: Digest; readonly names: readonly string[] }[]
  /** Layer parts and blobs that are gone. */
  readonly parts: number
  readonly blobs: number
  /** Bytes of all files that are gone, those of names aside. */
  readonly bytes: number
}

/**
 * Removes what no image needs.
 *
 * @param gone - an image that was just removed
 * @returns undefined while something is loaded, saved or collected
 */
export async function collectGarbage(context: StoreContext, gone?: Digest): Promise<Garbage | undefined> {
  const lease = await context.leases.collect()
  if (!lease) return undefined
  try {
    return await sweep(context, await readRecords(context.folder), gone)
  } catch (error) {
    throw ioError(error, "cannot remove from the image store")
  } finally {
    await lease[Symbol.asyncDispose]()
  }
}

/** Removes images, and then what no other needs. @see ImageStore.prune */
export async function prune(context: StoreContext, options: PruneOptions): Promise<PruneResult> {
  const lease = await context.leases.collect()
  if (!lease) return { done: false, images: [], parts: 0, blobs: 0, bytes: 0 }
  try {
    const records = await readRecords(context.folder)
    const named = await context.names.all()
    const going = removable(records, named, options)
    const images = [...going].map(({ digest }) => ({ digest, names: named.get(digest) ?? [] }))
    for (const name of images.flatMap(image => image.names)) await context.names.delete(name)
    const { parts, blobs, bytes } = await sweep(
      context,
      records.filter(record => !going.has(record)),
    )
    return { done: true, images, parts: parts.length, blobs: blobs.length, bytes }
  } catch (error) {
    throw ioError(error, "cannot remove from the image store")
  } finally {
    await lease[Symbol.asyncDispose]()
  }
}

/** The images that {@link prune} removes. */
export function removable(
  records: readonly ImageRecord[],
  named: ReadonlyMap<Digest, readonly string[]>,
  { all = false, inUse = [] }: PruneOptions,
): Set<ImageRecord> {
  const used = new Set(inUse)
  return new Set(
    records.filter(
      ({ digest, configDigest }) =>
        (all || !named.has(digest)) && !used.has(digest) && !used.has(configDigest),
    ),
  )
}

/**
 * Removes everything but these images; the lease for collecting is held, so nobody loads, saves or names one.
 * Images go first: one whose parts are gone already would count as damaged.
 */
async function sweep(context: StoreContext, kept: readonly ImageRecord[], gone?: Digest): Promise<Garbage> {
  const { folder, names } = context
  await folder.removeStale()
  const garbage = findGarbage(await surveyStore(folder), kept, gone)
  for (const hex of garbage.images) await folder.removeFolder(folder.image(`sha256:${hex}`))
  for (const hex of garbage.parts) await folder.removeFolder(folder.part(`sha256:${hex}`))
  for (const hex of garbage.trust) await folder.removeFolder(join(folder.top("trust"), hex))
  for (const hex of garbage.blobs) await rm(folder.blob(`sha256:${hex}`), { force: true })
  await forgetMissing(context)
  await refreshIndex(folder, names)
  return garbage
}

/** Removes names of images that are not there, and what is remembered of folders that became such. */
async function forgetMissing({ folder, names }: StoreContext): Promise<void> {
  for (const [digest, gone] of await names.all()) {
    if (await exists(folder.image(digest))) continue
    for (const name of gone) await names.delete(name)
  }
  await forgetFolders(folder, digest => exists(folder.image(digest)))
}
