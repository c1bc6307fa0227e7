import { isImageError } from "../errors.js"
import { parseReference, type Reference } from "../references.js"

/** Which images a rule is for. */
export interface NamePattern {
  /** Host and port in their one spelling. */
  readonly registry: string
  /** The whole repository, or with `prefix` what it begins with: empty, or up to a slash. */
  readonly repository: string
  readonly prefix: boolean
  readonly tag?: string
}

const DOCKER_HUB = "docker.io"
/** Other names of docker.io's API: a rule for docker.io is for them too. */
const DOCKER_HUB_HOSTS: ReadonlySet<string> = new Set([DOCKER_HUB, "index.docker.io", "registry-1.docker.io"])
const DEFAULT_TAG = "latest"
const BELOW = "/*"
/** Stands for what `*` stands for, so that a pattern can be read as a name. */
const ANY = "/x/x"

/**
 * Reads a pattern: a name as one gives it to `pull`, of a repository (`NAME`, whatever the tag) or of one tag
 * (`NAME:TAG`), or with `/*` behind a registry or a path for everything below.
 *
 * @throws ImageError `reference-invalid`, `digest-invalid`
 */
export function parsePattern(text: string): NamePattern {
  if (text.endsWith(BELOW)) {
    const { registry, repository } = canonicalName(parseReference(`${text.slice(0, -BELOW.length)}${ANY}`))
    return { registry, repository: repository.slice(0, -ANY.length + 1), prefix: true }
  }
  const { registry, repository, tag } = canonicalName(parseReference(text))
  return { registry, repository, prefix: false, ...(tag === undefined ? {} : { tag }) }
}

/** Whether two patterns are for the same images. */
export function patternKey({ registry, repository, prefix, tag = "" }: NamePattern): string {
  return JSON.stringify([registry, repository, prefix, tag])
}

/** Whether an image of this name, in its one spelling, is meant. */
export function matches(pattern: NamePattern, name: Reference): boolean {
  if (pattern.registry !== name.registry) return false
  if (pattern.prefix) return name.repository.startsWith(pattern.repository)
  if (pattern.repository !== name.repository) return false
  return pattern.tag === undefined || pattern.tag === tagOf(name)
}

/** Orders patterns that match one name: the longer, the more is said. */
export function specificity({ repository, prefix, tag }: NamePattern): number {
  return repository.length + (prefix ? 0 : 1) + (tag === undefined ? 0 : 1)
}

/** The tag that is asked for: a name with a digest alone has none. */
function tagOf({ tag, digest }: Reference): string | undefined {
  return tag ?? (digest ? undefined : DEFAULT_TAG)
}

/**
 * A name in the spelling that rules are compared in. Names of hosts that mean the same are one, or a rule would be
 * walked around by writing `REGISTRY.example` or `registry.example:443`.
 */
export function canonicalName(name: Reference): Reference {
  const host = canonicalHost(name.registry)
  const registry = DOCKER_HUB_HOSTS.has(host) ? DOCKER_HUB : host
  const isOfficial = registry === DOCKER_HUB && !name.repository.includes("/")
  return { ...name, registry, repository: isOfficial ? `library/${name.repository}` : name.repository }
}

function canonicalHost(registry: string): string {
  // As whoever connects reads it: lower case, no default port, one form of every address.
  return URL.canParse(`https://${registry}`) ? new URL(`https://${registry}`).host : registry.toLowerCase()
}

/** Whether a signature's `docker-reference` names this repository, whatever tag it has. */
export function isSameRepository(text: string, wanted: Reference): boolean {
  try {
    const [a, b] = [canonicalName(parseReference(text)), canonicalName(wanted)]
    return a.registry === b.registry && a.repository === b.repository
  } catch (error) {
    if (isImageError(error)) return false
    throw error
  }
}
