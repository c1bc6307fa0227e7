import { ImageError } from "./errors.js"

const KIB = 1024
const MIB = 1024 * KIB
const GIB = 1024 * MIB

/** Bounds on what one image may cost. Sizes in bytes. */
export interface ImageLimits {
  /** One manifest, index or config document. */
  readonly documentBytes: number
  /** Manifests in one index. */
  readonly manifests: number
  /** Indexes that point to indexes. */
  readonly indexDepth: number
  /** Layers of one image. */
  readonly layers: number
  /** One stored (compressed) layer. */
  readonly blobBytes: number
  /** One layer's tar stream after decompression. */
  readonly layerBytes: number
  /** Decompressed bytes for one compressed byte, once `ratioFloor` is passed. */
  readonly ratio: number
  /** Decompressed bytes below which the ratio is not looked at. */
  readonly ratioFloor: number
  /** Zero bytes after the end mark of a tar stream. */
  readonly paddingBytes: number
  /** Window that a zstd frame may ask for. */
  readonly zstdWindow: number
  /** Entries of one layer, and of one image. */
  readonly entries: number
  /** Entries that every layer may have. Beyond, it needs {@link entryBytes} for each: names cost memory. */
  readonly entriesFloor: number
  /** Compressed bytes of a layer for one entry; in practice there are more than 40, and the content. */
  readonly entryBytes: number
  /** Path components of one name. */
  readonly depth: number
  /** Bytes of one whole path. */
  readonly pathBytes: number
  /** Bytes of one PAX or long-name record group. */
  readonly paxBytes: number
  /** Bytes of all extended attributes of one entry. */
  readonly xattrBytes: number
  /** Bytes of all extended attributes and texts of symlinks of one layer. */
  readonly layerTextBytes: number
  /** Stored regions of all sparse files of one layer. */
  readonly sparseRegions: number
  /** Bytes of all holes in sparse files of one layer: they take no space, but up to 1/1024 of it to describe. */
  readonly holeBytes: number
  /** Members of an archive that holds an image (not of its layers). */
  readonly archiveEntries: number
}

/** Bounds that every image seen in practice fits into with room to spare. */
export const DEFAULT_LIMITS: ImageLimits = {
  documentBytes: 4 * MIB,
  manifests: 1000,
  indexDepth: 4,
  layers: 256,
  blobBytes: 32 * GIB,
  layerBytes: 64 * GIB,
  ratio: 250,
  ratioFloor: 64 * MIB,
  paddingBytes: MIB,
  zstdWindow: 32 * MIB,
  entries: 1_000_000,
  entriesFloor: 65_536,
  entryBytes: 32,
  depth: 512,
  pathBytes: 4096,
  paxBytes: MIB,
  xattrBytes: 64 * KIB,
  layerTextBytes: 16 * MIB,
  sparseRegions: 100_000,
  holeBytes: 16 * GIB,
  archiveEntries: 10_000,
}

/**
 * Refuses `value` above `max`.
 *
 * @throws ImageError `limit` with `limit` (its name in {@link ImageLimits}), `value`, `max`
 */
export function checkLimit(limit: keyof ImageLimits, value: number, max: number, what: string): void {
  if (value > max)
    throw new ImageError("limit", `${what}: ${value} is above the limit of ${max} (${limit})`, {
      limit,
      value,
      max,
    })
}
