import { type Digest, digestHex, parseDigest } from "../digest.js"
import { ImageError, printable } from "../errors.js"
import { normalizeName, parseReference } from "../references.js"
import { exists, type StoreContext } from "./context.js"
import { readRecords } from "./names.js"
import type { ImageRecord } from "./stored-image.js"

const ID_PREFIX = /^(?:sha256:)?([0-9a-f]{4,64})$/
const WHOLE_ID = 64

/** What a reference led to. */
export interface Resolved {
  /** Digest of the manifest. */
  readonly digest: Digest
  /** The name that was written, in its stored spelling; undefined when it was a digest or an id. */
  readonly name?: string
}

/**
 * Finds what a user means: a name; a manifest's digest; an image's id (the digest of its config), or at least four
 * digits that one of the two begins with, with or without `sha256:`; or `NAME@sha256:…`. A name goes before an id.
 *
 * @returns undefined when there is no such image
 * @throws ImageError `ambiguous`, `reference-invalid`, `digest-invalid`, `io`
 */
export async function resolveReference(context: StoreContext, text: string): Promise<Resolved | undefined> {
  const prefix = ID_PREFIX.exec(text)?.[1]
  if (text.startsWith("sha256:") && prefix === undefined) parseDigest(text)
  const isName = !text.startsWith("sha256:") && prefix?.length !== WHOLE_ID
  const found = isName ? await resolveName(context, text) : undefined
  if (found || prefix === undefined) return found
  return resolveId(context, prefix)
}

async function resolveName(context: StoreContext, text: string): Promise<Resolved | undefined> {
  const name = normalizeName(text)
  const digest = await context.names.get(name)
  if (digest) return { digest, name }
  const pinned = parseReference(text).digest
  if (!pinned || !name.endsWith(`@${pinned}`)) return undefined
  // NAME@DIGEST of an image that is known by a tag of the same repository.
  const tags = (await context.names.all()).get(pinned) ?? []
  return tags.some(tag => repositoryOf(tag) === repositoryOf(name)) ? { digest: pinned } : undefined
}

/** A stored name without its tag or digest. */
export function repositoryOf(name: string): string {
  const { registry, repository } = parseReference(name)
  return `${registry}/${repository}`
}

async function resolveId(context: StoreContext, prefix: string): Promise<Resolved | undefined> {
  // A manifest's whole digest is there or not, also where the image is damaged.
  const whole: Digest = `sha256:${prefix}`
  if (prefix.length === WHOLE_ID && (await exists(context.folder.image(whole)))) return { digest: whole }
  const matching = (await readRecords(context.folder)).filter(record => hasId(record, prefix))
  const [only, second] = matching
  if (second) {
    const images = matching
      .slice(0, 20)
      .map(record => record.digest)
      .join(", ")
    throw new ImageError("ambiguous", `${prefix} is the start of several images: ${images}`, { images })
  }
  return only && { digest: only.digest }
}

function hasId({ digest, configDigest }: ImageRecord, prefix: string): boolean {
  return [digest, configDigest].some(id => digestHex(id).startsWith(prefix))
}

/** The error for a reference to nothing. */
export function noSuchImage(reference: string): ImageError {
  return new ImageError("not-found", `no such image: ${printable(reference)}`, {
    reference: printable(reference),
  })
}
