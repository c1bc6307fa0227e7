import { mkdir } from "node:fs/promises"
import { join } from "node:path"
import { type Digest, digestHex } from "../digest.js"
import { ImageError, isImageError } from "../errors.js"
import { isPartOf } from "../layer/layer-header.js"
import type { BlobSource } from "../sources/blob.js"
import type { FoundImage } from "../sources/source.js"
import type { ConfigDocument } from "../spec/config.js"
import type { LayerDescriptor } from "../spec/manifest.js"
import type { StoreContext } from "../store/context.js"
import { isPartThere } from "../store/parts.js"
import { readKeptIndex } from "./kept-index.js"
import type { KnownLayer, LazyLayerReport } from "./known-layer.js"
import type { FetchRange } from "./lazy-part.js"
import { restingFetch } from "./resting-fetch.js"
import { readTocIndex } from "./toc/toc-index.js"
import { readTocPlace } from "./toc/toc-place.js"

/** How layers that are not there are looked for. */
export interface KnowOptions {
  /** Whether tables of contents count that the layers themselves carry. */
  readonly useToc: boolean
  readonly signal?: AbortSignal | undefined
  readonly onLayer?: ((report: LazyLayerReport) => void) | undefined
}

/** A layer that one can begin with, and how its blob is read. */
export interface FoundLayer {
  readonly layer: LayerDescriptor
  readonly diffId: Digest
  readonly known: KnownLayer
  readonly fetch: FetchRange
  /** Folder of its own. */
  readonly folder: string
  /** All layers of the image. */
  readonly image: readonly Digest[]
}

/**
 * Finds out what is known of an image's layers that are not in the store: an index that was kept, which was proven when
 * all of the layer was there, or else the layer's table of contents. What is wrong with a table is no failure: then the
 * image is loaded as any other.
 *
 * @param temporary - a folder, in which each layer gets one of its own
 * @returns undefined when one of them can only be loaded whole
 * @throws ImageError `io`; the signal's reason
 */
export async function knownLayers(
  context: StoreContext,
  image: FoundImage,
  { diffIds }: ConfigDocument,
  temporary: string,
  options: KnowOptions,
): Promise<FoundLayer[] | undefined> {
  const range = image.blobs.range?.bind(image.blobs)
  const missing = new Map<Digest, MissingLayer>()
  const digests = image.manifest.layers.map(layer => layer.digest)
  for (const [i, layer] of image.manifest.layers.entries()) {
    if (missing.has(layer.digest) || (await isPartThere(context.folder, layer.digest, digests))) continue
    const folder = join(temporary, digestHex(layer.digest))
    await mkdir(folder, { mode: 0o700 })
    const [diffId, fetch] = [diffIds[i] as Digest, fetchOf(layer, range)]
    missing.set(layer.digest, { layer, diffId, folder, fetch, image: digests })
  }
  const queue = missing.values()
  const found: FoundLayer[] = []
  const work = async () => {
    for (const one of queue) {
      const known = await know(context, one, range !== undefined, options)
      if (known) found.push({ ...one, known })
    }
  }
  await settled(Array.from({ length: context.parallelLayers }, work))
  return found.length === missing.size ? found : undefined
}

type MissingLayer = Omit<FoundLayer, "known">

/** All have ended when this does. */
async function settled(workers: readonly Promise<void>[]): Promise<void> {
  const ended = await Promise.allSettled(workers)
  for (const end of ended) if (end.status === "rejected") throw end.reason
}

function fetchOf(request: LayerDescriptor, range: BlobSource["range"]): FetchRange {
  return restingFetch((from, to, signal) => {
    if (!range) throw new ImageError("io", "the source cannot give parts of layers")
    return range(request, from, to, signal)
  })
}

async function know(
  context: StoreContext,
  missing: MissingLayer,
  hasRange: boolean,
  options: KnowOptions,
): Promise<KnownLayer | undefined> {
  const { digest: layer } = missing.layer
  const found = await tryToKnow(context, missing, hasRange, options)
  if (!isImageError(found)) return found
  options.onLayer?.({ layer, by: "whole", reason: found })
  return undefined
}

/** @returns the reason when there is nothing to begin with */
async function tryToKnow(
  { folder: store, limits }: StoreContext,
  { layer, diffId, folder, fetch, image }: MissingLayer,
  hasRange: boolean,
  { useToc, signal }: KnowOptions,
): Promise<KnownLayer | ImageError> {
  if (!hasRange) return new ImageError("toc-invalid", "its source cannot give parts of layers")
  const kept = await readKeptIndex(store, layer.digest, diffId, layer.size)
  if (kept && isPartOf(kept.layer, image)) return kept
  if (!useToc)
    return new ImageError("toc-invalid", "no index is kept of a layer, and its own table is not used")
  const never = new AbortController().signal
  const read = (from: number, to: number) => fetch(from, to, signal ?? never)
  try {
    const place = readTocPlace(layer)
    if (place) return await readTocIndex({ layer, place, diffId, read, limits, folder, signal })
    return new ImageError("toc-invalid", "a layer has no table of contents, and no index is kept of it")
  } catch (error) {
    signal?.throwIfAborted()
    if (isImageError(error) && error.code !== "io") return error
    throw error
  }
}
