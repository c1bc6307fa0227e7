import type { Digest } from "../digest.js"
import { decompress } from "../layer/decompress.js"
import type { ImageLimits } from "../limits.js"
import type { PackItem } from "../pack/items.js"
import { type BlobRequest, type BlobSource, VerifiedBlob } from "../sources/blob.js"
import type { FoundImage } from "../sources/source.js"
import type { LayerDescriptor } from "../spec/manifest.js"

/** An image to be written into an archive. */
export interface ExportImage {
  readonly image: FoundImage
  /** The config document and, from it, the digests of the layers' tar streams. */
  readonly config: { readonly document: Buffer; readonly diffIds: readonly Digest[] }
  /** Names it gets in the archive, in their stored spelling. */
  readonly names: readonly string[]
}

/** Where content is read from while an archive is written, and what bounds it. */
export interface ExportContext {
  readonly blobs: BlobSource
  readonly limits: ImageLimits
  readonly signal?: AbortSignal | undefined
}

/** A file of an archive. Owner, mode and time are always the same, so that equal images give equal archives. */
export function archiveFile(
  path: string,
  content: Buffer | { readonly size: number; readonly chunks: AsyncIterable<Buffer> },
): PackItem {
  const size = Buffer.isBuffer(content) ? content.length : content.size
  const chunks = Buffer.isBuffer(content) ? [content] : content.chunks
  return { header: { ...HEADER, type: "file", path, mode: 0o644, size }, content: chunks }
}

/** A folder of an archive. @param path - ends in a slash */
export function archiveFolder(path: string): PackItem {
  return { header: { ...HEADER, type: "directory", path, mode: 0o755 } }
}

const HEADER = {
  linkPath: "",
  uid: 0,
  gid: 0,
  size: 0,
  mtime: { seconds: 0, nanoseconds: 0 },
  devmajor: 0,
  devminor: 0,
  xattrs: undefined,
}

/** A blob as it is, proven at its end. @throws ImageError what {@link VerifiedBlob} throws */
export async function* blobChunks(
  { blobs, signal }: ExportContext,
  request: BlobRequest,
): AsyncGenerator<Buffer> {
  const blob = new VerifiedBlob(blobs, request, "blob", signal)
  try {
    for (let chunk = await blob.next(); chunk; chunk = await blob.next()) yield chunk
  } finally {
    await blob.close()
  }
}

/** A layer's tar stream. @throws ImageError what {@link decompress} and {@link VerifiedBlob} throw */
export async function* layerChunks(
  { blobs, limits, signal }: ExportContext,
  layer: LayerDescriptor,
): AsyncGenerator<Buffer> {
  const blob = new VerifiedBlob(blobs, layer, "layer", signal)
  try {
    yield* decompress(blob, layer.compression, limits)
    await blob.drain()
  } finally {
    await blob.close()
  }
}
