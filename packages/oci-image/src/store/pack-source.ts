import { rm } from "node:fs/promises"
import { packImage } from "../pack/pack-image.js"
import { LayoutFolder, LayoutSource } from "../sources/layout.js"
import type { ImageSource } from "../sources/source.js"
import { hostPlatform, type Platform } from "../spec/platform.js"
import type { StoreFolder } from "./folder.js"

/** Packs a plain root folder into a temporary image layout, which goes when the source is closed. */
export async function packToLayout(
  rootfs: string,
  folder: StoreFolder,
  options: { readonly platform?: Platform; readonly signal?: AbortSignal },
): Promise<ImageSource> {
  const temporary = folder.temporary()
  try {
    const { platform = hostPlatform(), signal } = options
    await packImage(temporary, { layers: [{ folder: rootfs }], platform, ...(signal ? { signal } : {}) })
    return new TemporarySource(await LayoutFolder.open(temporary), temporary)
  } catch (error) {
    await rm(temporary, { recursive: true, force: true })
    throw error
  }
}

class TemporarySource extends LayoutSource {
  readonly #path: string

  constructor(files: LayoutFolder, path: string) {
    super(files)
    this.#path = path
  }

  override async [Symbol.asyncDispose](): Promise<void> {
    await super[Symbol.asyncDispose]()
    await rm(this.#path, { recursive: true, force: true })
  }
}
