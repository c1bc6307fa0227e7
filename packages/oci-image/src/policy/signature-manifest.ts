import { ImageError } from "../errors.js"
import { Fields, isObject, parseJsonObject } from "../spec/json.js"
import { type Descriptor, readDescriptor } from "../spec/manifest.js"
import { MANIFEST_TYPES } from "../spec/media-types.js"
import { SIGNATURE_LIMITS } from "./signature-source.js"

/** What cosign's payloads are. @see cosign, specs/SIGNATURE_SPEC.md, "Simple Signing" */
export const SIMPLE_SIGNING = "application/vnd.dev.cosign.simplesigning.v1+json"
const SIGNATURE_ANNOTATION = "dev.cosignproject.cosign/signature"

/** A layer that carries a signature. */
export interface SignatureLayer {
  readonly payload: Descriptor
  readonly signature: Buffer
}

/**
 * Finds the layers of a manifest that are signed payloads. Layers of other kinds are passed over.
 *
 * @returns their descriptors, of which nothing else is known
 * @throws ImageError `json-invalid`, `manifest-invalid`, `policy-signature` for too many layers
 * @see cosign, specs/SIGNATURE_SPEC.md, "OCI Image Manifest V1"
 */
export function findSignatureLayers(document: Buffer): unknown[] {
  const what = "manifest of signatures"
  const fields = new Fields(parseJsonObject(document, what), what, "manifest-invalid")
  if (fields.raw("schemaVersion") !== 2) throw fields.bad("schemaVersion", "is not 2")
  if (fields.has("manifests")) throw fields.bad("manifests", "does not belong into this document")
  const mediaType = fields.string("mediaType", 256)
  if (mediaType !== undefined && !MANIFEST_TYPES.has(mediaType))
    throw fields.bad("mediaType", "is another one")
  const layers = fields.array("layers", Number.MAX_SAFE_INTEGER) ?? []
  const { layers: max } = SIGNATURE_LIMITS
  if (layers.length > max) {
    const message = `the ${what} has ${layers.length} layers, more than ${max}`
    throw new ImageError("policy-signature", message, { layers: layers.length, max })
  }
  return layers.filter(layer => isObject(layer) && layer["mediaType"] === SIMPLE_SIGNING)
}

/** Reads one of {@link findSignatureLayers}. @throws ImageError `manifest-invalid`, `digest-invalid` */
export function readSignatureLayer(layer: unknown): SignatureLayer {
  const payload = readDescriptor(layer, "its layer")
  const text = payload.annotations?.[SIGNATURE_ANNOTATION]
  if (text === undefined) throw new ImageError("manifest-invalid", `its layer has no ${SIGNATURE_ANNOTATION}`)
  const signature = decodeBase64(text, SIGNATURE_LIMITS.signatureText)
  if (signature) return { payload, signature }
  throw new ImageError("manifest-invalid", "its annotation is no base64")
}

/** Decodes base64 that has one spelling only: no white space, no other alphabet, no bits that nobody reads. */
export function decodeBase64(text: string, max: number): Buffer | undefined {
  if (text === "" || text.length > max) return undefined
  const bytes = Buffer.from(text, "base64")
  return bytes.toString("base64") === text ? bytes : undefined
}
