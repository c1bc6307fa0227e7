import { type Digest, digestOf } from "../digest.js"
import { ImageError } from "../errors.js"
import { DEFAULT_LIMITS } from "../limits.js"
import { CheckedSource, type Policy } from "../policy/index.js"
import { hostPlatform } from "../spec/platform.js"
import {
  imageAt,
  payloadOf,
  policyOf,
  signatureOf,
  signatureTag,
  TestKey,
  type TestSignature,
  TestSignatures,
} from "./policies.js"

/** An image that is nowhere, its name, and the keys of those who may and may not sign it. */
export const DIGEST: Digest = digestOf("the image")
export const OTHER: Digest = digestOf("another image")
export const NAME = "registry.example/team/app"
export const OPTIONS = { platform: hostPlatform(), limits: DEFAULT_LIMITS }
export const key = new TestKey()
export const stranger = new TestKey()

/** A policy that asks for a signature of one of `keys`. */
export function demanding(keys: readonly TestKey[], more: object = {}): Policy {
  const signedBy = { keys: keys.map(one => one.pem), ...more }
  return policyOf({ default: "deny", rules: [{ images: NAME, signedBy }] })
}

interface Attempt {
  readonly policy?: Policy
  readonly reference?: string
  readonly indexes?: readonly Buffer[]
}

/** What happens to the image with these signatures: `accepted`, or the refusal's code and message. */
export async function outcome(signatures: TestSignatures, attempt: Attempt = {}): Promise<string> {
  const { policy = demanding([key]), reference = `${NAME}:1`, indexes = [] } = attempt
  const source = new CheckedSource({ policy, reference, source: imageAt(DIGEST, indexes), signatures })
  try {
    return (await source.locate(OPTIONS)).digest === DIGEST ? "accepted" : "another image"
  } catch (error) {
    if (error instanceof ImageError) return `${error.code}: ${error.message}`
    throw error
  }
}

/** Signatures under the image's tag. */
export function tagged(...signatures: TestSignature[]): TestSignatures {
  const source = new TestSignatures()
  source.put(signatureTag(DIGEST), signatures)
  return source
}

/** A signature by the right key of a payload with other critical parts. */
export function withCritical(critical: object): TestSignatures {
  const payload = payloadOf(NAME, DIGEST, critical)
  return tagged(signatureOf(payload, key.sign(payload)))
}
