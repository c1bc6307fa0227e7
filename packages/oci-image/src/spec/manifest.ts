import { type Digest, parseDigest } from "../digest.js"
import { ImageError, printable } from "../errors.js"
import { checkLimit, type ImageLimits } from "../limits.js"
import { Fields, type JsonObject } from "./json.js"
import {
  CONFIG_TYPES,
  type Compression,
  INDEX_TYPES,
  isForeignLayer,
  LAYER_COMPRESSION,
  MANIFEST_TYPES,
} from "./media-types.js"
import { formatPlatform, type Platform, platformRank, readPlatform } from "./platform.js"

/** A pointer to content: what it is, how long, and its digest. @see OCI image spec 1.1, descriptor.md */
export interface Descriptor {
  readonly mediaType: string
  readonly digest: Digest
  /** Bytes. */
  readonly size: number
  readonly annotations?: Readonly<Record<string, string>>
  readonly platform?: Platform
}

/** A layer's descriptor together with what its media type says about the blob. */
export interface LayerDescriptor extends Descriptor {
  readonly compression: Compression
}

/** One image: its configuration and its layers, lowest first. @see OCI image spec 1.1, manifest.md */
export interface Manifest {
  readonly config: Descriptor
  readonly layers: readonly LayerDescriptor[]
}

/** A list of manifests, usually one for each platform. @see OCI image spec 1.1, image-index.md */
export interface Index {
  readonly manifests: readonly Descriptor[]
}

/** @throws ImageError `manifest-invalid`, `digest-invalid` */
export function readDescriptor(value: unknown, what: string): Descriptor {
  const fields = new Fields(value, what, "manifest-invalid")
  const annotations = fields.stringMap("annotations", 1024)
  const platform = fields.has("platform")
    ? readPlatform(new Fields(fields.raw("platform"), `${what} platform`, "manifest-invalid"))
    : undefined
  return {
    mediaType: fields.string("mediaType", 256) ?? "",
    digest: parseDigest(fields.raw("digest")),
    size: fields.count("size"),
    ...(annotations ? { annotations } : {}),
    ...(platform ? { platform } : {}),
  }
}

/**
 * Reads an image manifest in its only interpretation: a document that could also be an index is refused,
 * and so is one that says it is something else than its descriptor said.
 *
 * @param json - the parsed document, whose digest was checked
 * @param mediaType - what the descriptor that led here said
 * @throws ImageError `manifest-invalid`, `media-type`, `digest-invalid`, `limit`
 */
export function readManifest(json: JsonObject, mediaType: string, limits: ImageLimits): Manifest {
  const fields = checkDocument(json, "manifest", mediaType, "manifests")
  const config = readDescriptor(fields.raw("config"), "manifest config")
  if (!CONFIG_TYPES.has(config.mediaType)) {
    throw new ImageError("media-type", `not a container image: config is ${printable(config.mediaType)}`, {
      mediaType: config.mediaType,
    })
  }
  const layers = fields.array("layers", Number.MAX_SAFE_INTEGER)
  if (!layers) throw fields.bad("layers", "is missing")
  checkLimit("layers", layers.length, limits.layers, "layers of the manifest")
  return { config, layers: layers.map((layer, i) => readLayer(layer, i, limits)) }
}

function readLayer(value: unknown, position: number, limits: ImageLimits): LayerDescriptor {
  const descriptor = readDescriptor(value, `layer ${position}`)
  if (isForeignLayer(descriptor.mediaType)) {
    throw new ImageError(
      "layer-foreign",
      `layer ${position} is foreign (${printable(descriptor.mediaType)}): its content is not part of the image`,
      { mediaType: descriptor.mediaType, position },
    )
  }
  const compression = LAYER_COMPRESSION.get(descriptor.mediaType)
  if (!compression) {
    throw new ImageError("media-type", `layer ${position}: cannot read ${printable(descriptor.mediaType)}`, {
      mediaType: descriptor.mediaType,
    })
  }
  checkLimit("blobBytes", descriptor.size, limits.blobBytes, `size of layer ${position}`)
  return { ...descriptor, compression }
}

/** Reads an image index; the counterpart of {@link readManifest}. */
export function readIndex(json: JsonObject, mediaType: string, limits: ImageLimits): Index {
  const fields = checkDocument(json, "index", mediaType, "layers", "config")
  const manifests = fields.array("manifests", Number.MAX_SAFE_INTEGER)
  if (!manifests) throw fields.bad("manifests", "is missing")
  checkLimit("manifests", manifests.length, limits.manifests, "manifests of the index")
  return { manifests: manifests.map((m, i) => readDescriptor(m, `index entry ${i}`)) }
}

function checkDocument(json: JsonObject, what: string, mediaType: string, ...alien: string[]): Fields {
  const fields = new Fields(json, what, "manifest-invalid")
  if (fields.raw("schemaVersion") !== 2) throw fields.bad("schemaVersion", "is not 2")
  for (const key of alien)
    if (fields.has(key)) throw fields.bad(key, `does not belong into this document (CVE-2021-41190)`)
  const own = fields.string("mediaType", 256)
  if (own !== undefined && own !== mediaType) {
    throw new ImageError(
      "media-type",
      `${what} says it is ${printable(own)}, its descriptor says ${printable(mediaType)}`,
      {
        mediaType: own,
      },
    )
  }
  return fields
}

/** Whether a descriptor leads to an index, to a manifest, or to neither. */
export function documentKind(mediaType: string): "index" | "manifest" | undefined {
  return INDEX_TYPES.has(mediaType) ? "index" : MANIFEST_TYPES.has(mediaType) ? "manifest" : undefined
}

/**
 * Picks the entry of an index that runs best on `wanted`; the first of equals.
 *
 * @throws ImageError `platform-missing` with the platforms there are
 */
export function pickPlatform(index: Index, wanted: Platform): Descriptor {
  let best: Descriptor | undefined
  let bestRank = -1
  const usable = index.manifests.filter(m => documentKind(m.mediaType))
  for (const candidate of usable) {
    const rank = candidate.platform
      ? platformRank(candidate.platform, wanted)
      : usable.length === 1
        ? 0
        : undefined
    if (rank !== undefined && rank > bestRank) [best, bestRank] = [candidate, rank]
  }
  if (best) return best
  const offered = usable
    .map(m => (m.platform ? formatPlatform(m.platform) : "unnamed"))
    .slice(0, 20)
    .join(", ")
  throw new ImageError(
    "platform-missing",
    `no image for ${formatPlatform(wanted)}; there is: ${offered || "none"}`,
    {
      wanted: formatPlatform(wanted),
      offered,
    },
  )
}
