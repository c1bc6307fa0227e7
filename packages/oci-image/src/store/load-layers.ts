import { type Digest, digestHex } from "../digest.js"
import { isPartOf } from "../layer/layer-header.js"
import { LayerSeries } from "../layer/layer-series.js"
import { fromAnyPlace } from "../sources/blob.js"
import type { FoundImage } from "../sources/source.js"
import type { LayerDescriptor } from "../spec/manifest.js"
import { exists, type StoreContext } from "./context.js"
import type { LayerState, LoadOptions } from "./load-options.js"
import { makePart } from "./make-part.js"
import { partHeader } from "./parts.js"

/**
 * Makes the parts of an image's layers, some of them at once; one process reads several, but for large ones. The first
 * failure ends the others; all have ended when this does.
 *
 * @param diffIds - what the image's config says the unpacked layers are
 * @throws what making a part throws; the signal's reason
 */
export async function loadLayers(
  context: StoreContext,
  image: FoundImage,
  diffIds: readonly Digest[],
  options: LoadOptions,
): Promise<void> {
  const layers = image.manifest.layers.map(
    (_, position) => new LayerLoad(context, image, position, diffIds, options),
  )
  for (const layer of layers) layer.report("waiting", 0)
  const failed = new AbortController()
  const signal = options.signal ? AbortSignal.any([options.signal, failed.signal]) : failed.signal
  const queue = layers.values()
  const { folder, limits } = context
  const work = async () => {
    await using series = new LayerSeries({ scratch: () => folder.scratch(), limits, signal })
    // One iterator for all: each takes the next layer when it is done with its last.
    for (const layer of queue) {
      signal.throwIfAborted()
      await layer.run(signal, series)
    }
  }
  const workers = Array.from({ length: context.parallelLayers }, () =>
    work().catch(error => {
      failed.abort(error)
      throw error
    }),
  )
  const ended = await Promise.allSettled(workers)
  if (ended.some(end => end.status === "rejected")) throw signal.reason
}

/** One layer on its way into the store. */
class LayerLoad {
  readonly #context: StoreContext
  readonly #image: FoundImage
  readonly #position: number
  readonly #layer: LayerDescriptor
  readonly #diffId: Digest
  readonly #options: LoadOptions

  constructor(
    context: StoreContext,
    image: FoundImage,
    position: number,
    diffIds: readonly Digest[],
    options: LoadOptions,
  ) {
    this.#context = context
    this.#image = image
    this.#position = position
    this.#layer = image.manifest.layers[position] as LayerDescriptor
    this.#diffId = diffIds[position] as Digest
    this.#options = options
  }

  report(state: LayerState, done: number): void {
    const { digest: layer, size: total } = this.#layer
    const { length: layers } = this.#image.manifest.layers
    this.#options.onProgress?.({ layer, position: this.#position, layers, state, done, total })
  }

  /** Makes the part unless it is there, or another load, of this process or another one, makes it. */
  async run(signal: AbortSignal, series: LayerSeries): Promise<void> {
    const { folder, leases } = this.#context
    const { digest, size } = this.#layer
    const isDone = () => this.#isDone()
    const claim = (await isDone()) ? undefined : await leases.claim(digestHex(digest), isDone, signal)
    if (!claim) {
      this.report("exists", size)
      return
    }
    try {
      // A whole part stays for the images that use it: only its blob is missing, or this image may not take it.
      const there = await partHeader(folder, digest)
      if (!there) await folder.removeFolder(folder.part(digest))
      await this.#make(signal, there ? undefined : series)
    } finally {
      await claim[Symbol.asyncDispose]()
    }
    this.report("done", size)
  }

  get #layers(): Digest[] {
    return this.#image.manifest.layers.map(layer => layer.digest)
  }

  /** A store that did not keep blobs before may have the part alone. */
  async #isDone(): Promise<boolean> {
    const { folder, keepBlobs } = this.#context
    const { digest } = this.#layer
    const there = await partHeader(folder, digest)
    const isTaken = there !== undefined && isPartOf(there, this.#layers)
    return isTaken && (!keepBlobs || (await exists(folder.blob(digest))))
  }

  /** @param series - absent to read the layer before all others of its process */
  #make(signal: AbortSignal, series: LayerSeries | undefined): Promise<void> {
    const { folder, limits, keepBlobs: keepBlob } = this.#context
    const { blobs } = this.#image
    return fromAnyPlace(blobs, this.#layer, async () => {
      this.report("reading", 0)
      const part = {
        folder,
        blobs,
        layer: this.#layer,
        diffId: this.#diffId,
        limits,
        keepBlob,
        series,
        signal,
      }
      try {
        await makePart({ ...part, onBytes: done => this.report("reading", done) })
      } catch (error) {
        // No layer follows one that failed in its process.
        await series?.end()
        throw error
      }
    })
  }
}
