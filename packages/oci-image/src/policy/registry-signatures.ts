import { parseDigest } from "../digest.js"
import { ImageError, isImageError } from "../errors.js"
import { DEFAULT_LIMITS } from "../limits.js"
import { parseReference, type Reference } from "../references.js"
import { readDocument } from "../sources/blob.js"
import type { ImageSource, ResolveOptions } from "../sources/source.js"
import { hostPlatform } from "../spec/platform.js"
import { SIGNATURE_LIMITS, type SignatureReferrer, type SignatureSource } from "./signature-source.js"

/** What is needed of a registry client: `RegistryClient` is one. */
export interface SignatureRegistry {
  source(name: Reference): ImageSource
  /** Lists what refers to a name with a digest. */
  referrers?(
    name: Reference,
    options: { readonly signal?: AbortSignal },
  ): Promise<readonly SignatureReferrer[]>
}

/**
 * The signatures of a repository in its registry: under their tag, and where the client can ask for it also what refers
 * to the image.
 *
 * @param name - of the image: its registry and repository count
 * @throws ImageError `reference-invalid`
 */
export function registrySignatures(client: SignatureRegistry, name: string | Reference): SignatureSource {
  const { registry, repository } = typeof name === "string" ? parseReference(name) : name
  const place = { registry, repository }
  return {
    fetchManifest: (tagOrDigest, signal) => manifest(client, place, tagOrDigest, signal),
    async fetchBlob(descriptor, max, signal) {
      await using source = client.source(place)
      return await readDocument(source.blobs, descriptor, "signed payload", max, signal)
    },
    async referrers(digest, signal) {
      return (await client.referrers?.({ ...place, digest }, signal ? { signal } : {})) ?? []
    },
  }
}

async function manifest(
  client: SignatureRegistry,
  place: Reference,
  tagOrDigest: string,
  signal: AbortSignal | undefined,
): Promise<Buffer | undefined> {
  const isDigest = tagOrDigest.startsWith("sha256:")
  await using source = client.source({
    ...place,
    ...(isDigest ? { digest: parseDigest(tagOrDigest) } : { tag: tagOrDigest }),
  })
  const limits = { ...DEFAULT_LIMITS, documentBytes: SIGNATURE_LIMITS.documentBytes }
  const options: ResolveOptions = { platform: hostPlatform(), limits, signal }
  try {
    const found = await source.locate(options)
    return await readDocument(source.blobs, found, "manifest of signatures", limits.documentBytes, signal)
  } catch (error) {
    if (isImageError(error) && error.code === "registry-not-found") return undefined
    throw isImageError(error) ? unasked(error, tagOrDigest) : error
  }
}

/** The same refusal, saying what it stands in the way of. */
function unasked(cause: ImageError, tagOrDigest: string): ImageError {
  const message = `the signatures (${tagOrDigest}) cannot be read: ${cause.message}`
  return new ImageError(cause.code, message, cause.fields, { cause })
}
