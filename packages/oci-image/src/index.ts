/**
 * OCI images as read-only EROFS disks: layers are read as streams and never unpacked on the host.
 *
 * @packageDocumentation
 */

export { type Digest, digestHex, digestOf, parseDigest } from "./digest.js"
export { ImageError, type ImageErrorCode, type ImageErrorFields, isImageError } from "./errors.js"
export { type LazyDiskPart, LazyImage } from "./lazy/lazy-image.js"
export type { OpenLazyOptions } from "./lazy/verbs.js"
export { DEFAULT_LIMITS, type ImageLimits } from "./limits.js"
export type { PackFile } from "./pack/items.js"
export {
  type LayerInput,
  type PackedImage,
  type PackOptions,
  packImage,
  type RunOptions,
} from "./pack/pack-image.js"
export {
  familiarName,
  formatReference,
  isSameName,
  normalizeName,
  parseReference,
  type Reference,
} from "./references.js"
export { type BlobRequest, type BlobSource, VerifiedBlob } from "./sources/blob.js"
export { type OpenedSource, openSource, parseSource, type SourceSpec } from "./sources/open.js"
export type { FoundImage, ImageSource, ResolveOptions } from "./sources/source.js"
export type { ImageConfig } from "./spec/config.js"
export type { Descriptor, LayerDescriptor, Manifest } from "./spec/manifest.js"
export type { Compression } from "./spec/media-types.js"
export { formatPlatform, hostPlatform, type Platform } from "./spec/platform.js"
export type { CommitOptions } from "./store/commit.js"
export type { StoredContent } from "./store/content.js"
export type { ImageDetails, ImageDetailsConfig } from "./store/details.js"
export type { Ext4Disk, Ext4Options } from "./store/export-ext4.js"
export type { PruneOptions, PruneResult } from "./store/gc.js"
export type { HistoryEntry } from "./store/history.js"
export type { BuildOptions, ImportOptions } from "./store/import.js"
export type { ImageEntry } from "./store/list.js"
export type { LoadArchiveOptions } from "./store/load-archive.js"
export type { LayerState, LoadOptions, LoadProgress } from "./store/load-options.js"
export type { StoreOptions } from "./store/open-store.js"
export type { RemovedImage } from "./store/removal.js"
export type { SaveFormat, SaveOptions } from "./store/save.js"
export { ImageStore } from "./store/store.js"
export { type ImageDisk, StoredImage } from "./store/stored-image.js"
export type { DiskUsage, ImageUsage, UsageSum } from "./store/usage.js"
