import { type Digest, digestOf, parseDigest } from "../digest.js"
import { ImageError, isImageError } from "../errors.js"
import { DEFAULT_LIMITS } from "../limits.js"
import { formatReference, parseReference, type Reference } from "../references.js"
import { Fields, parseJsonObject } from "../spec/json.js"
import { readIndex } from "../spec/manifest.js"
import { INDEX_TYPES, OCI_INDEX } from "../spec/media-types.js"
import { decodeBase64 } from "./signature-manifest.js"
import { type FoundSignature, SIGNATURE_LIMITS } from "./signature-source.js"

/**
 * Where an image came from, and what proves it: kept beside the image, so that a policy can be asked again without a
 * network. It says nothing by itself; everything in it is checked at every use.
 */
export interface Provenance {
  /** The manifest's digest. */
  readonly digest: Digest
  /** The name that it was brought in by. */
  readonly reference: Reference | undefined
  /** The indexes that led to the manifest, as they were. */
  readonly indexes: readonly Buffer[]
  readonly signatures: readonly FoundSignature[]
}

/** Largest record that is read back, in bytes. */
export const PROVENANCE_MAX = 8 * 1024 * 1024
/** All indexes of one image. */
const INDEXES_MAX = 16
const INDEX_BYTES_MAX = 4 * 1024 * 1024

/**
 * Finds the indexes that lead to a manifest, directly or through one another. Others say nothing of it, and are passed
 * over.
 *
 * @param indexes - documents, which are trusted for nothing but their digests
 * @returns their digests: what is signed or listed of one of them is meant for the image
 * @throws ImageError `manifest-invalid`, `media-type`, `json-invalid`, `digest-invalid`, `limit`
 */
export function indexDigests(digest: Digest, indexes: readonly Buffer[]): Digest[] {
  const bytes = indexes.reduce((sum, document) => sum + document.length, 0)
  if (indexes.length > INDEXES_MAX || bytes > INDEX_BYTES_MAX) {
    const message = `the image's ${indexes.length} indexes have ${bytes} bytes: ${INDEXES_MAX} of ${INDEX_BYTES_MAX} in all are the most`
    throw new ImageError("limit", message, { value: bytes, max: INDEX_BYTES_MAX })
  }
  const leading = new Set<Digest>([digest])
  const known = new Map(indexes.map(document => [digestOf(document), listedDigests(document)]))
  // Each round finds one at least, or is the last.
  for (let before = 0; before < leading.size; ) {
    before = leading.size
    for (const [own, listed] of known) if (listed.some(one => leading.has(one))) leading.add(own)
  }
  return [...leading].slice(1)
}

/** Puts two records of one image together: it may have been brought in by two names, and signed for each. */
export function mergeProvenance(older: Provenance, newer: Provenance): Provenance {
  const indexes = new Map<Digest, Buffer>()
  for (const document of [...newer.indexes, ...older.indexes]) indexes.set(digestOf(document), document)
  const signatures = new Map<string, FoundSignature>()
  for (const one of [...newer.signatures, ...older.signatures])
    signatures.set(`${digestOf(one.payload)} ${digestOf(one.signature)}`, one)
  const { signatures: count, allPayloadBytes } = SIGNATURE_LIMITS
  return {
    ...newer,
    indexes: fitting(
      [...indexes.values()].slice(0, INDEXES_MAX),
      document => document.length,
      INDEX_BYTES_MAX,
    ),
    signatures: fitting([...signatures.values()].slice(0, count), one => one.payload.length, allPayloadBytes),
  }
}

/** The first of `items` that take at most `max` bytes together. */
function fitting<T>(items: readonly T[], sizeOf: (item: T) => number, max: number): T[] {
  let bytes = 0
  return items.filter(item => {
    bytes += sizeOf(item)
    return bytes <= max
  })
}

function listedDigests(document: Buffer): Digest[] {
  const json = parseJsonObject(document, "index")
  const mediaType = new Fields(json, "index", "manifest-invalid").string("mediaType", 256) ?? OCI_INDEX
  if (!INDEX_TYPES.has(mediaType)) throw new ImageError("manifest-invalid", "index: mediaType is no index's")
  return readIndex(json, mediaType, DEFAULT_LIMITS).manifests.map(entry => entry.digest)
}

/** Encodes a record: JSON, with everything that was signed or proven as the bytes it was. */
export function encodeProvenance({ digest, reference, indexes, signatures }: Provenance): Buffer {
  const record = {
    version: 1,
    digest,
    ...(reference ? { reference: formatReference(reference) } : {}),
    indexes: indexes.map(document => document.toString("base64")),
    signatures: signatures.map(({ payload, signature }) => ({
      payload: payload.toString("base64"),
      signature: signature.toString("base64"),
    })),
  }
  return Buffer.from(JSON.stringify(record))
}

/**
 * Decodes a record.
 *
 * @param digest - of the image that it is kept beside
 * @throws ImageError `store-corrupt` for anything that {@link encodeProvenance} did not write for this image
 */
export function decodeProvenance(bytes: Uint8Array, digest: Digest): Provenance {
  try {
    if (bytes.length > PROVENANCE_MAX)
      throw new ImageError("store-corrupt", `it is larger than ${PROVENANCE_MAX} bytes`)
    const fields = new Fields(parseJsonObject(bytes, "it"), "it", "store-corrupt")
    if (fields.raw("version") !== 1) throw fields.bad("version", "is not 1")
    if (fields.raw("digest") !== digest) throw fields.bad("digest", "is another image's")
    const reference = fields.string("reference")
    return {
      digest: parseDigest(digest),
      reference: reference === undefined ? undefined : parseReference(reference),
      indexes: (fields.strings("indexes", INDEXES_MAX, PROVENANCE_MAX) ?? []).map(text =>
        base64(fields, "indexes", text),
      ),
      signatures: (fields.array("signatures", SIGNATURE_LIMITS.signatures) ?? []).map(decodeSignature),
    }
  } catch (cause) {
    if (!isImageError(cause)) throw cause
    const message = `the record of where ${digest} came from is damaged (${cause.message}); pull the image again`
    throw new ImageError("store-corrupt", message, { digest }, { cause })
  }
}

function decodeSignature(value: unknown): FoundSignature {
  const fields = new Fields(value, "signature", "store-corrupt")
  const [payload, signature] = ["payload", "signature"].map(key =>
    base64(fields, key, fields.string(key, 2 * SIGNATURE_LIMITS.payloadBytes) ?? ""),
  ) as [Buffer, Buffer]
  return { payload, signature }
}

function base64(fields: Fields, key: string, text: string): Buffer {
  const bytes = decodeBase64(text, PROVENANCE_MAX)
  if (bytes) return bytes
  throw fields.bad(key, "is no base64")
}
