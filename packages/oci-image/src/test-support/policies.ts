import { generateKeyPairSync, type KeyObject, sign } from "node:crypto"
import { type Policy, parsePolicy } from "../policy/index.js"

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
