import { type FileHandle, open } from "node:fs/promises"
import { join } from "node:path"
import type { Digest } from "../../digest.js"
import { BLOCK_SIZE } from "../../erofs/defs.js"
import { ImageError } from "../../errors.js"
import { LayerChild } from "../../layer/layer-child.js"
import { decodeLayerIndex, type LayerIndex } from "../../layer/layer-index.js"
import { heapFor, limitsFor, patienceFor, type TocTask } from "../../layer/layer-task.js"
import { findNode } from "../../layer/tree.js"
import { checkLimit, type ImageLimits } from "../../limits.js"
import { readWhole } from "../../sources/beneath.js"
import type { LayerDescriptor } from "../../spec/manifest.js"
import type { KnownLayer } from "../known-layer.js"
import { decodeSpanIndex, type SpanIndex } from "../span-index.js"
import { fetchToc, type ProvenToc, type ReadBlob } from "./fetch-toc.js"
import type { TocPlace } from "./toc-place.js"

/** A file with this name, of an eStargz layer, stands behind those that a start needs. */
const PREFETCH_LANDMARK = ".prefetch.landmark"
/** Largest files that are taken from the process. */
const SPANS_MAX = 64 * 1024 * 1024
const INDEX_MAX = 512 * 1024 * 1024
/** Name of the file for the tree: it is compared with the layer's own when all of that is there. */
export const TOC_INDEX_FILE = "toc"

/** What reading a layer's table of contents needs. */
export interface TocIndexOptions {
  readonly layer: LayerDescriptor
  readonly place: TocPlace
  /** What the image's config says the unpacked layer's digest is; nothing proves it until all of the layer is there. */
  readonly diffId: Digest
  readonly read: ReadBlob
  readonly limits: ImageLimits
  /** Folder of its own, for what the process writes. */
  readonly folder: string
  readonly signal: AbortSignal | undefined
}

/**
 * Knows a layer by the table of contents that it carries. The table is proven here and read by the process that reads
 * layers; what that says is checked for holding together.
 *
 * @throws ImageError `toc-invalid`, `digest-mismatch`, `layer-process`, `index-corrupt`, and what reading the blob and
 * the entries throws
 */
export async function readTocIndex(options: TocIndexOptions): Promise<KnownLayer> {
  const { place, layer, read, limits } = options
  const toc = await fetchToc(place, layer.size, read, limits)
  const files: FileHandle[] = []
  try {
    for (const name of ["toc-spans", TOC_INDEX_FILE])
      files.push(await open(join(options.folder, name), "wx+", 0o600))
    const [spans, index] = files as [FileHandle, FileHandle]
    await readApart(options, toc, [spans.fd, index.fd])
    return known(options, toc, await readSpans(spans), await readIndex(index, limits))
  } finally {
    for (const file of files) await file.close()
  }
}

async function readApart(
  { layer, diffId, limits, signal }: TocIndexOptions,
  toc: ProvenToc,
  files: readonly [number, number],
): Promise<void> {
  const task: TocTask = {
    purpose: "toc",
    compression: toc.compression,
    limits: limitsFor(limits, layer.size),
    toc: { diffId, size: layer.size, tocStart: toc.start, packing: packingOf(toc) },
  }
  // A chunk takes as much as an entry does.
  await using child = new LayerChild({ files, heap: 2 * heapFor(limits, layer.size), signal })
  await child.begin({ ...task, size: toc.size }, patienceFor(layer.size))
  for await (const chunk of toc.chunks()) if (!(await child.write(chunk))) break
  const { error } = await child.finish()
  if (error) throw error
}

function packingOf({ format }: ProvenToc): "gzip" | "zstd" {
  return format === "estargz" ? "gzip" : "zstd"
}

async function readSpans(file: FileHandle): Promise<SpanIndex> {
  return decodeSpanIndex(await readWhole(file, "a span index", SPANS_MAX))
}

async function readIndex(file: FileHandle, limits: ImageLimits): Promise<LayerIndex> {
  const { size } = await file.stat()
  checkLimit("layerBytes", size, INDEX_MAX, "size of a layer index")
  return decodeLayerIndex(await readWhole(file, "a layer index", INDEX_MAX), 3 * limits.entries)
}

function known(
  { layer: { size }, diffId }: TocIndexOptions,
  toc: ProvenToc,
  spans: SpanIndex,
  layer: LayerIndex,
): KnownLayer {
  const isSame = spans.blobSize === size && spans.dataSize === layer.dataSize && layer.diffId === diffId
  const isInside = spans.spans.every(span => span.from < toc.start)
  if (!isSame || !isInside || spans.packing !== packingOf(toc))
    throw new ImageError("layer-process", "a table of contents was read as that of another layer")
  return { by: toc.format, layer, spans, start: startOf(layer, spans) }
}

/** Spans of the files that whoever made the layer put first. */
function startOf({ root }: LayerIndex, { spans, runs }: SpanIndex): number[] {
  const landmark = findNode(root, [PREFETCH_LANDMARK])
  if (landmark?.kind !== "file" || landmark.size === 0) return []
  const run = runs.find(({ position }) => position === landmark.block * BLOCK_SIZE)
  const count = run ? spans.findIndex(({ end }) => end > run.offset) : 0
  return Array.from({ length: Math.max(0, count) }, (_, i) => i)
}
