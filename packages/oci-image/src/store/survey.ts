import { lstat, readdir } from "node:fs/promises"
import { join } from "node:path"
import { type Digest, digestHex } from "../digest.js"
import { ioError } from "../errors.js"
import type { StoreFolder } from "./folder.js"
import type { ImageRecord } from "./stored-image.js"

/** How long what proves an image may be there before the image is: one that runs while it arrives. */
const ARRIVAL_MS = 24 * 60 * 60 * 1000

/** Bytes by the hex digits of a digest. */
type Sizes = ReadonlyMap<string, number>

/** Everything a store's folder holds. Sizes are those of the files, in bytes; folders themselves count nothing. */
export interface Survey {
  readonly images: Sizes
  readonly parts: Sizes
  readonly blobs: Sizes
  /** What proves images, by the digests of their manifests. */
  readonly trust: Sizes
  /** Of those, what may prove an image that is still on its way. */
  readonly early: ReadonlySet<string>
  /** Files under `tmp/` and `leases/`. */
  readonly temporary: number
  /** Names, remembered folders and the files of the image layout. */
  readonly other: number
}

/** Looks at everything in a store. Files that vanish meanwhile count nothing. @throws ImageError `io` */
export async function surveyStore(folder: StoreFolder): Promise<Survey> {
  const known = new Set(["images", "parts", "blobs", "trust", "tmp", "leases"])
  const top = await names(folder.path)
  const others = top.filter(name => !known.has(name)).map(name => folder.top(name))
  return {
    images: await sizesIn(folder.top("images")),
    parts: await sizesIn(folder.top("parts")),
    blobs: await sizesIn(folder.top("blobs/sha256")),
    trust: await sizesIn(folder.top("trust")),
    early: await youngIn(folder.top("trust")),
    temporary: await sizeOfAll([folder.top("tmp"), folder.top("leases")]),
    other: await sizeOfAll(others),
  }
}

/** Adds sizes up. */
export function total(sizes: Iterable<number>): number {
  let sum = 0
  for (const size of sizes) sum += size
  return sum
}

async function sizesIn(folder: string): Promise<Sizes> {
  const sizes = new Map<string, number>()
  for (const name of await names(folder)) sizes.set(name, await sizeOfTree(join(folder, name)))
  return sizes
}

async function youngIn(folder: string): Promise<Set<string>> {
  const young = new Set<string>()
  for (const name of await names(folder)) {
    const found = await lstat(join(folder, name)).catch(ignoreMissing)
    if (found && Date.now() - found.mtimeMs < ARRIVAL_MS) young.add(name)
  }
  return young
}

async function sizeOfAll(paths: readonly string[]): Promise<number> {
  let sum = 0
  for (const path of paths) sum += await sizeOfTree(path)
  return sum
}

async function sizeOfTree(path: string): Promise<number> {
  const found = await lstat(path).catch(ignoreMissing)
  if (!found?.isDirectory()) return found?.size ?? 0
  return sizeOfAll((await names(path)).map(name => join(path, name)))
}

async function names(folder: string): Promise<string[]> {
  return (await readdir(folder).catch(ignoreMissing)) ?? []
}

function ignoreMissing(error: NodeJS.ErrnoException): undefined {
  if (error.code !== "ENOENT") throw ioError(error, "cannot look at the image store")
}

/** What no kept image needs, by the hex digits of its digest. */
export interface Garbage {
  readonly images: readonly string[]
  readonly parts: readonly string[]
  readonly blobs: readonly string[]
  readonly trust: readonly string[]
  /** Bytes of all of them. */
  readonly bytes: number
}

/**
 * Finds what goes when only these images are kept.
 *
 * @param gone - an image that was just removed: what proves it goes at once
 */
export function findGarbage(survey: Survey, kept: readonly ImageRecord[], gone?: Digest): Garbage {
  const digests = new Set(kept.map(record => digestHex(record.digest)))
  const images = notIn(survey.images, digests)
  const layers = new Set(kept.flatMap(record => record.layers.map(digestHex)))
  const parts = notIn(survey.parts, layers)
  const blobs = notIn(survey.blobs, new Set([...layers, ...kept.flatMap(documentsOf)]))
  const was = new Set([...images, ...(gone ? [digestHex(gone)] : [])])
  const trust = notIn(survey.trust, digests).filter(hex => was.has(hex) || !survey.early.has(hex))
  const sums = [
    bytesOf(survey.images, images),
    bytesOf(survey.parts, parts),
    bytesOf(survey.blobs, blobs),
    bytesOf(survey.trust, trust),
  ]
  return { images, parts, blobs, trust, bytes: total(sums) }
}

/** Hex digits of an image's own documents. */
export function documentsOf({ digest, configDigest }: ImageRecord): string[] {
  return [digest, configDigest].map(digestHex)
}

function notIn(all: Sizes, needed: ReadonlySet<string>): string[] {
  return [...all.keys()].filter(hex => !needed.has(hex))
}

/** Bytes of some of the things that were found; each counts once. */
export function bytesOf(sizes: Sizes, hexes: Iterable<string>): number {
  return total([...new Set(hexes)].map(hex => sizes.get(hex) ?? 0))
}
