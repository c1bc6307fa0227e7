import type { Writable } from "node:stream"
import type { Digest } from "../digest.js"
import { dockerArchive } from "../export/docker-archive.js"
import type { ExportContext, ExportImage } from "../export/image.js"
import { ociArchive } from "../export/oci-archive.js"
import { tarStream } from "../pack/items.js"
import { LayoutFolder } from "../sources/layout.js"
import { checkKept } from "./content.js"
import type { StoreContext } from "./context.js"
import { withDocuments } from "./documents.js"
import { noSuchImage, resolveReference } from "./resolve.js"
import { type ImageRecord, readRecord } from "./stored-image.js"
import { writeTarget } from "./write-target.js"

/**
 * How images are put into one file. `oci-archive`: an image layout as a tar file, with the same manifests and blobs.
 * `docker-archive`: what `docker save` writes and every version of it reads; layers unpacked, manifests are lost.
 */
export type SaveFormat = "oci-archive" | "docker-archive"

/** How images are saved. */
export interface SaveOptions {
  /** Default `oci-archive`. */
  readonly format?: SaveFormat
  readonly signal?: AbortSignal
}

/** Writes images into one archive; the caller holds a lease, so no blob goes meanwhile. @see ImageStore.save */
export async function saveImages(
  context: StoreContext,
  references: readonly string[],
  target: string | Writable,
  { format = "oci-archive", signal }: SaveOptions,
): Promise<void> {
  const wanted = await chooseImages(context, references)
  const images: ExportImage[] = []
  for (const [record, names] of wanted) images.push(await exportImage(context, record, names))
  const blobs = await LayoutFolder.open(context.folder.path)
  try {
    const exported: ExportContext = { blobs, limits: context.limits, signal }
    const items = format === "oci-archive" ? ociArchive(images, exported) : dockerArchive(images, exported)
    await writeTarget(target, tarStream(items))
  } finally {
    await blobs[Symbol.asyncDispose]()
  }
}

/** The images in the order of their digests, each once with the names it was asked for by. */
async function chooseImages(
  context: StoreContext,
  references: readonly string[],
): Promise<[ImageRecord, string[]][]> {
  const chosen = new Map<Digest, [ImageRecord, string[]]>()
  for (const reference of references) {
    const found = await resolveReference(context, reference)
    const record = found && (await readRecord(context.folder, found.digest))
    if (!found || !record) throw noSuchImage(reference)
    const [, names] = chosen.get(found.digest) ?? [record, []]
    if (found.name !== undefined && !names.includes(found.name)) names.push(found.name)
    chosen.set(found.digest, [record, names.sort()])
  }
  return [...chosen.values()].sort(([a], [b]) => (a.digest < b.digest ? -1 : 1))
}

async function exportImage(
  context: StoreContext,
  record: ImageRecord,
  names: readonly string[],
): Promise<ExportImage> {
  return withDocuments(context, record, async ({ image, config }) => {
    await checkKept(context, record, image.manifest)
    return { image, config, names }
  })
}
