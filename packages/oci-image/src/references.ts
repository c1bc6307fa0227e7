import { type Digest, parseDigest } from "./digest.js"
import { ImageError, printable } from "./errors.js"

/** An image's name, taken apart. */
export interface Reference {
  /** Host and port of a registry; undefined for a local name. */
  readonly registry?: string
  readonly repository: string
  readonly tag?: string
  readonly digest?: Digest
}

const REPOSITORY = /^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:\/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*$/
const TAG = /^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$/
const REGISTRY =
  /^(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*|\[[0-9a-fA-F:]+\])(?::\d{1,5})?$/
const NAME_MAX = 255

/**
 * Reads a name as docker writes it: `[HOST[:PORT]/]REPOSITORY[:TAG][@sha256:HEX]`. The first component is a
 * host only if it could not be anything else: it has a dot or a colon, or is `localhost`.
 *
 * @throws ImageError `reference-invalid`, `digest-invalid`
 * @see OCI distribution spec 1.1, "Pulling manifests"
 */
export function parseReference(text: string): Reference {
  const at = text.indexOf("@")
  const digest = at >= 0 ? parseDigest(text.slice(at + 1)) : undefined
  const { registry, rest } = splitRegistry(at >= 0 ? text.slice(0, at) : text)
  const colon = rest.indexOf(":")
  const repository = colon >= 0 ? rest.slice(0, colon) : rest
  const tag = colon >= 0 ? rest.slice(colon + 1) : undefined
  const valid =
    repository.length <= NAME_MAX && REPOSITORY.test(repository) && (tag === undefined || TAG.test(tag))
  if (!valid)
    throw new ImageError("reference-invalid", `not an image name: ${printable(text)}`, {
      reference: printable(text),
    })
  return {
    ...(registry !== undefined ? { registry } : {}),
    repository,
    ...(tag !== undefined ? { tag } : {}),
    ...(digest !== undefined ? { digest } : {}),
  }
}

function splitRegistry(text: string): { registry?: string; rest: string } {
  const slash = text.indexOf("/")
  if (slash < 0) return { rest: text }
  const first = text.slice(0, slash)
  const isHost = (/[.:]/.test(first) || first === "localhost") && REGISTRY.test(first)
  return isHost ? { registry: first, rest: text.slice(slash + 1) } : { rest: text }
}

/**
 * The one spelling under which a name is stored: tag `latest` unless it says otherwise. A digest beside a tag
 * is left out: the name is what is remembered, the digest is what it was checked against.
 *
 * @example
 * ```ts
 * formatReference(parseReference("debian")) // "debian:latest"
 * ```
 */
export function formatReference(reference: Reference): string {
  const name = reference.registry ? `${reference.registry}/${reference.repository}` : reference.repository
  return reference.tag === undefined && reference.digest
    ? `${name}@${reference.digest}`
    : `${name}:${reference.tag ?? "latest"}`
}

/** Shorthand for {@link formatReference} of {@link parseReference}. */
export function normalizeName(text: string): string {
  return formatReference(parseReference(text))
}
