import { type Digest, digestHex } from "../digest.js"
import { fromAnyPlace } from "../sources/blob.js"
import type { FoundImage } from "../sources/source.js"
import type { LayerDescriptor } from "../spec/manifest.js"
import { exists, type StoreContext } from "./context.js"
import type { LayerState, LoadOptions } from "./load-options.js"
import { isPartWhole, makePart } from "./make-part.js"

/**
 * Makes the parts of an image's layers, some of them at once. The first failure ends the others; all have ended when
 * this does.
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
  const work = async () => {
    // One iterator for all: each takes the next layer when it is done with its last.
    for (const layer of queue) {
      signal.throwIfAborted()
      await layer.run(signal)
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
  async run(signal: AbortSignal): Promise<void> {
    const { folder, leases } = this.#context
    const { digest, size } = this.#layer
    const isDone = () => this.#isDone()
    const claim = (await isDone()) ? undefined : await leases.claim(digestHex(digest), isDone, signal)
    if (!claim) {
      this.report("exists", size)
      return
    }
    try {
      // A whole part, of which only the blob is missing, stays for the images that use it.
      if (!(await isPartWhole(folder, digest))) await folder.removeFolder(folder.part(digest))
      await this.#make(signal)
    } finally {
      await claim[Symbol.asyncDispose]()
    }
    this.report("done", size)
  }

  /** A store that did not keep blobs before may have the part alone. */
  async #isDone(): Promise<boolean> {
    const { folder, keepBlobs } = this.#context
    const { digest } = this.#layer
    return (await isPartWhole(folder, digest)) && (!keepBlobs || (await exists(folder.blob(digest))))
  }

  #make(signal: AbortSignal): Promise<void> {
    const { folder, limits, keepBlobs: keepBlob } = this.#context
    const { blobs } = this.#image
    return fromAnyPlace(blobs, this.#layer, async () => {
      this.report("reading", 0)
      await makePart({
        folder,
        blobs,
        layer: this.#layer,
        diffId: this.#diffId,
        limits,
        keepBlob,
        signal,
        onBytes: done => this.report("reading", done),
      })
    })
  }
}
