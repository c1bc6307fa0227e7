import { rm } from "node:fs/promises"
import { ioError } from "../errors.js"
import { type LayerInput, type PackOptions, packImage } from "../pack/pack-image.js"
import { LayoutFolder, LayoutSource } from "../sources/layout.js"
import type { ImageSource } from "../sources/source.js"
import { hostPlatform, type Platform } from "../spec/platform.js"
import type { StoreFolder } from "./folder.js"

/** What a packed image says besides its files. */
export interface PackSourceOptions {
  readonly config?: PackOptions["config"]
  readonly platform?: Platform
  readonly signal?: AbortSignal
}

/** Packs one layer into a temporary image layout, which goes when the source is closed. */
export async function packToLayout(
  layer: LayerInput,
  folder: StoreFolder,
  options: PackSourceOptions,
): Promise<ImageSource> {
  const temporary = folder.temporary()
  try {
    const { platform = hostPlatform(), config, signal } = options
    await packImage(temporary, {
      layers: [layer],
      platform,
      ...(config ? { config } : {}),
      ...(signal ? { signal } : {}),
    })
    return new TemporarySource(await LayoutFolder.open(temporary), temporary)
  } catch (error) {
    await rm(temporary, { recursive: true, force: true })
    throw (error as NodeJS.ErrnoException).syscall ? ioError(error, "cannot pack the image") : error
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
