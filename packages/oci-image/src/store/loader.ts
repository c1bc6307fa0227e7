import { openSource } from "../sources/open.js"
import { type ImageSource, type ResolveOptions, readFoundConfig, readFoundImage } from "../sources/source.js"
import { hostPlatform } from "../spec/platform.js"
import type { StoreContext } from "./context.js"
import { FolderCache } from "./folder-cache.js"
import { loadLayers } from "./load-layers.js"
import type { LoadOptions } from "./load-options.js"
import { makeImage } from "./make-image.js"
import { refreshIndex } from "./names.js"
import { packToLayout } from "./pack-source.js"
import { type ImageRecord, readRecord } from "./stored-image.js"

/** Brings images into a store. Whoever uses it holds a lease for loading. */
export class ImageLoader {
  readonly #context: StoreContext

  constructor(context: StoreContext) {
    this.#context = context
  }

  /** Loads what the text of a source names. @see ImageStore.load */
  async loadText(text: string, options: LoadOptions): Promise<ImageRecord> {
    const opened = await openSource(text, this.#context.limits)
    if ("rootfs" in opened) return this.#loadFolder(opened.rootfs, options)
    try {
      return await this.load(opened.image, options)
    } finally {
      await opened.image[Symbol.asyncDispose]()
    }
  }

  async #loadFolder(rootfs: string, options: LoadOptions): Promise<ImageRecord> {
    const { folder } = this.#context
    const cache = await FolderCache.look(folder, rootfs, options.platform ?? hostPlatform())
    const digest = await cache.get()
    const known = digest && (await readRecord(folder, digest))
    if (known) return known
    const image = await packToLayout({ folder: rootfs }, folder, options)
    try {
      const record = await this.load(image, options)
      await cache.set(record.digest)
      return record
    } finally {
      await image[Symbol.asyncDispose]()
    }
  }

  /** Loads the image of a source, unless it is there; the source stays open. */
  async load(source: ImageSource, options: LoadOptions): Promise<ImageRecord> {
    const { folder, names, limits } = this.#context
    const { platform = hostPlatform(), signal } = options
    const resolved: ResolveOptions = { platform, signal, limits }
    const found = await source.locate(resolved)
    const known = await readRecord(folder, found.digest)
    if (known) return known
    const image = await readFoundImage(found, source.blobs, resolved)
    const config = await readFoundConfig(image, resolved)
    await loadLayers(this.#context, image, config.diffIds, options)
    signal?.throwIfAborted()
    await folder.replaceFile(folder.blob(image.manifest.config.digest), config.document, false)
    await folder.replaceFile(folder.blob(image.digest), image.document, false)
    const record = await makeImage(folder, image, config, limits)
    await refreshIndex(folder, names)
    return record
  }
}
