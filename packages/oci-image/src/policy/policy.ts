import type { Digest } from "../digest.js"
import type { Reference } from "../references.js"
import type { NamePattern } from "./name-pattern.js"
import type { PublicKey } from "./public-key.js"
import type { ScanCommand } from "./scan-command.js"

/** What a signature must be. */
export interface SignatureDemand {
  /** One signature of one of these is enough. */
  readonly keys: readonly PublicKey[]
  /** The name that the signature must carry: the image's own when undefined, any when `*`. */
  readonly signedAs: Reference | "*" | undefined
}

/** What a rule asks of the images that it is for. */
export type Demand =
  | { readonly kind: "allow" }
  | { readonly kind: "deny" }
  | { readonly kind: "digests"; readonly digests: ReadonlySet<Digest> }
  | { readonly kind: "signature"; readonly signature: SignatureDemand }

/** One rule of a policy. */
export interface PolicyRule {
  /** Its place in the file, from 1. */
  readonly number: number
  /** The pattern as it is written: the rule's name in messages. */
  readonly images: string
  readonly pattern: NamePattern
  readonly demand: Demand
}

/** Which images may run, and what must be proven of them. */
export interface Policy {
  /** Where it was read; undefined when there is none. */
  readonly file: string | undefined
  /** For images that no rule is for. */
  readonly default: "allow" | "deny"
  readonly rules: readonly PolicyRule[]
  /** What looks into images before their first use. */
  readonly scan?: ScanCommand
}

/** The policy of a machine without a policy file: everything may run. */
export const ALLOW_ALL: Policy = { file: undefined, default: "allow", rules: [] }

/** Whether a policy has nothing to ask of any image: then nothing is kept for it either. */
export function asksNothing(policy: Policy): boolean {
  return policy.default === "allow" && policy.rules.length === 0
}

/** How messages call a rule: its number, its name and its file. */
export function ruleName(policy: Policy, rule: PolicyRule | undefined): string {
  const file = policy.file ?? "the policy"
  return rule ? `rule ${rule.number} (${rule.images}) of ${file}` : `the default of ${file}`
}
