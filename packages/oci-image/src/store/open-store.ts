import { resolve } from "node:path"
import { ioError } from "../errors.js"
import { DEFAULT_LIMITS, type ImageLimits } from "../limits.js"
import { exists, type StoreContext } from "./context.js"
import { StoreFolder } from "./folder.js"
import { Leases } from "./leases.js"
import { ImageNames, refreshIndex } from "./names.js"

/** How a store is opened. */
export interface StoreOptions {
  /** Overrides of {@link DEFAULT_LIMITS}. */
  readonly limits?: Partial<ImageLimits>
  /**
   * Whether layers' blobs are stored besides their parts, so that other tools can read the store and images can be
   * saved. Default true.
   */
  readonly keepBlobs?: boolean
  /** Layers of one image that are made at once, at least 1. Default 3. */
  readonly parallelLayers?: number
}

const DEFAULT_PARALLEL_LAYERS = 3

/** Makes the folder where there is none, and removes what dead processes left behind. @see ImageStore.open */
export async function openStore(path: string, options: StoreOptions): Promise<StoreContext> {
  const folder = new StoreFolder(resolve(path))
  const names = new ImageNames(folder)
  try {
    await folder.prepare()
    if (!(await exists(folder.top("oci-layout")))) {
      await refreshIndex(folder, names)
      await folder.replaceFile(folder.top("oci-layout"), JSON.stringify({ imageLayoutVersion: "1.0.0" }))
    }
  } catch (error) {
    throw ioError(error, "cannot open the image store")
  }
  return {
    folder,
    names,
    leases: new Leases(folder.top("leases")),
    limits: { ...DEFAULT_LIMITS, ...options.limits },
    keepBlobs: options.keepBlobs ?? true,
    parallelLayers: Math.max(1, options.parallelLayers ?? DEFAULT_PARALLEL_LAYERS),
  }
}
