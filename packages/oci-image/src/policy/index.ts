/**
 * Which images may run: a policy file, signatures as cosign makes them, and a command that looks into images.
 *
 * @packageDocumentation
 */

export { type Decision, decide, type PolicySubject } from "./decide.js"
export type { NamePattern } from "./name-pattern.js"
export { ALLOW_ALL, type Demand, type Policy, type PolicyRule, type SignatureDemand } from "./policy.js"
export { type LoadPolicyOptions, loadPolicy, parsePolicy } from "./policy-file.js"
export type { PublicKey } from "./public-key.js"
export type { ScanCommand } from "./scan-command.js"
