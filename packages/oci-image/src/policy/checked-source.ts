import type { Digest } from "../digest.js"
import { parseReference, type Reference } from "../references.js"
import type { BlobSource } from "../sources/blob.js"
import type { ImageSource, ResolveOptions } from "../sources/source.js"
import type { Descriptor } from "../spec/manifest.js"
import { collectSignatures } from "./collect.js"
import { type Decision, decide } from "./decide.js"
import { asksNothing, type Policy } from "./policy.js"
import { proveSignature, type SignedSubject } from "./prove.js"
import { indexDigests, type Provenance } from "./provenance.js"
import type { FoundSignature, SignatureSource } from "./signature-source.js"

/** What a {@link CheckedSource} is made of. */
export interface CheckedSourceOptions {
  readonly policy: Policy
  /** The name that the image is brought in by; without one only the policy's default is for it. */
  readonly reference?: string | Reference | undefined
  /** Where the image is. It stays open when the checked source is closed. */
  readonly source: ImageSource
  /** Where its signatures are; without it it has none. */
  readonly signatures?: SignatureSource | undefined
}

/**
 * A source that gives an image only as the policy allows. What the name stands for is asked once: the digest that was
 * proven is the one that is loaded.
 *
 * @example
 * ```ts
 * import { ImageStore, parseReference } from "@ts-vmm/oci-image"
 * import { CheckedSource, loadPolicy, registrySignatures } from "@ts-vmm/oci-image/policy"
 * import { RegistryClient } from "@ts-vmm/oci-image/registry"
 *
 * await using client = new RegistryClient()
 * const store = await ImageStore.open("./store")
 * const reference = parseReference("registry.example/team/app:1")
 * const source = new CheckedSource({
 *   policy: loadPolicy("./policy.json"),
 *   reference,
 *   source: client.source(reference),
 *   signatures: registrySignatures(client, reference),
 * })
 * const image = await store.load(source, { name: "registry.example/team/app:1" })
 * console.log(image.digest, source.provenance?.signatures.length)
 * ```
 */
export class CheckedSource implements ImageSource {
  readonly #policy: Policy
  readonly #reference: Reference | undefined
  readonly #source: ImageSource
  readonly #signatures: SignatureSource | undefined
  #provenance: Provenance | undefined

  constructor({ policy, reference, source, signatures }: CheckedSourceOptions) {
    this.#policy = policy
    this.#reference = typeof reference === "string" ? parseReference(reference) : reference
    this.#source = source
    this.#signatures = signatures
  }

  /** Of the image, which the policy has allowed by then. */
  get blobs(): BlobSource {
    return this.#source.blobs
  }

  /** What to keep beside the image; undefined before {@link locate}, and without a policy. */
  get provenance(): Provenance | undefined {
    return this.#provenance
  }

  /**
   * Finds the image and asks the policy, before anything of it is loaded.
   *
   * @throws ImageError `policy-denied`, `policy-digest`, `policy-unsigned`, `policy-signature`, and what the sources throw
   */
  async locate(options: ResolveOptions): Promise<Descriptor> {
    if (asksNothing(this.#policy)) return this.#source.locate(options)
    // What is denied by its name is not even asked for.
    refuse(decide(this.#policy, { reference: this.#reference }))
    const indexes: Buffer[] = []
    const found = await this.#source.locate({ ...options, onIndex: document => indexes.push(document) })
    const subject = {
      reference: this.#reference,
      digest: found.digest,
      indexes: indexDigests(found.digest, indexes),
    }
    const signatures = await this.#prove(subject, options.signal)
    this.#provenance = { digest: found.digest, reference: this.#reference, indexes, signatures }
    return found
  }

  async #prove(subject: SignedSubject, signal: AbortSignal | undefined): Promise<readonly FoundSignature[]> {
    const decision = decide(this.#policy, subject)
    refuse(decision)
    if (decision.outcome !== "signature-needed") return []
    const { rule, signature: demand } = decision
    const digests: Digest[] = [subject.digest, ...(subject.indexes ?? [])]
    const found = this.#signatures
      ? await collectSignatures(this.#signatures, digests, signal)
      : { signatures: [], left: [] }
    proveSignature({ policy: this.#policy, rule, demand, subject, ...found })
    return found.signatures
  }

  /** The source was somebody else's before. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#provenance = undefined
  }
}

/** @throws ImageError when the decision is a refusal */
function refuse(decision: Decision): void {
  if (decision.outcome === "refused") throw decision.error
}
