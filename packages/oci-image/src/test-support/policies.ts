import { generateKeyPairSync, type KeyObject, sign } from "node:crypto"
import { type Digest, digestOf } from "../digest.js"
import { type Policy, parsePolicy, type SignatureReferrer, type SignatureSource } from "../policy/index.js"
import { readDocument } from "../sources/blob.js"
import type { ImageSource } from "../sources/source.js"
import type { Descriptor } from "../spec/manifest.js"
import { OCI_INDEX, OCI_MANIFEST } from "../spec/media-types.js"
import { hostPlatform } from "../spec/platform.js"

/** A policy of a document; objects become JSON. */
export function policyOf(document: object | string, file = "/etc/policy.json"): Policy {
  return parsePolicy(Buffer.from(typeof document === "string" ? document : JSON.stringify(document)), file)
}

/** A key pair as `cosign generate-key-pair` makes it: ECDSA on P-256. */
export class TestKey {
  readonly pem: string
  readonly #private: KeyObject

  constructor(pair = generateKeyPairSync("ec", { namedCurve: "P-256" })) {
    this.pem = pair.publicKey.export({ type: "spki", format: "pem" }) as string
    this.#private = pair.privateKey
  }

  /** A signature as cosign writes it into the annotation. */
  sign(payload: Uint8Array): string {
    const algorithm = this.#private.asymmetricKeyType === "ed25519" ? null : "sha256"
    return sign(algorithm, payload, this.#private).toString("base64")
  }
}

const SIGNATURE = "dev.cosignproject.cosign/signature"
/** What cosign's payloads are. */
export const PAYLOAD_TYPE = "application/vnd.dev.cosign.simplesigning.v1+json"

/** A payload as cosign writes it; `critical` may be spoiled. */
export function payloadOf(name: string, digest: string, critical: object = {}): Buffer {
  const whole = { identity: { "docker-reference": name }, image: { "docker-manifest-digest": digest } }
  const type = "cosign container image signature"
  return Buffer.from(JSON.stringify({ critical: { ...whole, type, ...critical }, optional: null }))
}

/** The tag under which an image's signatures are. */
export function signatureTag(digest: string): string {
  return `${digest.replace(":", "-")}.sig`
}

/** One signature, as a layer and its blob. */
export interface TestSignature {
  readonly payload: Buffer
  readonly layer: { readonly digest: string }
}

/** A layer with a signature; `change` may spoil its descriptor. */
export function signatureOf(payload: Buffer, signature: string, change: object = {}): TestSignature {
  const descriptor = { mediaType: PAYLOAD_TYPE, digest: digestOf(payload), size: payload.length }
  const layer = { ...descriptor, annotations: { [SIGNATURE]: signature }, ...change }
  return { payload, layer }
}

/** A good signature. */
export function signed(key: TestKey, name: string, digest: string): TestSignature {
  const payload = payloadOf(name, digest)
  return signatureOf(payload, key.sign(payload))
}

/** The manifest that holds signatures. */
export function signatureManifest(signatures: readonly TestSignature[], more: object = {}): Buffer {
  const config = { mediaType: "application/vnd.oci.image.config.v1+json", digest: digestOf("{}"), size: 2 }
  const layers = signatures.map(one => one.layer)
  return Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType: OCI_MANIFEST, config, layers, ...more }))
}

/** Signatures in memory, which fail as told. */
export class TestSignatures implements SignatureSource {
  readonly manifests = new Map<string, Buffer>()
  readonly blobs = new Map<string, Buffer>()
  readonly list: SignatureReferrer[] = []
  readonly asked: string[] = []
  failure: Error | undefined

  put(name: string, signatures: readonly TestSignature[], more: object = {}): Buffer {
    const document = signatureManifest(signatures, more)
    this.manifests.set(name, document)
    for (const { payload, layer } of signatures) this.blobs.set(layer.digest, payload)
    return document
  }

  async fetchManifest(name: string): Promise<Buffer | undefined> {
    this.asked.push(name)
    if (this.failure) throw this.failure
    return this.manifests.get(name)
  }

  async fetchBlob(descriptor: Descriptor, max: number): Promise<Buffer> {
    this.asked.push(descriptor.digest)
    const open = async function* (content: Buffer) {
      yield content
    }
    const content = this.blobs.get(descriptor.digest) ?? Buffer.alloc(0)
    return readDocument({ open: () => open(content) }, descriptor, "signed payload", max)
  }

  async referrers(): Promise<SignatureReferrer[]> {
    return this.list
  }
}

/** An image that is found without being anywhere. */
export function imageAt(digest: string, indexes: readonly Buffer[] = []): ImageSource {
  return {
    async locate({ onIndex }) {
      for (const index of indexes) onIndex?.(index)
      return { mediaType: OCI_MANIFEST, digest: digest as Digest, size: 1 }
    },
    blobs: { open: nothing },
    [Symbol.asyncDispose]: async () => undefined,
  }
}

async function* nothing(): AsyncGenerator<Buffer> {
  yield Buffer.alloc(0)
}

/** An index that leads to a manifest or another index. */
export function indexOf(digest: string, mediaType = OCI_MANIFEST, size = 1): Buffer {
  const manifests = [{ mediaType, digest, size, platform: hostPlatform() }]
  return Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType: OCI_INDEX, manifests }))
}
