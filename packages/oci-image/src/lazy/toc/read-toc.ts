import { type CompressedInput, decompress } from "../../layer/decompress.js"
import type { ReadLayerIndex } from "../../layer/layer-index.js"
import type { TocTask } from "../../layer/layer-task.js"
import { LayerTree } from "../../layer/layer-tree.js"
import type { ImageLimits } from "../../limits.js"
import type { FoundSpans } from "../find-spans.js"
import { TOC_MAX } from "./fetch-toc.js"
import { TocContentReader } from "./toc-content.js"
import { readTocEntry } from "./toc-entry.js"
import { TocScanner } from "./toc-scanner.js"

/** A layer as its table of contents describes it. */
export interface TocLayer {
  readonly layer: ReadLayerIndex
  readonly spans: FoundSpans
}

/**
 * Reads a table of contents, whose digest is proven and nothing else: its entries are held to everything that those of a
 * tar stream are, and its chunks have to hold together.
 *
 * @throws ImageError `toc-invalid`, `entry-*`, `link-target`, `whiteout`, `limit`, and what unpacking throws
 */
export async function readToc(
  input: CompressedInput,
  { compression, limits, toc }: TocTask,
): Promise<TocLayer> {
  const tree = new LayerTree(limits)
  const content = new TocContentReader(toc, limits)
  const scanner = new TocScanner(json => addEntry(tree, content, json, limits))
  for await (const chunk of decompress(input, compression, { ...limits, layerBytes: TOC_MAX }))
    scanner.push(chunk)
  scanner.end()
  const { dataSize, spans, runs } = content.finish()
  return {
    layer: { diffId: toc.diffId, dataSize, root: tree.root },
    spans: { packing: toc.packing, blobSize: toc.size, dataSize, spans, runs },
  }
}

function addEntry(tree: LayerTree, content: TocContentReader, json: unknown, limits: ImageLimits): void {
  const read = readTocEntry(json, limits)
  if (read.kind === "tar") {
    content.end()
    const node = tree.add(read.entry)
    if (!read.chunk) return
    const block = content.begin(read.entry.path, read.entry.size)
    if (node) node.block = block
  }
  if (read.chunk) content.chunk(read.chunk)
}
