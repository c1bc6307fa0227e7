import { digestHex, parseDigest } from "../digest.js"
import { checkLimit, type ImageLimits } from "../limits.js"
import { Fields, type JsonObject, parseJsonObject } from "../spec/json.js"
import { type Descriptor, readIndex } from "../spec/manifest.js"
import { OCI_INDEX } from "../spec/media-types.js"
import type { Session } from "./session.js"

const EMPTY: JsonObject = { schemaVersion: 2, mediaType: OCI_INDEX, manifests: [] }

/**
 * Lists a manifest that was pushed under the one it refers to, for a registry that does not keep such lists: in an
 * index under the tag that stands in for it. Two that do this at once may lose each other's entry, as the spec says.
 *
 * @param document - the manifest; without a `subject` nothing is done
 * @throws ImageError `manifest-invalid`, `media-type` and `json-invalid` where the tag is something else; `limit`,
 * `digest-invalid`, `registry-…`
 * @see OCI distribution spec 1.1, "Pushing Manifests with Subject", "Referrers Tag Schema"
 */
export async function listUnderSubject(
  session: Session,
  document: Buffer,
  at: Descriptor,
  limits: ImageLimits,
): Promise<void> {
  const manifest = new Fields(parseJsonObject(document, "manifest"), "manifest", "manifest-invalid")
  if (!manifest.has("subject")) return
  const subject = new Fields(manifest.raw("subject"), "subject", "manifest-invalid").raw("digest")
  const to = `manifests/sha256-${digestHex(parseDigest(subject))}`
  const list = await readList(session, to, limits)
  const entries = list["manifests"] as readonly { readonly digest: string }[]
  if (entries.some(({ digest }) => digest === at.digest)) return
  checkLimit("manifests", entries.length + 1, limits.manifests, "referrers")
  const body = Buffer.from(JSON.stringify({ ...list, manifests: [...entries, describe(manifest, at)] }))
  const headers = { "content-type": OCI_INDEX, "content-length": `${body.length}` }
  const put = { method: "PUT", to, headers, body: () => body } as const
  await session.tell({ ...put, what: `storing the referrers of ${subject}` }, 201)
}

/** The list as it is, fields that are not known here too. */
async function readList(session: Session, to: string, limits: ImageLimits): Promise<JsonObject> {
  const request = { to, headers: { accept: OCI_INDEX }, what: "the question for referrers" }
  const { answer, document } = await session.fetch(request, limits.documentBytes, 200, 404)
  if (answer.statusCode === 404) return EMPTY
  const list = parseJsonObject(document, "referrers")
  readIndex(list, OCI_INDEX, limits)
  return list
}

function describe(manifest: Fields, { mediaType, digest, size }: Descriptor): object {
  const config = manifest.has("config")
    ? new Fields(manifest.raw("config"), "config", "manifest-invalid")
    : undefined
  const artifactType = manifest.string("artifactType", 256) || config?.string("mediaType", 256)
  const annotations = manifest.stringMap("annotations", 1024)
  return {
    mediaType,
    digest,
    size,
    ...(artifactType ? { artifactType } : {}),
    ...(annotations ? { annotations } : {}),
  }
}
