import { type Digest, parseDigest } from "../../digest.js"
import { ImageError, printable } from "../../errors.js"
import type { LayerDescriptor } from "../../spec/manifest.js"

/** Tables of contents that layers carry, by the names of their formats. */
export type TocFormat = "estargz" | "zstd:chunked"

/** @see estargz spec, "Verification"; `containerd/stargz-snapshotter`, docs/estargz.md */
const TOC_DIGEST = "containerd.io/snapshot/stargz/toc.digest"
/** @see `containers/storage`, pkg/chunked/internal */
const MANIFEST_CHECKSUM = "io.github.containers.zstd-chunked.manifest-checksum"
const MANIFEST_POSITION = "io.github.containers.zstd-chunked.manifest-position"
/** The names before the project moved; what Debian 12's buildah and podman write. */
const OLD_CHECKSUM = "io.containers.zstd-chunked.manifest-checksum"
const OLD_POSITION = "io.containers.zstd-chunked.manifest-position"
/** The one type of manifest there is: the entries of CRFS. */
const MANIFEST_TYPE_CRFS = 1

/** What a layer's annotations say of its table of contents; they are as proven as the manifest is. */
export type TocPlace =
  | { readonly format: "estargz"; readonly digest: Digest }
  | {
      readonly format: "zstd:chunked"
      readonly digest: Digest
      /** Bytes of the blob, and how many they unpack to. */
      readonly from: number
      readonly to: number
      readonly size: number
    }

/**
 * Reads a layer's annotations.
 *
 * @returns undefined when they tell of no table that fits how the layer is packed
 * @throws ImageError `toc-invalid`, `digest-invalid`
 */
export function readTocPlace({ annotations = {}, compression, size }: LayerDescriptor): TocPlace | undefined {
  if (compression === "gzip" && annotations[TOC_DIGEST] !== undefined)
    return { format: "estargz", digest: parseDigest(annotations[TOC_DIGEST]) }
  const checksum = annotations[MANIFEST_CHECKSUM] ?? annotations[OLD_CHECKSUM]
  const position = annotations[MANIFEST_POSITION] ?? annotations[OLD_POSITION]
  if (compression !== "zstd" || checksum === undefined || position === undefined) return undefined
  return { format: "zstd:chunked", digest: parseDigest(checksum), ...readPosition(position, size) }
}

/** `offset:length:length unpacked:type` */
function readPosition(text: string, blobSize: number): { from: number; to: number; size: number } {
  const numbers = /^(\d{1,15}):(\d{1,15}):(\d{1,15}):(\d{1,3})$/.exec(text)?.slice(1).map(Number)
  const [from = 0, length = 0, size = 0, type] = numbers ?? []
  if (!numbers || type !== MANIFEST_TYPE_CRFS)
    throw invalidToc(`its position makes no sense: ${printable(text)}`)
  if (length === 0 || from + length > blobSize) throw invalidToc("it lies outside the layer")
  return { from, to: from + length, size }
}

/** The error for a table of contents that is not used. */
export function invalidToc(why: string, cause?: unknown): ImageError {
  return new ImageError("toc-invalid", `table of contents of a layer: ${why}`, {}, { cause })
}
