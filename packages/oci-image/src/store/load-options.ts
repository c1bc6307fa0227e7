import type { Digest } from "../digest.js"
import type { Platform } from "../spec/platform.js"

/**
 * What happens to a layer: it waits for its turn or for another process that makes it, is read, was made, or was
 * there already.
 */
export type LayerState = "waiting" | "reading" | "done" | "exists"

/** How far one layer of a load is. Every layer begins with `waiting` and ends with `done` or `exists`. */
export interface LoadProgress {
  /** Digest of the layer. */
  readonly layer: Digest
  /** Its position, from 0, and how many there are. */
  readonly position: number
  readonly layers: number
  readonly state: LayerState
  /** Bytes of its blob read, and in all. */
  readonly done: number
  readonly total: number
}

/** How an image is loaded. */
export interface LoadOptions {
  /** Name to give the image, `latest` unless it has a tag. Names inside the content are never used. */
  readonly name?: string
  /** Which image of an index. Default: Linux on this processor. */
  readonly platform?: Platform
  readonly signal?: AbortSignal
  /** Sees every layer on its way, several of them at once. */
  readonly onProgress?: (progress: LoadProgress) => void
}
