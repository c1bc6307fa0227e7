import type { Digest } from "../digest.js"
import type { Descriptor } from "../spec/manifest.js"

/** Something that says it refers to an image. */
export interface SignatureReferrer extends Descriptor {
  readonly artifactType?: string
}

/**
 * Where the signatures of one repository's images are. It is not trusted: what it gives is bounded and proven by whoever
 * reads. Where it cannot be reached it throws, so that nothing is taken for unsigned that could not be asked for.
 */
export interface SignatureSource {
  /** A manifest's document; undefined when there is none of this tag or digest. */
  fetchManifest(tagOrDigest: string, signal?: AbortSignal): Promise<Buffer | undefined>
  /** A blob of at most `max` bytes, proven by its descriptor. */
  fetchBlob(descriptor: Descriptor, max: number, signal?: AbortSignal): Promise<Buffer>
  /** What refers to a digest, where that can be asked. */
  referrers?(digest: Digest, signal?: AbortSignal): Promise<readonly SignatureReferrer[]>
}

/** A signature that was found, and nothing more: whose it is, and for what, is not known yet. */
export interface FoundSignature {
  /** What was signed. */
  readonly payload: Buffer
  /** Of the payload. */
  readonly signature: Buffer
}

/** Bounds on what is read for one image. */
export const SIGNATURE_LIMITS = {
  /** A manifest of signatures, bytes. */
  documentBytes: 1024 * 1024,
  /** Its layers, of whatever kind. */
  layers: 256,
  /** Signatures of one image, wherever they are from. */
  signatures: 64,
  /** One payload, bytes. */
  payloadBytes: 64 * 1024,
  /** All payloads, bytes. */
  allPayloadBytes: 1024 * 1024,
  /** One signature in base64, characters: RSA of 8192 bits needs 1368. */
  signatureText: 4096,
  /** Manifests of signatures that refer to one digest. */
  referrers: 16,
  /** All of it, milliseconds. */
  timeMs: 120_000,
} as const
