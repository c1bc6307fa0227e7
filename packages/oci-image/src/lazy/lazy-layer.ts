import { createHash } from "node:crypto"
import { type FileHandle, open, readFile, rename } from "node:fs/promises"
import { join } from "node:path"
import { checkDigest, type Digest, finishDigest } from "../digest.js"
import { ioError } from "../errors.js"
import { readRange } from "../sources/beneath.js"
import type { StoreContext } from "../store/context.js"
import { writeSynced } from "../store/folder.js"
import { keepStart } from "./kept-index.js"
import type { KnownLayer } from "./known-layer.js"
import type { FoundLayer } from "./known-layers.js"
import { LazyPart } from "./lazy-part.js"
import { storeArrived } from "./toc/prove-toc.js"

/** What a layer on its way is made of. */
export interface LazyLayerOptions extends FoundLayer {
  readonly context: StoreContext
}

/** A layer on its way: what arrives is its alone, until all is there and proven. */
export class LazyLayer implements AsyncDisposable {
  readonly digest: Digest
  readonly known: KnownLayer
  readonly part: LazyPart
  readonly #options: LazyLayerOptions
  readonly #file: FileHandle
  readonly #blob: FileHandle | undefined

  private constructor(
    options: LazyLayerOptions,
    part: LazyPart,
    file: FileHandle,
    blob: FileHandle | undefined,
  ) {
    this.digest = options.layer.digest
    this.known = options.known
    this.part = part
    this.#options = options
    this.#file = file
    this.#blob = blob
  }

  /** @throws ImageError `io` */
  static async open(options: LazyLayerOptions): Promise<LazyLayer> {
    const { context, known, fetch, folder } = options
    const file = await open(join(folder, "data"), "wx+", 0o600)
    let blob: FileHandle | undefined
    try {
      // What a table of contents told is held against the layer itself in the end.
      if (context.keepBlobs || known.by !== "kept-index")
        blob = await open(join(folder, "blob"), "wx+", 0o600)
      const part = await LazyPart.create({ index: known.spans, fetch, file, blob, limits: context.limits })
      return new LazyLayer(options, part, file, blob)
    } catch (error) {
      await file.close()
      await blob?.close()
      throw error
    }
  }

  /** The file of the data part. */
  get path(): string {
    return join(this.#options.folder, "data")
  }

  /**
   * Fetches all that is missing, and proves what can be: what was kept by the digest of the content it was made of, a
   * blob by its own.
   *
   * @throws ImageError what fetching throws, `digest-mismatch`, `io`; the signal's reason
   */
  async complete(signal?: AbortSignal): Promise<void> {
    await this.part.fill(undefined, signal)
    if (this.known.by === "kept-index") await this.part.finish()
    else await this.part.completeBlob(signal)
    if (this.#blob) checkDigest("layer", this.digest, await digestOfFile(this.#blob))
  }

  /**
   * Puts the layer into the store. Its file stays open and is read on by whoever has it.
   *
   * @throws ImageError `io`; for a layer known by its table of contents what reading it throws, and `toc-disagrees`
   */
  async publish(signal?: AbortSignal): Promise<void> {
    const { context, layer, diffId, folder, image } = this.#options
    if (this.known.by === "kept-index") return this.#publishParts()
    const blob = this.#blob as FileHandle
    await storeArrived(context, { layer, diffId, blob, data: this.#file, folder, image }, signal)
  }

  async #publishParts(): Promise<void> {
    const { context, folder: from } = this.#options
    const { folder } = context
    try {
      // As it was kept: merging has left its marks on the tree in memory.
      await writeSynced(join(from, "index"), await readFile(folder.lazy(this.digest, "index")))
      await this.#file.sync()
      await this.#blob?.sync()
      if (this.#blob) await rename(join(from, "blob"), folder.blob(this.digest))
    } catch (error) {
      throw ioError(error, "cannot write to the image store")
    }
    await folder.publishFolder(from, folder.part(this.digest))
  }

  /** Remembers what was needed, and ends what is on its way. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.part.close()
    const { spansWanted } = this.part
    if (spansWanted.length > 0)
      await keepStart(this.#options.context.folder, this.digest, spansWanted).catch(() => undefined)
    await this.#file.close()
    await this.#blob?.close()
  }
}

async function digestOfFile(file: FileHandle): Promise<Digest> {
  const hash = createHash("sha256")
  for await (const chunk of readRange(file, 0, Number.POSITIVE_INFINITY)) hash.update(chunk)
  return finishDigest(hash)
}
