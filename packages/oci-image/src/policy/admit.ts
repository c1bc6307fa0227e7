import type { Digest } from "../digest.js"
import { parseReference, type Reference } from "../references.js"
import { decide } from "./decide.js"
import { asksNothing, type Policy } from "./policy.js"
import { proveSignature, type SignedSubject } from "./prove.js"
import { decodeProvenance, indexDigests, type Provenance } from "./provenance.js"

/** An image in a store that is about to run. */
export interface StoredSubject {
  /**
   * The name it is run by; when it is run by its digest, every name it has in the store: each must be allowed. Without
   * any, the name it was brought in by counts.
   */
  readonly names: readonly (string | Reference)[]
  readonly digest: Digest
  /** The record kept beside the image, as `encodeProvenance` wrote it; undefined when there is none. */
  readonly record?: Uint8Array | undefined
}

/**
 * Asks a policy whether an image of a store may run, by what is kept beside it: without a network, and by the rules and
 * keys of now, whatever was allowed when it was pulled.
 *
 * @throws ImageError `policy-denied`, `policy-digest`, `policy-unsigned`, `policy-signature`; `store-corrupt` for a
 * record that is damaged, `reference-invalid`
 * @example
 * ```ts
 * import { ImageStore } from "@ts-vmm/oci-image"
 * import { admitStored, loadPolicy } from "@ts-vmm/oci-image/policy"
 *
 * const store = await ImageStore.open("./store")
 * const image = await store.get("debian:12")
 * if (image) admitStored(loadPolicy("./policy.json"), { names: ["debian:12"], digest: image.digest })
 * ```
 */
export function admitStored(policy: Policy, { names, digest, record }: StoredSubject): void {
  if (asksNothing(policy)) return
  const kept = record && decodeProvenance(record, digest)
  const indexes = kept ? indexDigests(digest, kept.indexes) : []
  const given = names.map(name => (typeof name === "string" ? parseReference(name) : name))
  const references = given.length > 0 ? given : [kept?.reference]
  for (const reference of references) admitOne(policy, { reference, digest, indexes }, kept)
}

function admitOne(policy: Policy, subject: SignedSubject, kept: Provenance | undefined): void {
  const decision = decide(policy, subject)
  if (decision.outcome === "refused") throw decision.error
  if (decision.outcome !== "signature-needed") return
  const { rule, signature: demand } = decision
  proveSignature({ policy, rule, demand, subject, signatures: kept?.signatures ?? [] })
}
