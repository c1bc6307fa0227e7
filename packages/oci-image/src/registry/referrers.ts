import { type Digest, digestHex } from "../digest.js"
import { ImageError } from "../errors.js"
import { checkLimit, DEFAULT_LIMITS } from "../limits.js"
import type { Reference } from "../references.js"
import { Fields, parseJsonObject } from "../spec/json.js"
import { type Descriptor, readDescriptor, readIndex } from "../spec/manifest.js"
import { OCI_INDEX } from "../spec/media-types.js"
import { type RegistryAccess, Session } from "./session.js"

/** Answers that one list may be spread over. */
const PAGES_MAX = 32
const NEXT_PAGE = /<([^<>]{1,4096})>\s*;\s*rel="?next"?/

/** Something that refers to an image: a signature, a list of contents. */
export interface Referrer extends Descriptor {
  /** What it is, as its maker calls it. */
  readonly artifactType?: string
}

/**
 * Lists what refers to an image: by the registry's own list, or by the tag that stands in for it where there is none.
 *
 * @param artifactType - only those; the registry's own choice is checked
 * @throws ImageError `reference-invalid` without a digest, `registry-…`, `manifest-invalid`, `limit`
 * @see OCI distribution spec 1.1, "Listing Referrers", "Referrers Tag Schema"
 */
export async function listReferrers(
  access: RegistryAccess,
  reference: Reference,
  artifactType: string | undefined,
  signal: AbortSignal | undefined,
): Promise<Referrer[]> {
  const { digest } = reference
  if (!digest) throw new ImageError("reference-invalid", "referrers belong to a digest: write NAME@sha256:…")
  const session = new Session(access, reference, {}, signal)
  const found = (await listed(session, digest, artifactType)) ?? (await tagged(session, digest))
  return artifactType === undefined ? found : found.filter(one => one.artifactType === artifactType)
}

async function listed(
  session: Session,
  digest: Digest,
  artifactType: string | undefined,
): Promise<Referrer[] | undefined> {
  const found: Referrer[] = []
  let url = session.url(`referrers/${digest}`)
  if (artifactType !== undefined) url.searchParams.set("artifactType", artifactType)
  for (let page = 0; page < PAGES_MAX; page++) {
    const answer = await session.ask(question(url, digest), 200, 404)
    const document = await session.read(answer, url, DEFAULT_LIMITS.documentBytes)
    if (answer.statusCode === 404) return undefined
    found.push(...readReferrers(document))
    checkLimit("manifests", found.length, DEFAULT_LIMITS.manifests, "referrers")
    const next = NEXT_PAGE.exec(String(answer.headers.link ?? ""))?.[1]
    if (next === undefined) return found
    url = session.resolve(next, url)
  }
  throw new ImageError("limit", `the referrers of ${digest} take more than ${PAGES_MAX} pages`, { digest })
}

async function tagged(session: Session, digest: Digest): Promise<Referrer[]> {
  const url = session.url(`manifests/sha256-${digestHex(digest)}`)
  const answer = await session.ask(question(url, digest), 200, 404)
  const document = await session.read(answer, url, DEFAULT_LIMITS.documentBytes)
  return answer.statusCode === 404 ? [] : readReferrers(document)
}

function question(to: URL, digest: Digest): { to: URL; headers: Record<string, string>; what: string } {
  return { to, headers: { accept: OCI_INDEX }, what: `the question for referrers of ${digest}` }
}

function readReferrers(document: Buffer): Referrer[] {
  const json = parseJsonObject(document, "referrers")
  readIndex(json, OCI_INDEX, DEFAULT_LIMITS)
  const entries = new Fields(json, "referrers", "manifest-invalid").array("manifests", 1000) ?? []
  return entries.map((entry, i) => readReferrer(entry, `referrer ${i}`))
}

function readReferrer(value: unknown, what: string): Referrer {
  const artifactType = new Fields(value, what, "manifest-invalid").string("artifactType", 256)
  const descriptor = readDescriptor(value, what)
  return { ...descriptor, ...(artifactType === undefined ? {} : { artifactType }) }
}
