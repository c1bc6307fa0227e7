import type { FileHandle } from "node:fs/promises"
import type { Digest } from "../digest.js"
import { ioError } from "../errors.js"
import type { ImageLimits } from "../limits.js"
import { LayerChild } from "./layer-child.js"
import { markReadAfter, READ_AFTER_MAX } from "./layer-header.js"
import { heapFor } from "./layer-task.js"
import { writeAll } from "./part-file.js"
import { proven, type ReadLayerApartOptions, readBy } from "./read-layer-apart.js"

const MIB = 1024 * 1024
/**
 * Bytes of the largest compressed layer that is read so. A process starts, and compiles what it runs, in the time that
 * some 10 MiB take: beyond this that is little, and the part's copy costs as much.
 */
const SERIES_LAYER_MAX = 32 * MIB
const COPY_SIZE = MIB
/** Largest index of such a layer that is taken: more than its entries need. */
const INDEX_MAX = 128 * MIB

/** What a {@link LayerSeries} is made with. */
export interface LayerSeriesOptions {
  /** Makes an empty file without a name. */
  readonly scratch: () => Promise<FileHandle>
  readonly limits: ImageLimits
  readonly signal?: AbortSignal | undefined
  /** For tests: another script. */
  readonly entry?: string | undefined
}

/** A layer to be read, and the digest of its blob. */
export type SeriesLayer = ReadLayerApartOptions & { readonly digest: Digest }

/**
 * One process that reads layers of one image one after another, but for large ones: starting a process, and compiling what
 * it runs, takes as long as reading them.
 * It has the bounds of a process for the largest of them alone, each layer has its own limits and time, and none follows
 * one that failed: a crash or a bomb fails this image and nothing else.
 *
 * An image that took the process over could give wrong parts of all layers that come later, and parts are shared between
 * images. So:
 *
 * - The process writes into scratch files, which are copied before it gets the next layer: what was read is out of reach.
 * - A part's index, written by us, says which layers the process had read before. Only an image that has all of them
 *   takes the part: whoever wrote those could have put anything into that image anyway. For any other image the layer is
 *   read again, by a process of its own.
 */
export class LayerSeries implements AsyncDisposable {
  readonly #options: LayerSeriesOptions
  #process: SeriesProcess | undefined

  constructor(options: LayerSeriesOptions) {
    this.#options = options
  }

  /** @param size - bytes of the compressed layer */
  static takes(size: number): boolean {
    return size <= SERIES_LAYER_MAX
  }

  /**
   * Reads a layer as `readLayerApart` does.
   *
   * @throws ImageError what that throws; nothing can be read after it
   */
  async read(layer: SeriesLayer): Promise<void> {
    if (this.#process?.isFull) await this.end()
    await proven(layer.blob, async () => {
      this.#process ??= await SeriesProcess.start(this.#options)
      await this.#process.read(layer)
    })
  }

  /** Ends the process, if there is one; the next layer starts another. */
  async end(): Promise<void> {
    const process = this.#process
    this.#process = undefined
    await process?.[Symbol.asyncDispose]()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.end()
  }
}

class SeriesProcess implements AsyncDisposable {
  readonly #child: LayerChild
  readonly #files: readonly [FileHandle, FileHandle]
  readonly #before: Digest[] = []

  private constructor(child: LayerChild, files: readonly [FileHandle, FileHandle]) {
    this.#child = child
    this.#files = files
  }

  static async start({ scratch, limits, signal, entry }: LayerSeriesOptions): Promise<SeriesProcess> {
    const data = await scratch()
    let index: FileHandle | undefined
    try {
      index = await scratch()
      const heap = heapFor(limits, SERIES_LAYER_MAX)
      const child = new LayerChild({ files: [data.fd, index.fd], heap, signal, entry })
      return new SeriesProcess(child, [data, index])
    } catch (error) {
      await data.close()
      await index?.close()
      throw error
    }
  }

  /** Whether an index cannot name more layers. */
  get isFull(): boolean {
    return this.#before.length === READ_AFTER_MAX
  }

  async read(layer: SeriesLayer): Promise<void> {
    const [data, index] = this.#files
    await readBy(this.#child, layer, () => this.#child.answer())
    try {
      await copyAll(data, layer.data)
      await writeAll(layer.index, markReadAfter(await readShort(index), this.#before), 0)
      for (const file of this.#files) await file.truncate()
    } catch (error) {
      throw ioError(error, "cannot write a layer's part")
    }
    this.#before.push(layer.digest)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#child[Symbol.asyncDispose]()
    for (const file of this.#files) await file.close()
  }
}

async function copyAll(from: FileHandle, to: FileHandle): Promise<void> {
  const buffer = Buffer.allocUnsafe(COPY_SIZE)
  for (let position = 0; ; ) {
    const { bytesRead } = await from.read(buffer, 0, COPY_SIZE, position)
    if (bytesRead === 0) return
    await writeAll(to, buffer.subarray(0, bytesRead), position)
    position += bytesRead
  }
}

/** All of a file, or so much that it is no index. */
async function readShort(file: FileHandle): Promise<Buffer> {
  const size = Math.min((await file.stat()).size, INDEX_MAX)
  const bytes = Buffer.allocUnsafe(size)
  const { bytesRead } = await file.read(bytes, 0, size, 0)
  return bytes.subarray(0, bytesRead)
}
