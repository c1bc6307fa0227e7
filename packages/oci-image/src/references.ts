import { type Digest, parseDigest } from "./digest.js"
import { ImageError, isImageError, printable } from "./errors.js"

/** An image's name, taken apart and normalised: nothing in it is left to be guessed. */
export interface Reference {
  /** Host and port of a registry; `docker.io` where the name says none. */
  readonly registry: string
  /** Path in the registry; `library/NAME` for a plain NAME of docker.io. */
  readonly repository: string
  readonly tag?: string
  readonly digest?: Digest
}

const DEFAULT_REGISTRY = "docker.io"
/** Where docker.io's API was in the past; docker still takes it for the same. */
const LEGACY_REGISTRY = "index.docker.io"
/** The folder of docker.io's own images, which nobody writes. */
const OFFICIAL = "library/"
const DEFAULT_TAG = "latest"

const COMPONENT = /^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*$/
const TAG = /^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$/
const REGISTRY =
  /^(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*|\[[0-9a-fA-F:]+\])(?::\d{1,5})?$/
const PORT_MAX = 65_535
const NAME_MAX = 255
/** A whole digest without its algorithm, which docker takes for an image's id. */
const ID = /^[0-9a-f]{64}$/

/**
 * Reads a name as docker's users write it: `[HOST[:PORT]/]REPOSITORY[:TAG][@sha256:HEX]`. The first component is a
 * host only if it could not be anything else: it has a dot, a colon or a capital letter, or is `localhost`. Without a
 * host it is an image of docker.io, and a single component one of its own (`library/`).
 *
 * @throws ImageError `reference-invalid` with the rule that was broken, `digest-invalid`
 * @see OCI distribution spec 1.1, "Pulling manifests"
 * @example
 * ```ts
 * import { parseReference } from "@ts-vmm/oci-image"
 *
 * parseReference("debian:12") // { registry: "docker.io", repository: "library/debian", tag: "12" }
 * ```
 */
export function parseReference(text: string): Reference {
  const at = text.indexOf("@")
  const digest = at >= 0 ? parseDigest(text.slice(at + 1)) : undefined
  const { registry, rest } = splitRegistry(at >= 0 ? text.slice(0, at) : text)
  const colon = rest.indexOf(":")
  const path = colon >= 0 ? rest.slice(0, colon) : rest
  const tag = colon >= 0 ? rest.slice(colon + 1) : undefined
  const broken = brokenRule(registry, path, tag)
  if (broken) {
    const reference = printable(text)
    throw new ImageError("reference-invalid", `not an image name: ${reference}: ${broken}`, { reference })
  }
  return {
    registry,
    repository: registry === DEFAULT_REGISTRY && !path.includes("/") ? `${OFFICIAL}${path}` : path,
    ...(tag !== undefined ? { tag } : {}),
    ...(digest !== undefined ? { digest } : {}),
  }
}

function splitRegistry(text: string): { registry: string; rest: string } {
  const slash = text.indexOf("/")
  const first = text.slice(0, Math.max(slash, 0))
  const isHost = /[.:A-Z]/.test(first) || first === "localhost"
  if (!isHost) return { registry: DEFAULT_REGISTRY, rest: text }
  return { registry: first === LEGACY_REGISTRY ? DEFAULT_REGISTRY : first, rest: text.slice(slash + 1) }
}

/** Says what is wrong with a name, in words that tell what to write instead. */
function brokenRule(registry: string, path: string, tag: string | undefined): string | undefined {
  if (!REGISTRY.test(registry) || Number(/:(\d+)$/.exec(registry)?.[1] ?? 0) > PORT_MAX)
    return `${printable(registry)} is no HOST[:PORT]`
  if (path === "") return "it names no repository"
  if (path.length > NAME_MAX) return `it is longer than ${NAME_MAX} characters`
  if (/[A-Z]/.test(path)) return "a repository is written in lower case"
  if (ID.test(path)) return "64 hexadecimal digits are an image's id: write sha256: before them"
  if (!path.split("/").every(component => COMPONENT.test(component)))
    return "a repository's parts are letters and digits, with single . _ - or __ between them"
  if (tag !== undefined && !TAG.test(tag))
    return "a tag is at most 128 letters, digits, _ . and -, and begins with neither . nor -"
  return undefined
}

/**
 * The one spelling under which a name is stored: with its registry, and with tag `latest` unless it says otherwise. A
 * digest beside a tag is left out: the name is what is remembered, the digest is what it was checked against.
 *
 * @example
 * ```ts
 * import { formatReference, parseReference } from "@ts-vmm/oci-image"
 *
 * formatReference(parseReference("debian")) // "docker.io/library/debian:latest"
 * ```
 */
export function formatReference(reference: Reference): string {
  const name = `${reference.registry}/${reference.repository}`
  return reference.tag === undefined && reference.digest
    ? `${name}@${reference.digest}`
    : `${name}:${reference.tag ?? DEFAULT_TAG}`
}

/** Shorthand for {@link formatReference} of {@link parseReference}. */
export function normalizeName(text: string): string {
  return formatReference(parseReference(text))
}

/**
 * A stored name as people write it: without `docker.io/` and `library/`. Reading it gives the same name again.
 *
 * @param name - in its stored spelling
 * @example
 * ```ts
 * import { familiarName } from "@ts-vmm/oci-image"
 *
 * familiarName("docker.io/library/debian:12") // "debian:12"
 * ```
 */
export function familiarName(name: string): string {
  const prefix = `${DEFAULT_REGISTRY}/`
  if (!name.startsWith(prefix)) return name
  const path = name.slice(prefix.length)
  const short = path.startsWith(OFFICIAL) ? path.slice(OFFICIAL.length) : path
  // `library/a/b` would be read as another image without its folder.
  return short.includes("/") ? path : short
}

/**
 * Whether two texts are the same, or spell the same image's name.
 *
 * @example
 * ```ts
 * import { isSameName } from "@ts-vmm/oci-image"
 *
 * isSameName("debian", "docker.io/library/debian:latest") // true
 * ```
 */
export function isSameName(a: string, b: string): boolean {
  const [first, second] = [tryNormalize(a), tryNormalize(b)]
  return a === b || (first !== undefined && first === second)
}

function tryNormalize(text: string): string | undefined {
  try {
    return normalizeName(text)
  } catch (error) {
    if (isImageError(error)) return undefined
    throw error
  }
}
