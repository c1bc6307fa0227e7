import { createHash } from "node:crypto"
import { checkDigest, type Digest, digestHex, finishDigest } from "../digest.js"
import type { PackItem } from "../pack/items.js"
import type { LayerDescriptor } from "../spec/manifest.js"
import { archiveFile, archiveFolder, type ExportContext, type ExportImage, layerChunks } from "./image.js"

/**
 * The files of an archive as `docker save` writes it: configs, unpacked layers named by their own digest, each once,
 * and `manifest.json`. A packed layer is read twice, the first time to learn how long it is.
 *
 * @see moby/image/spec/v1.2.md, "Combined Image JSON + Filesystem Changeset Format"
 */
export async function* dockerArchive(
  images: readonly ExportImage[],
  context: ExportContext,
): AsyncGenerator<PackItem> {
  for (const [diffId, layer] of sorted(images.flatMap(layersOf))) {
    const size = await unpackedSize(context, layer, diffId)
    yield archiveFolder(`${digestHex(diffId)}/`)
    yield archiveFile(layerPath(diffId), { size, chunks: layerChunks(context, layer) })
  }
  const configs = images.map(({ image, config }) => [image.manifest.config.digest, config.document] as const)
  for (const [digest, document] of sorted(configs)) yield archiveFile(configPath(digest), document)
  yield archiveFile("manifest.json", Buffer.from(JSON.stringify(images.map(manifestEntry))))
}

function manifestEntry({ image, config, names }: ExportImage): object {
  return {
    Config: configPath(image.manifest.config.digest),
    RepoTags: names.length > 0 ? names : null,
    Layers: config.diffIds.map(layerPath),
  }
}

function layerPath(diffId: Digest): string {
  return `${digestHex(diffId)}/layer.tar`
}

function configPath(digest: Digest): string {
  return `${digestHex(digest)}.json`
}

function layersOf({ image, config }: ExportImage): (readonly [Digest, LayerDescriptor])[] {
  return image.manifest.layers.map((layer, i) => [config.diffIds[i] as Digest, layer])
}

/** Each digest once, in order. */
function sorted<T>(entries: readonly (readonly [Digest, T])[]): (readonly [Digest, T])[] {
  return [...new Map(entries)].sort(([a], [b]) => (a < b ? -1 : 1))
}

async function unpackedSize(context: ExportContext, layer: LayerDescriptor, diffId: Digest): Promise<number> {
  if (layer.compression === "none") return layer.size
  const hash = createHash("sha256")
  let size = 0
  for await (const chunk of layerChunks(context, layer)) {
    hash.update(chunk)
    size += chunk.length
  }
  checkDigest(`unpacked layer ${layer.digest}`, diffId, finishDigest(hash))
  return size
}
