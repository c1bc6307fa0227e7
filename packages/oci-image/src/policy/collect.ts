import { type Digest, digestHex, digestOf } from "../digest.js"
import { ImageError, type ImageErrorCode, isImageError } from "../errors.js"
import { documentKind } from "../spec/manifest.js"
import { findSignatureLayers, readSignatureLayer, SIMPLE_SIGNING } from "./signature-manifest.js"
import { type FoundSignature, SIGNATURE_LIMITS, type SignatureSource } from "./signature-source.js"

/** The signatures of one image, as far as they can be signatures at all. */
export interface SignatureCollection {
  readonly signatures: readonly FoundSignature[]
  /** Why others were left out. */
  readonly left: readonly string[]
}

/** What cosign calls its signatures where they refer to the image. */
const ARTIFACT_TYPES: ReadonlySet<string | undefined> = new Set([
  "application/vnd.dev.cosign.artifact.sig.v1+json",
  SIMPLE_SIGNING,
])

/** One bad signature among good ones. Anything else, such as a registry that is down, is the end. */
const SKIPPED: ReadonlySet<ImageErrorCode> = new Set<ImageErrorCode>([
  "blob-missing",
  "digest-invalid",
  "digest-mismatch",
  "json-invalid",
  "limit",
  "manifest-invalid",
  "media-type",
  "registry-not-found",
  "size-mismatch",
])

/**
 * Reads the signatures of an image, bounded in number, size and time. They prove nothing yet.
 *
 * @param digests - of the manifest, and of the indexes that lead to it
 * @throws ImageError what `source` throws when it cannot be asked; `policy-signature` when there are too many or it
 * takes too long; the signal's reason
 */
export async function collectSignatures(
  source: SignatureSource,
  digests: readonly Digest[],
  signal?: AbortSignal,
): Promise<SignatureCollection> {
  const timeout = AbortSignal.timeout(SIGNATURE_LIMITS.timeMs)
  const collector = new Collector(source, signal ? AbortSignal.any([signal, timeout]) : timeout)
  try {
    for (const digest of digests) await collector.collect(digest)
    return collector
  } catch (error) {
    signal?.throwIfAborted()
    if (!timeout.aborted) throw error
    const { timeMs } = SIGNATURE_LIMITS
    const message = `reading the signatures takes longer than ${timeMs / 1000} seconds`
    throw new ImageError("policy-signature", message, { timeMs }, { cause: error })
  }
}

class Collector implements SignatureCollection {
  readonly signatures: FoundSignature[] = []
  readonly left: string[] = []
  readonly #source: SignatureSource
  readonly #signal: AbortSignal
  #layers = 0
  #bytes = 0

  constructor(source: SignatureSource, signal: AbortSignal) {
    this.#source = source
    this.#signal = signal
  }

  async collect(digest: Digest): Promise<void> {
    const tag = `sha256-${digestHex(digest)}.sig`
    await this.#tried(`tag ${tag}`, async () => {
      const document = await this.#source.fetchManifest(tag, this.#signal)
      if (document) await this.#manifest(document)
    })
    // Registries answer this in many ways. One signature more or less never makes an image allowed that is not.
    await this.#tried(
      `what refers to ${digest}`,
      () => this.#referrers(digest),
      code => code !== "policy-signature",
    )
  }

  async #referrers(digest: Digest): Promise<void> {
    const all = (await this.#source.referrers?.(digest, this.#signal)) ?? []
    const usable = all.filter(
      one => ARTIFACT_TYPES.has(one.artifactType) && documentKind(one.mediaType) === "manifest",
    )
    if (usable.length > SIGNATURE_LIMITS.referrers)
      throw tooMany("manifests of signatures", SIGNATURE_LIMITS.referrers)
    for (const one of usable) await this.#tried(`referrer ${one.digest}`, () => this.#referrer(one.digest))
  }

  async #referrer(digest: Digest): Promise<void> {
    const document = await this.#source.fetchManifest(digest, this.#signal)
    if (!document) throw new ImageError("blob-missing", "is not there")
    if (digestOf(document) !== digest) throw new ImageError("digest-mismatch", "is another document")
    await this.#manifest(document)
  }

  async #manifest(document: Buffer): Promise<void> {
    for (const layer of findSignatureLayers(document)) {
      if (++this.#layers > SIGNATURE_LIMITS.signatures)
        throw tooMany("signatures", SIGNATURE_LIMITS.signatures)
      await this.#tried(`signature ${this.#layers}`, () => this.#layer(layer))
    }
  }

  async #layer(layer: unknown): Promise<void> {
    const { payload, signature } = readSignatureLayer(layer)
    const { payloadBytes: max, allPayloadBytes: maxOfAll } = SIGNATURE_LIMITS
    if (payload.size > max || this.#bytes + payload.size > maxOfAll) {
      const message = `its payload has ${payload.size} bytes: ${max} is the most, ${maxOfAll} for all of an image`
      throw new ImageError("limit", message, { size: payload.size, max })
    }
    this.#bytes += payload.size
    const bytes = await this.#source.fetchBlob(payload, max, this.#signal)
    this.signatures.push({ payload: bytes, signature })
  }

  /** Notes what is wrong with one piece; whether another one is enough shows at the end. */
  async #tried(
    what: string,
    read: () => Promise<void>,
    isSkipped = (code: ImageErrorCode) => SKIPPED.has(code),
  ): Promise<void> {
    try {
      await read()
    } catch (error) {
      this.#signal.throwIfAborted()
      if (!isImageError(error) || !isSkipped(error.code)) throw error
      this.left.push(`${what}: ${error.message}`)
    }
  }
}

function tooMany(what: string, max: number): ImageError {
  return new ImageError("policy-signature", `the image has more than ${max} ${what}`, { max })
}
