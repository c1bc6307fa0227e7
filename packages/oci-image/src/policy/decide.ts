import type { Digest } from "../digest.js"
import { ImageError } from "../errors.js"
import { formatReference, type Reference } from "../references.js"
import { canonicalName, matches, specificity } from "./name-pattern.js"
import { type Policy, type PolicyRule, ruleName, type SignatureDemand } from "./policy.js"

/** An image of which a policy decides. */
export interface PolicySubject {
  /** Its name; undefined for one that has none, for which no rule is. */
  readonly reference: Reference | undefined
  /** Its manifest's digest; undefined as long as it is not known, before a pull. */
  readonly digest?: Digest | undefined
  /** Digests of the indexes that lead to the manifest: what is said of one of them counts. */
  readonly indexes?: readonly Digest[]
}

/** What a policy says of an image, and the rule that says so: undefined for the policy's default. */
export type Decision = { readonly rule: PolicyRule | undefined } & (
  | { readonly outcome: "allowed" }
  | { readonly outcome: "refused"; readonly error: ImageError }
  /** It depends on the digest, which is not known yet. */
  | { readonly outcome: "digest-needed" }
  /** One of the keys must have signed it: `proveSignature` tells. */
  | { readonly outcome: "signature-needed"; readonly signature: SignatureDemand }
)

/**
 * Decides what must be true of an image before it runs. The most specific rule counts, whatever the order: one for the
 * tag before one for the repository, before longer and shorter prefixes, before the registry, before the default.
 *
 * A name with a digest is what the digest says, and its tag is only decoration: for such a name a tag's rule that
 * allows is passed over.
 *
 * @example
 * ```ts
 * import { parseReference } from "@ts-vmm/oci-image"
 * import { decide, loadPolicy } from "@ts-vmm/oci-image/policy"
 *
 * const decision = decide(loadPolicy("./policy.json"), { reference: parseReference("debian:12") })
 * if (decision.outcome === "refused") console.error(decision.error.message)
 * ```
 */
export function decide(policy: Policy, subject: PolicySubject): Decision {
  const rule = ruleFor(policy, subject.reference)
  const demand = rule?.demand ?? { kind: policy.default }
  switch (demand.kind) {
    case "allow":
      return { rule, outcome: "allowed" }
    case "deny":
      return { rule, outcome: "refused", error: denied(policy, rule, subject) }
    case "signature":
      return { rule, outcome: "signature-needed", signature: demand.signature }
    case "digests": {
      const { digest, indexes = [] } = subject
      if (digest === undefined) return { rule, outcome: "digest-needed" }
      if ([digest, ...indexes].some(one => demand.digests.has(one))) return { rule, outcome: "allowed" }
      return { rule, outcome: "refused", error: otherDigest(policy, rule, subject) }
    }
  }
}

function ruleFor(policy: Policy, reference: Reference | undefined): PolicyRule | undefined {
  if (!reference) return undefined
  const name = canonicalName(reference)
  const meant = policy.rules.filter(rule => matches(rule.pattern, name) && !allowsByTagAlone(rule, name))
  return meant.sort((a, b) => specificity(b.pattern) - specificity(a.pattern))[0]
}

/** Nobody compares the tag of `NAME:TAG@DIGEST` with the registry's: it would let any content pass. */
function allowsByTagAlone({ pattern, demand }: PolicyRule, { digest }: Reference): boolean {
  return digest !== undefined && pattern.tag !== undefined && demand.kind === "allow"
}

function denied(policy: Policy, rule: PolicyRule | undefined, subject: PolicySubject): ImageError {
  const name = ruleName(policy, rule)
  const help = rule
    ? "change that rule if the image is to be trusted"
    : "add a rule for it if it is to be trusted"
  const image = subjectName(subject)
  return new ImageError(
    "policy-denied",
    `${image} is denied by ${name}; ${help}`,
    factsOf(policy, rule, subject),
  )
}

function otherDigest(policy: Policy, rule: PolicyRule | undefined, subject: PolicySubject): ImageError {
  const facts = factsOf(policy, rule, subject)
  const what = `${subjectName(subject)} is ${subject.digest}, which is not among the digests of ${ruleName(policy, rule)}`
  return new ImageError("policy-digest", `${what}; add it there if it is to be trusted`, facts)
}

/** How messages call an image. */
export function subjectName({ reference, digest }: PolicySubject): string {
  return reference ? formatReference(reference) : `the image without a name${digest ? ` ${digest}` : ""}`
}

/** The fields of a refusal. */
export function factsOf(
  { file = "" }: Policy,
  rule: PolicyRule | undefined,
  { reference, digest }: PolicySubject,
): Record<string, string | number> {
  const image = reference ? formatReference(reference) : ""
  return { image, digest: digest ?? "", file, rule: rule?.number ?? 0, images: rule?.images ?? "" }
}
