import { access } from "node:fs/promises"
import { ioError } from "../errors.js"
import type { ImageLimits } from "../limits.js"
import type { StoreFolder } from "./folder.js"
import type { Leases } from "./leases.js"
import type { ImageNames } from "./names.js"

/** What every operation of a store works with. */
export interface StoreContext {
  readonly folder: StoreFolder
  readonly leases: Leases
  readonly names: ImageNames
  readonly limits: ImageLimits
  readonly keepBlobs: boolean
  /** Layers of one image that are made at once. */
  readonly parallelLayers: number
}

/**
 * Whether there is anything at a path.
 *
 * @throws ImageError `io` when it cannot be told: a name of an image that only cannot be looked at has to stay
 */
export async function exists(path: string): Promise<boolean> {
  try {
    await access(path)
    return true
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return false
    throw ioError(error, "cannot look at the image store")
  }
}
