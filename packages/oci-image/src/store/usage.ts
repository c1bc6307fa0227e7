import { type Digest, digestHex } from "../digest.js"
import type { StoreContext } from "./context.js"
import { type PruneOptions, removable } from "./gc.js"
import { readRecords } from "./names.js"
import type { ImageRecord } from "./stored-image.js"
import { bytesOf, documentsOf, findGarbage, type Survey, surveyStore, total } from "./survey.js"

/** What one image takes, in bytes. */
export interface ImageUsage {
  readonly digest: Digest
  readonly names: readonly string[]
  /** Of all its files: metadata, parts, blobs, documents. */
  readonly size: number
  /** Of those that other images need as well. */
  readonly shared: number
  readonly inUse: boolean
}

/** A number of things and their bytes. */
export interface UsageSum {
  readonly count: number
  readonly bytes: number
}

/**
 * What a store takes, in bytes of its files. `metadata`, `parts`, `blobs`, `temporary` and `other` add up to `total`,
 * which is what `du --apparent-size` says of the files in the store's folder.
 */
export interface DiskUsage {
  readonly images: readonly ImageUsage[]
  /** Metadata parts and records, one for each image. */
  readonly metadata: UsageSum
  /** Layers as data parts. */
  readonly parts: UsageSum
  /** Manifests, configs, and layers if they are kept. */
  readonly blobs: UsageSum
  /** Work of running processes, and what dead ones left. */
  readonly temporary: number
  /** Names, the index for other tools, and what proves images. */
  readonly other: number
  readonly total: number
  /** Needed by more than one image; counted once. */
  readonly shared: number
  /** What pruning all images that are not in use would free. */
  readonly reclaimable: number
}

/** Adds up what a store takes. @see ImageStore.diskUsage */
export async function diskUsage(
  context: StoreContext,
  inUse: NonNullable<PruneOptions["inUse"]>,
): Promise<DiskUsage> {
  const survey = await surveyStore(context.folder)
  const records = await readRecords(context.folder)
  const named = await context.names.all()
  const going = removable(records, named, { all: true, inUse })
  const counts = countFiles(records)
  const isShared = (hex: string) => (counts.get(hex) ?? 0) > 1
  const images = records.map(record => {
    const shared = filesBytes(survey, filesOf(record).filter(isShared))
    const size = bytesOf(survey.images, [digestHex(record.digest)]) + filesBytes(survey, filesOf(record))
    const { digest } = record
    return { digest, names: named.get(digest) ?? [], size, shared, inUse: !going.has(record) }
  })
  const kept = records.filter(record => !going.has(record))
  return {
    images,
    ...sums(survey),
    shared: filesBytes(survey, [...counts.keys()].filter(isShared)),
    reclaimable: findGarbage(survey, kept).bytes,
  }
}

function sums(survey: Survey) {
  const [metadata, parts, blobs] = [survey.images, survey.parts, survey.blobs].map(sizes => ({
    count: sizes.size,
    bytes: total(sizes.values()),
  })) as [UsageSum, UsageSum, UsageSum]
  const { temporary } = survey
  const other = survey.other + total(survey.trust.values())
  const all = total([metadata.bytes, parts.bytes, blobs.bytes, temporary, other])
  return { metadata, parts, blobs, temporary, other, total: all }
}

/** Hex digits of everything an image may share with another. */
function filesOf(record: ImageRecord): string[] {
  return [...new Set([...documentsOf(record), ...record.layers.map(digestHex)])]
}

function filesBytes(survey: Survey, hexes: readonly string[]): number {
  return bytesOf(survey.parts, hexes) + bytesOf(survey.blobs, hexes)
}

/** How many images need each file. */
function countFiles(records: readonly ImageRecord[]): Map<string, number> {
  const counts = new Map<string, number>()
  for (const hex of records.flatMap(filesOf)) counts.set(hex, (counts.get(hex) ?? 0) + 1)
  return counts
}
