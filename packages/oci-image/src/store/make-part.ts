import { type FileHandle, mkdir, open, rename, rm } from "node:fs/promises"
import { join } from "node:path"
import type { Digest } from "../digest.js"
import { ImageError, ioError } from "../errors.js"
import { LayerSeries } from "../layer/layer-series.js"
import { readLayerApart } from "../layer/read-layer-apart.js"
import type { ImageLimits } from "../limits.js"
import { type BlobSource, VerifiedBlob } from "../sources/blob.js"
import type { LayerDescriptor } from "../spec/manifest.js"
import type { StoreFolder } from "./folder.js"
import { publishPart, readIndex } from "./parts.js"

/** What making one layer's part needs. */
export interface MakePartOptions {
  readonly folder: StoreFolder
  readonly blobs: BlobSource
  readonly layer: LayerDescriptor
  /** What the image's config says the unpacked layer's digest is. */
  readonly diffId: Digest
  readonly limits: ImageLimits
  /** Whether the layer's blob is stored too. */
  readonly keepBlob: boolean
  /** Reads the layer together with others of its image, if it is small. Default: a process of its own. */
  readonly series?: LayerSeries | undefined
  readonly signal?: AbortSignal | undefined
  /** Sees compressed bytes read so far. */
  readonly onBytes?: (done: number) => void
  /** Sees how many bytes of memory the process that read the layer had at most, unless it died. */
  readonly onPeakMemory?: (bytes: number) => void
}

/**
 * Turns one layer into its data part and index, and publishes both under the layer's digest, in one step and
 * only after everything was proven. The layer is decoded in another process; a part that is there already gives way.
 */
export async function makePart(options: MakePartOptions): Promise<void> {
  const { folder, layer } = options
  const temporary = folder.temporary()
  try {
    await mkdir(temporary, { mode: 0o700 })
    const blobFile = options.keepBlob ? join(temporary, "blob") : undefined
    await writePart(options, temporary, blobFile)
    if (blobFile) await rename(blobFile, folder.blob(layer.digest))
    await publishPart(folder, temporary, layer.digest)
  } catch (error) {
    await rm(temporary, { recursive: true, force: true })
    throw (error as NodeJS.ErrnoException).syscall ? ioError(error, "cannot write to the image store") : error
  }
}

async function writePart(
  options: MakePartOptions,
  temporary: string,
  blobFile: string | undefined,
): Promise<void> {
  const files: FileHandle[] = []
  const create = async (path: string) => {
    const file = await open(path, "wx+", 0o600)
    files.push(file)
    return file
  }
  try {
    const data = await create(join(temporary, "data"))
    const index = await create(join(temporary, "index"))
    const copy = blobFile ? await create(blobFile) : undefined
    await fillPart(options, data, index, copy)
    await checkPart(options, data, index)
    await Promise.all(files.map(file => file.sync()))
  } finally {
    for (const file of files) await file.close()
  }
}

async function fillPart(
  options: MakePartOptions,
  data: FileHandle,
  index: FileHandle,
  copy: FileHandle | undefined,
): Promise<void> {
  const { blobs, layer, limits, series, signal, onPeakMemory } = options
  const blob = new VerifiedBlob(blobs, layer, "layer", signal)
  const tee = async (chunk: Buffer) => {
    options.onBytes?.(blob.bytesRead)
    await copy?.writeFile(chunk)
  }
  const task = { compression: layer.compression, limits }
  const read = { blob, size: layer.size, task, data, index, signal, tee, onPeakMemory }
  if (series && isSmall(options)) return series.read({ ...read, digest: layer.digest })
  // A process of its own beside one that waits would be one too many.
  await series?.end()
  await readLayerApart(read)
}

function isSmall({ layer }: MakePartOptions): boolean {
  return LayerSeries.takes(layer.size)
}

/** The files come from a process that read hostile content: nothing about them is taken for granted. */
async function checkPart(options: MakePartOptions, data: FileHandle, index: FileHandle): Promise<void> {
  const { layer, diffId, limits, series } = options
  // The tree has as many files as it may have entries, the stream twice as many headers that may be hard links.
  const claimed = await readIndex(index, layer.digest, diffId, 3 * limits.entries)
  const { size } = await data.stat()
  if (size !== claimed.dataSize) {
    const what = `data of layer ${layer.digest} has another size than its index says`
    throw new ImageError("layer-process", what, { size, expected: claimed.dataSize })
  }
  // Only what we wrote there ourselves.
  if (claimed.readAfter.length > 0 && !(series && isSmall(options)))
    throw new ImageError("layer-process", `index of layer ${layer.digest} says that others were read before`)
}
