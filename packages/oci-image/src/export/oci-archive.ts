import { type Digest, digestHex } from "../digest.js"
import type { PackItem } from "../pack/items.js"
import { OCI_INDEX } from "../spec/media-types.js"
import { archiveFile, archiveFolder, blobChunks, type ExportContext, type ExportImage } from "./image.js"

/**
 * The files of an OCI image layout with these images. Blobs are written as they are, each once, in the order of their
 * digests.
 *
 * @see OCI image spec 1.1, image-layout.md
 */
export function* ociArchive(images: readonly ExportImage[], context: ExportContext): Generator<PackItem> {
  const index = { schemaVersion: 2, mediaType: OCI_INDEX, manifests: images.flatMap(indexEntries) }
  yield archiveFolder("blobs/")
  yield archiveFolder("blobs/sha256/")
  for (const [digest, size] of sizesOf(images)) {
    const chunks = blobChunks(context, { digest, size })
    yield archiveFile(`blobs/sha256/${digestHex(digest)}`, { size, chunks })
  }
  yield archiveFile("index.json", Buffer.from(JSON.stringify(index)))
  yield archiveFile("oci-layout", Buffer.from('{"imageLayoutVersion":"1.0.0"}'))
}

/** One entry for each name: what other tools look for, and the full name as containerd and docker write it. */
function indexEntries({ image, names }: ExportImage): object[] {
  const { mediaType, digest, document } = image
  const entry = { mediaType, digest, size: document.length }
  if (names.length === 0) return [entry]
  return names.map(name => ({
    ...entry,
    annotations: { "io.containerd.image.name": name, "org.opencontainers.image.ref.name": name },
  }))
}

function sizesOf(images: readonly ExportImage[]): [Digest, number][] {
  const sizes = new Map<Digest, number>()
  for (const { image, config } of images) {
    sizes.set(image.digest, image.document.length)
    sizes.set(image.manifest.config.digest, config.document.length)
    for (const { digest, size } of image.manifest.layers) sizes.set(digest, size)
  }
  return [...sizes].sort(([a], [b]) => (a < b ? -1 : 1))
}
