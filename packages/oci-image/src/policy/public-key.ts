import { constants, createPublicKey, type KeyObject, verify } from "node:crypto"

/** A key that signatures are checked with. */
export interface PublicKey {
  /** What messages call it: its file, or its place in the policy. */
  readonly name: string
  /** Whether `signature` is this key's for `message`. */
  verifies(message: Uint8Array, signature: Uint8Array): boolean
}

const RSA_BITS_MIN = 2048
/** More only takes time. */
const RSA_BITS_MAX = 8192
/** Below it, signatures that were never made can be found. @see FIPS 186-5, 5.1 (e) */
const RSA_EXPONENT_MIN = 65_537n
/** One block, so that which key is meant is not a question. */
const PEM = /^\s*-----BEGIN PUBLIC KEY-----[A-Za-z0-9+/=\s]+-----END PUBLIC KEY-----\s*$/

/** Longest PEM text that is looked at. */
export const KEY_MAX = 16 * 1024

/**
 * Reads a public key as cosign writes it (`cosign.pub`): ECDSA on P-256, RSA of 2048 bits or more, or Ed25519.
 *
 * @param pem - `-----BEGIN PUBLIC KEY-----` …
 * @param name - what messages call it
 * @returns the key, or why it is none
 */
export function readPublicKey(pem: string, name: string): PublicKey | string {
  if (/-----BEGIN [A-Z ]*PRIVATE KEY-----/.test(pem))
    return "is a private key: only the public one belongs here (cosign.pub)"
  if (!PEM.test(pem)) return "is not one PEM block -----BEGIN PUBLIC KEY-----"
  let key: KeyObject
  try {
    key = createPublicKey({ key: pem, format: "pem", type: "spki" })
  } catch {
    return "is a damaged PEM block, or a key of a kind that is not known"
  }
  const check = checkOf(key)
  return typeof check === "string" ? check : { name, verifies: guarded(check) }
}

type Check = (message: Uint8Array, signature: Uint8Array) => boolean

function checkOf(key: KeyObject): Check | string {
  switch (key.asymmetricKeyType) {
    case "ec":
      if (key.asymmetricKeyDetails?.namedCurve !== "prime256v1") return "is an EC key that is not on P-256"
      return (message, signature) => verify("sha256", message, { key, dsaEncoding: "der" }, signature)
    case "rsa":
      return weakness(key) ?? ((message, signature) => verify("sha256", message, pkcs1(key), signature))
    case "rsa-pss":
      return weakness(key) ?? ((message, signature) => verify("sha256", message, pss(key), signature))
    case "ed25519":
      return (message, signature) => verify(null, message, key, signature)
    default:
      return `is a key of kind ${key.asymmetricKeyType}: ECDSA on P-256, RSA and Ed25519 are known`
  }
}

function weakness(key: KeyObject): string | undefined {
  const { modulusLength = 0, publicExponent = 0n, hashAlgorithm = "sha256" } = key.asymmetricKeyDetails ?? {}
  if (modulusLength < RSA_BITS_MIN)
    return `is an RSA key of ${modulusLength} bits: ${RSA_BITS_MIN} is the least`
  if (modulusLength > RSA_BITS_MAX)
    return `is an RSA key of ${modulusLength} bits: ${RSA_BITS_MAX} is the most`
  if (publicExponent < RSA_EXPONENT_MIN)
    return `is an RSA key with the exponent ${publicExponent}, which is weak`
  if (hashAlgorithm !== "sha256") return `is an RSA key for ${hashAlgorithm}: only sha256 is known`
  return undefined
}

function pkcs1(key: KeyObject): { key: KeyObject; padding: number } {
  return { key, padding: constants.RSA_PKCS1_PADDING }
}

function pss(key: KeyObject): { key: KeyObject; padding: number } {
  return { key, padding: constants.RSA_PKCS1_PSS_PADDING }
}

/** OpenSSL throws for some bytes that are no signature at all. */
function guarded(check: Check): Check {
  return (message, signature) => {
    try {
      return check(message, signature)
    } catch {
      return false
    }
  }
}
