import { mkdir, rm } from "node:fs/promises"
import { join } from "node:path"
import { type Digest, digestOf } from "../digest.js"
import { ioError } from "../errors.js"
import { checkLimit, type ImageLimits } from "../limits.js"
import { type PackedLayer, packLayer, type RunOptions, runConfigDocument } from "../pack/pack-image.js"
import type { BlobSource } from "../sources/blob.js"
import { LayoutFolder } from "../sources/layout.js"
import { withDocuments as withMemory } from "../sources/source.js"
import { type JsonObject, parseJsonObject } from "../spec/json.js"
import type { Descriptor, LayerDescriptor } from "../spec/manifest.js"
import { OCI_CONFIG, OCI_LAYER, OCI_MANIFEST } from "../spec/media-types.js"
import { bringImage } from "./bring.js"
import type { StoreContext } from "./context.js"
import { type StoredDocuments, withDocuments } from "./documents.js"
import { loadImage } from "./loader.js"
import { existingRecord } from "./resolve.js"
import type { ImageRecord, StoredImage } from "./stored-image.js"

/** What an image of an image and one more layer says. Names are as for loading. */
export interface CommitOptions {
  /** Name to give the image, `latest` unless it has a tag. */
  readonly name?: string
  /** Of how to run it: fields that are there replace the ones of the image below. */
  readonly config?: RunOptions
  readonly author?: string
  /** What was done, for its history. */
  readonly comment?: string
  /** The command that did it, for its history. */
  readonly createdBy?: string
  /** Default: now. */
  readonly created?: Date
  readonly signal?: AbortSignal
}

/**
 * Makes an image of a stored image and one more layer, which is read like any other: nothing of it is trusted.
 *
 * @see ImageStore.commit
 */
export async function commitImage(
  context: StoreContext,
  reference: string,
  tar: AsyncIterable<Uint8Array>,
  options: CommitOptions,
): Promise<StoredImage> {
  return bringImage(context, options, async () =>
    commitLayer(context, await existingRecord(context, reference), tar, options),
  )
}

async function commitLayer(
  context: StoreContext,
  base: ImageRecord,
  tar: AsyncIterable<Uint8Array>,
  options: CommitOptions,
): Promise<ImageRecord> {
  const temporary = context.folder.temporary()
  try {
    await mkdir(join(temporary, "blobs/sha256"), { recursive: true, mode: 0o700 })
    const layer = await packLayer(temporary, { tar: bounded(tar, context.limits) }, options)
    return await withDocuments(context, base, documents =>
      load(context, derive(documents, layer, options), temporary, base, options),
    )
  } catch (error) {
    throw (error as NodeJS.ErrnoException).syscall ? ioError(error, "cannot write to the image store") : error
  } finally {
    await rm(temporary, { recursive: true, force: true })
  }
}

async function* bounded(tar: AsyncIterable<Uint8Array>, limits: ImageLimits): AsyncGenerator<Uint8Array> {
  let size = 0
  for await (const chunk of tar) {
    size += chunk.length
    checkLimit("layerBytes", size, Math.min(limits.layerBytes, limits.blobBytes), "size of the new layer")
    yield chunk
  }
}

/** Layers of the image below are in the store; the new one is in the temporary folder. */
async function load(
  context: StoreContext,
  documents: NewDocuments,
  temporary: string,
  base: ImageRecord,
  { signal }: CommitOptions,
): Promise<ImageRecord> {
  const layout = await LayoutFolder.open(temporary)
  const blobs: BlobSource = withMemory([documents.config, documents.manifest], layout)
  const at: Descriptor = {
    mediaType: OCI_MANIFEST,
    digest: digestOf(documents.manifest),
    size: documents.manifest.length,
  }
  const source = { locate: async () => at, blobs, [Symbol.asyncDispose]: async () => undefined }
  try {
    return await loadImage(context, source, { platform: base.config.platform, ...(signal ? { signal } : {}) })
  } finally {
    await layout[Symbol.asyncDispose]()
  }
}

interface NewDocuments {
  readonly manifest: Buffer
  readonly config: Buffer
}

function derive(
  { image, config }: StoredDocuments,
  layer: PackedLayer,
  options: CommitOptions,
): NewDocuments {
  const below = parseJsonObject(config.document, "image config")
  const changed = configDocument(below, config.diffIds, layer.diffId, options)
  const manifest = {
    schemaVersion: 2,
    mediaType: OCI_MANIFEST,
    config: { mediaType: OCI_CONFIG, digest: digestOf(changed), size: changed.length },
    layers: [...image.manifest.layers.map(asOci), layer.descriptor],
  }
  return { config: changed, manifest: Buffer.from(JSON.stringify(manifest)) }
}

/** One manifest has media types of one family. */
function asOci({ compression, digest, size, annotations }: LayerDescriptor): Descriptor {
  return { mediaType: OCI_LAYER[compression], digest, size, ...(annotations ? { annotations } : {}) }
}

/** What a newer image says of itself stays as it was, but for what only describes the container it was made in. */
function configDocument(
  below: JsonObject,
  diffIds: readonly Digest[],
  diffId: Digest,
  options: CommitOptions,
): Buffer {
  const { container: _id, container_config: _config, ...kept } = below
  const created = (options.created ?? new Date()).toISOString()
  const step = {
    created,
    ...(options.createdBy ? { created_by: options.createdBy } : {}),
    ...(options.author ? { author: options.author } : {}),
    ...(options.comment ? { comment: options.comment } : {}),
  }
  const document = {
    ...kept,
    created,
    ...(options.author ? { author: options.author } : {}),
    config: { ...(below["config"] as object | undefined), ...runConfigDocument(options.config ?? {}) },
    rootfs: { type: "layers", diff_ids: [...diffIds, diffId] },
    history: [...historyOf(below, diffIds.length), step],
  }
  return Buffer.from(JSON.stringify(document))
}

/** A history that does not fit the layers would make the new entry fit none: then each layer has a silent one. */
function historyOf(below: JsonObject, layers: number): readonly unknown[] {
  const history = Array.isArray(below["history"]) ? (below["history"] as { empty_layer?: unknown }[]) : []
  const filled = history.filter(step => step?.empty_layer !== true).length
  return filled === layers ? history : Array.from({ length: layers }, () => ({}))
}
