/**
 * Which images may run: a policy file, signatures as cosign makes them, and a command that looks into images.
 *
 * @packageDocumentation
 */

export type { ReadableDisk } from "../erofs/disk-contents.js"
export { admitStored, type StoredSubject } from "./admit.js"
export { type Attachments, folderAttachments } from "./attachments.js"
export { CheckedSource, type CheckedSourceOptions } from "./checked-source.js"
export { collectSignatures, type SignatureCollection } from "./collect.js"
export { type Decision, decide, type PolicySubject } from "./decide.js"
export { layoutSignatures } from "./layout-signatures.js"
export type { NamePattern } from "./name-pattern.js"
export { ALLOW_ALL, type Demand, type Policy, type PolicyRule, type SignatureDemand } from "./policy.js"
export { type LoadPolicyOptions, loadPolicy, parsePolicy } from "./policy-file.js"
export { proveSignature, type SignatureProof, type SignedSubject } from "./prove.js"
export {
  decodeProvenance,
  encodeProvenance,
  mergeProvenance,
  PROVENANCE_MAX,
  type Provenance,
} from "./provenance.js"
export type { PublicKey } from "./public-key.js"
export { registrySignatures, type SignatureRegistry } from "./registry-signatures.js"
export { rootTar } from "./root-tar.js"
export type { ScanCommand } from "./scan-command.js"
export { type ScanOptions, type ScanVerdict, scanRoot } from "./scan-root.js"
export { Scanner, type ScanSubject } from "./scanner.js"
export {
  type FoundSignature,
  SIGNATURE_LIMITS,
  type SignatureReferrer,
  type SignatureSource,
} from "./signature-source.js"
export {
  type GateImage,
  type GateLoadOptions,
  type GateSourceOptions,
  type GateStore,
  TrustGate,
} from "./trust-gate.js"
