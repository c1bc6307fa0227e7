import type { Digest } from "../digest.js"
import { ImageError, isImageError, printable } from "../errors.js"
import type { Reference } from "../references.js"
import { factsOf, type PolicySubject, subjectName } from "./decide.js"
import { isSameRepository } from "./name-pattern.js"
import { readPayload } from "./payload.js"
import { type Policy, type PolicyRule, ruleName, type SignatureDemand } from "./policy.js"
import type { PublicKey } from "./public-key.js"
import type { FoundSignature } from "./signature-source.js"

const REASONS_MAX = 8
const REASON_MAX = 300

/** What is known of an image whose signature is asked for. */
export interface SignedSubject extends PolicySubject {
  readonly digest: Digest
}

/** What {@link proveSignature} checks. */
export interface SignatureProof {
  readonly policy: Policy
  readonly rule: PolicyRule | undefined
  readonly demand: SignatureDemand
  readonly subject: SignedSubject
  readonly signatures: readonly FoundSignature[]
  /** Why other signatures could not even be looked at. */
  readonly left?: readonly string[]
}

/**
 * Proves that one of a rule's keys signed an image: its manifest, or an index that leads to it. Nothing is asked of
 * anybody, and nothing remembered: the same signatures are checked again at every use, by the keys of the day.
 *
 * @returns the key whose signature it is
 * @throws ImageError `policy-unsigned` when there is no signature at all, `policy-signature` with why each is not enough
 */
export function proveSignature(proof: SignatureProof): PublicKey {
  const reasons = [...(proof.left ?? [])]
  for (const [i, one] of proof.signatures.entries()) {
    const key = proof.demand.keys.find(candidate => candidate.verifies(one.payload, one.signature))
    // Only what a trusted key signed is worth reading.
    const wrong = key ? wrongClaim(one.payload, proof) : "is of none of the keys"
    if (key && wrong === undefined) return key
    reasons.push(`signature ${i + 1} ${wrong}`)
  }
  throw reasons.length === 0 ? unsigned(proof) : notEnough(proof, reasons)
}

function wrongClaim(payload: Buffer, { demand, subject }: SignatureProof): string | undefined {
  try {
    const claim = readPayload(payload)
    const { digest, indexes = [], reference } = subject
    if (![digest, ...indexes].includes(claim.digest)) return `is for ${claim.digest}, another image`
    return wrongName(claim.name, demand.signedAs ?? reference)
  } catch (error) {
    if (isImageError(error)) return `is a trusted key's, but for nothing that is understood: ${error.message}`
    throw error
  }
}

function wrongName(name: string, wanted: Reference | "*" | undefined): string | undefined {
  if (wanted === "*") return undefined
  if (!wanted) return `is for the name ${printable(name)}, and the image has none`
  if (isSameRepository(name, wanted)) return undefined
  const { registry, repository } = wanted
  return `is for the name ${printable(name)}, not ${registry}/${repository} ("signedAs" in the rule says which is right)`
}

function unsigned({ policy, rule, subject }: SignatureProof): ImageError {
  const what = `${subjectName(subject)} has no signature, which ${ruleName(policy, rule)} asks for`
  const name = subject.reference ? `${subject.reference.registry}/${subject.reference.repository}` : "NAME"
  const help = `sign it (cosign sign --key cosign.key ${name}@${subject.digest}) and pull it again, or change that rule`
  return new ImageError("policy-unsigned", `${what}; ${help}`, factsOf(policy, rule, subject))
}

function notEnough({ policy, rule, subject }: SignatureProof, reasons: readonly string[]): ImageError {
  const shown = reasons.slice(0, REASONS_MAX).map(reason => reason.slice(0, REASON_MAX))
  const more = reasons.length - shown.length
  const list = `${shown.join("; ")}${more > 0 ? `; and ${more} more` : ""}`
  const what = `${subjectName(subject)} (${subject.digest}) has no signature that is enough for ${ruleName(policy, rule)}`
  const help = "sign it with a key of that rule, or change the rule"
  return new ImageError("policy-signature", `${what}: ${list}; ${help}`, factsOf(policy, rule, subject))
}
