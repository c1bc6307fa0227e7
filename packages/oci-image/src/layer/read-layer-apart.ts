import type { FileHandle } from "node:fs/promises"
import { ImageError, isImageError } from "../errors.js"
import type { VerifiedBlob } from "../sources/blob.js"
import { LayerChild } from "./layer-child.js"
import type { LayerResult } from "./layer-result.js"
import { heapFor, type LayerPatience, type LayerTask, limitsFor, patienceFor } from "./layer-task.js"

/** What reading a layer in a process of its own needs. */
export interface ReadLayerApartOptions {
  readonly blob: VerifiedBlob
  /** Bytes of the blob: what the process may take depends on it. */
  readonly size: number
  readonly task: LayerTask
  /** Empty files that become the data part and the index. */
  readonly data: FileHandle
  readonly index: FileHandle
  readonly signal?: AbortSignal | undefined
  /** Sees every compressed chunk, for keeping the blob. */
  readonly tee?: (chunk: Buffer) => Promise<void>
  /** Sees how many bytes of memory the process had at most, unless it died. */
  readonly onPeakMemory?: ((bytes: number) => void) | undefined
  /** For tests: another script, other patience. */
  readonly entry?: string
  readonly patience?: LayerPatience
}

/**
 * Has one layer read by a process of its own, which is gone when this settles. The blob is proven here; what
 * the process wrote is only claimed, and has to be checked before it is used.
 *
 * @throws ImageError what the blob and the layer's content throw, `layer-process`; the signal's reason. A blob
 * that is both malformed and not the one it claims to be is reported as the latter.
 */
export async function readLayerApart(options: ReadLayerApartOptions): Promise<void> {
  const { size, task, data, index, signal, entry } = options
  const start = () =>
    new LayerChild({ files: [data.fd, index.fd], heap: heapFor(task.limits, size), signal, entry })
  await proven(options.blob, async () => {
    await using child = start()
    await readBy(child, options, () => child.finish())
  })
}

/**
 * Has a process that was started read one layer.
 *
 * @param result - waits for what it makes of it
 * @throws ImageError as {@link readLayerApart} does
 */
export async function readBy(
  child: LayerChild,
  options: Omit<ReadLayerApartOptions, "data" | "index">,
  result: () => Promise<LayerResult>,
): Promise<void> {
  const { size, task, patience = patienceFor(size) } = options
  await child.begin({ ...task, limits: limitsFor(task.limits, size), size }, patience)
  const complete = await feed(options, child)
  const { error, peak } = await result()
  options.onPeakMemory?.(peak)
  if (error) throw error
  if (!complete) throw new ImageError("layer-process", "layer was read before all of it was there")
}

/**
 * Reads a blob and closes it. When that fails, a blob that is not the one it claims to be is blamed first.
 *
 * @throws what `read` throws, or what reading the rest of the blob does
 */
export async function proven(blob: VerifiedBlob, read: () => Promise<void>): Promise<void> {
  try {
    await read()
  } catch (error) {
    if (isFormatError(error)) await blameDigestFirst(blob, error)
    throw error
  } finally {
    await blob.close()
  }
}

/** @returns whether the process took all of the blob */
async function feed(
  { blob, tee }: Pick<ReadLayerApartOptions, "blob" | "tee">,
  child: LayerChild,
): Promise<boolean> {
  for (let chunk = await blob.next(); chunk; chunk = await blob.next()) {
    await tee?.(chunk)
    if (!(await child.write(chunk))) return false
  }
  return true
}

function isFormatError(error: unknown): boolean {
  return isImageError(error) && /^(tar-|compression-|media-type|layer-process)/.test(error.code)
}

async function blameDigestFirst(blob: VerifiedBlob, cause: unknown): Promise<void> {
  try {
    await blob.drain()
  } catch (error) {
    if (isImageError(error)) throw new ImageError(error.code, error.message, error.fields, { cause })
    throw error
  }
}
