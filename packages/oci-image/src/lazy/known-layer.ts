import type { Digest } from "../digest.js"
import type { ImageError } from "../errors.js"
import type { LayerIndex } from "../layer/layer-index.js"
import type { SpanIndex } from "./span-index.js"
import type { TocFormat } from "./toc/toc-place.js"

/** Where one knows from what is in a layer that is not there: kept from an earlier time, or told by the layer itself. */
export type LazyBasis = "kept-index" | TocFormat

/** A layer that one can begin with while it is not there. */
export interface KnownLayer {
  readonly by: LazyBasis
  readonly layer: LayerIndex
  readonly spans: SpanIndex
  /** Numbers of the spans that a start needs, in order, as far as that is known. */
  readonly start: readonly number[]
}

/** How one begins with a layer that is not in the store. */
export interface LazyLayerReport {
  /** Digest of the layer. */
  readonly layer: Digest
  /** `whole`: not at all, it has to be loaded, and with it the image. */
  readonly by: LazyBasis | "whole"
  /** Why it has to be loaded whole. */
  readonly reason?: ImageError
}
