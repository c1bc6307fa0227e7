import { access } from "node:fs/promises"
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

/** Whether there is anything at a path. */
export async function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  )
}
