import { createHash, type Hash } from "node:crypto"
import { ImageError, printable } from "./errors.js"

/** `sha256:` and 64 lower-case hex digits. Only values that passed {@link parseDigest} carry this type. */
export type Digest = `sha256:${string}`

const DIGEST = /^sha256:[0-9a-f]{64}$/

/**
 * Checks a digest before it is used for anything, above all as a file name.
 *
 * @param text - untrusted text
 * @throws ImageError `digest-invalid` for another algorithm, another length, upper case, or anything else
 * @see OCI image spec 1.1, descriptor.md, "Digests"
 */
export function parseDigest(text: unknown): Digest {
  if (typeof text === "string" && DIGEST.test(text)) return text as Digest
  const shown = typeof text === "string" ? printable(text) : typeof text
  throw new ImageError("digest-invalid", `not a sha256 digest: ${shown}`, { digest: shown })
}

/** The 64 hex digits of a digest: a safe file name. */
export function digestHex(digest: Digest): string {
  return digest.slice("sha256:".length)
}

/** The digest of bytes in memory. */
export function digestOf(bytes: Uint8Array | string): Digest {
  return finishDigest(createHash("sha256").update(bytes))
}

/** Ends a running SHA-256. */
export function finishDigest(hash: Hash): Digest {
  return `sha256:${hash.digest("hex")}`
}

/**
 * Compares digests.
 *
 * @param what - names the content in the message, e.g. `layer`
 * @throws ImageError `digest-mismatch` with `expected` and `actual`
 */
export function checkDigest(what: string, expected: Digest, actual: Digest): void {
  if (expected === actual) return
  throw new ImageError(
    "digest-mismatch",
    `digest mismatch for ${what}: expected ${expected}, got ${actual}`,
    { expected, actual },
  )
}
