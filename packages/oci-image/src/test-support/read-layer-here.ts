import { encodeLayerIndex } from "../layer/layer-index.js"
import type { LayerSeriesOptions } from "../layer/layer-series.js"
import { PartWriter } from "../layer/part-writer.js"
import { type LayerInput, readLayer } from "../layer/read-layer.js"
import type { ReadLayerApartOptions } from "../layer/read-layer-apart.js"

/**
 * Reads a layer as `readLayerApart` does, in this process: where hundreds of layers are read, and every write of the
 * data part and the index is a step to fail at.
 */
export async function readLayerApart(options: ReadLayerApartOptions): Promise<void> {
  const { task, data, index } = options
  const part = new PartWriter(data)
  const read = await readLayer({ ...task, blob: teed(options), part })
  const bytes = encodeLayerIndex({ ...read, dataSize: part.size })
  await index.write(bytes, 0, bytes.length, 0)
}

/** Reads small layers in this process, with the files that the real series has. */
export class LayerSeries {
  readonly #options: LayerSeriesOptions

  constructor(options: LayerSeriesOptions) {
    this.#options = options
  }

  static takes(): boolean {
    return true
  }

  async read(options: ReadLayerApartOptions): Promise<void> {
    const scratch = await this.#options.scratch()
    try {
      await readLayerApart(options)
    } finally {
      await scratch.close()
    }
  }

  async end(): Promise<void> {
    // There is no process.
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // Nor is one left.
  }
}

function teed({ blob, tee }: ReadLayerApartOptions): LayerInput {
  return {
    get bytesRead() {
      return blob.bytesRead
    },
    async next() {
      const chunk = await blob.next()
      if (chunk) await tee?.(chunk)
      return chunk
    },
    drain: () => blob.drain(),
    close: () => blob.close(),
  }
}
