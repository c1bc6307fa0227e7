import { Readable } from "node:stream"
import type { Digest } from "../digest.js"
import { type ImageError, isImageError } from "../errors.js"
import { type BlobRequest, type BlobSource, VerifiedBlob } from "../sources/blob.js"
import { MAY_PASS } from "./failures.js"
import type { Session } from "./session.js"

/** Smallest piece of an upload in pieces; a registry may want larger ones. */
const CHUNK_BYTES = 8 * 1024 * 1024
/** Largest piece that a registry may ask for: each is held in memory. */
const CHUNK_MAX = 64 * 1024 * 1024
const OCTETS = { "content-type": "application/octet-stream" }
/** Answers that say "not in one piece". */
const WANTS_PIECES: ReadonlySet<unknown> = new Set([405, 411, 413, 501])
/** Trouble that another upload from the start may get around. */
const MAY_START_AGAIN: ReadonlySet<string> = new Set([...MAY_PASS, "registry-rate-limited"])

/** How a blob got there. */
export type UploadOutcome = "present" | "mounted" | "uploaded"

/**
 * Makes sure that a repository has a blob: by looking, by taking it over from another repository, by sending it. What
 * is sent is checked against its digest on the way.
 *
 * @param mountFrom - repositories of the same registry that may have it
 * @param attempts - how often sending is begun; each begins from the start
 * @throws ImageError `registry-…`, `digest-mismatch`, `size-mismatch`, and what the source throws
 * @see OCI distribution spec 1.1, "Pushing Blobs"
 */
export async function uploadBlob(
  session: Session,
  source: BlobSource,
  request: BlobRequest,
  mountFrom: readonly string[],
  attempts: number,
): Promise<UploadOutcome> {
  if (await isThere(session, request.digest)) return "present"
  const begun = await mount(session, request.digest, mountFrom)
  if (begun === "mounted") return "mounted"
  let location = begun
  const whole = async () => {
    const to = location ?? (await begin(session, request.digest))
    location = undefined
    await sendWhole(session, source, request, to)
  }
  try {
    await persist(session, attempts, whole)
  } catch (error) {
    if (!wantsPieces(error)) throw error
    await persist(session, attempts, () => sendPieces(session, source, request))
  }
  return "uploaded"
}

const wantsPieces = (error: unknown) => isImageError(error) && WANTS_PIECES.has(error.fields["status"])

/** Sends until it succeeds, as often as that is worth while. */
async function persist(session: Session, attempts: number, send: () => Promise<void>): Promise<void> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await send()
    } catch (error) {
      session.signal?.throwIfAborted()
      const mayHelp = isImageError(error) && MAY_START_AGAIN.has(error.code) && !wantsPieces(error)
      if (!mayHelp || attempt >= attempts) throw error
      await session.wait(attempt)
    }
  }
}

async function isThere(session: Session, digest: Digest): Promise<boolean> {
  const what = `the question for ${digest}`
  const answer = await session.tell({ method: "HEAD", to: `blobs/${digest}`, what }, 200, 404)
  return answer.statusCode === 200
}

/** A registry that does not take the blob over begins an upload instead. */
async function mount(
  session: Session,
  digest: Digest,
  repositories: readonly string[],
): Promise<"mounted" | URL | undefined> {
  let begun: URL | undefined
  for (const from of repositories) {
    const to = session.url("blobs/uploads/")
    to.search = new URLSearchParams({ mount: digest, from }).toString()
    const request = { method: "POST", to, headers: { "content-length": "0" } } as const
    const answer = await session.tell({ ...request, what: `taking over ${digest}` }, 201, 202)
    if (answer.statusCode === 201) return "mounted"
    begun = session.resolve(answer.headers.location, to)
  }
  return begun
}

async function begin(session: Session, digest: Digest): Promise<URL> {
  return (await beginWith(session, digest)).location
}

async function beginWith(session: Session, digest: Digest): Promise<{ location: URL; chunkBytes: number }> {
  const to = session.url("blobs/uploads/")
  const what = `the begin of uploading ${digest}`
  const answer = await session.tell({ method: "POST", to, headers: { "content-length": "0" }, what }, 202)
  const smallest = Number(answer.headers["oci-chunk-min-length"] ?? 0)
  const chunkBytes = smallest > CHUNK_BYTES ? Math.min(smallest, CHUNK_MAX) : CHUNK_BYTES
  return { location: session.resolve(answer.headers.location, to), chunkBytes }
}

async function sendWhole(
  session: Session,
  source: BlobSource,
  { digest, size }: BlobRequest,
  location: URL,
): Promise<void> {
  let failure: ImageError | undefined
  const body = () =>
    Readable.from(
      verified(source, { digest, size }, session.signal, error => {
        failure = error
      }),
      { objectMode: false },
    )
  const headers = { ...OCTETS, "content-length": `${size}` }
  const to = withDigest(location, digest)
  try {
    await session.tell({ method: "PUT", to, headers, body, attempts: 1, what: `uploading ${digest}` }, 201)
  } catch (error) {
    // What is wrong with the content says more than the request that it broke off.
    throw failure ?? error
  }
}

/** @see OCI distribution spec 1.1, "Pushing a blob in chunks" */
async function sendPieces(session: Session, source: BlobSource, request: BlobRequest): Promise<void> {
  const { digest } = request
  const begun = await beginWith(session, digest)
  let { location } = begun
  let at = 0
  for await (const piece of pieces(verified(source, request, session.signal), begun.chunkBytes)) {
    const range = `${at}-${at + piece.length - 1}`
    const headers = { ...OCTETS, "content-length": `${piece.length}`, "content-range": range }
    // One try: a registry that took the piece, but whose answer was lost, would refuse it the second time. So would one
    // that took a part. Another upload begins instead.
    const patch = { method: "PATCH", to: location, headers, body: () => piece, attempts: 1 } as const
    const answer = await session.tell({ ...patch, what: `uploading ${digest}, bytes ${range}` }, 202)
    location = session.resolve(answer.headers.location, location)
    at += piece.length
  }
  const headers = { "content-length": "0" }
  const to = withDigest(location, digest)
  await session.tell({ method: "PUT", to, headers, attempts: 1, what: `the end of uploading ${digest}` }, 201)
}

async function* verified(
  source: BlobSource,
  request: BlobRequest,
  signal: AbortSignal | undefined,
  onFailure: (error: ImageError) => void = () => undefined,
): AsyncGenerator<Buffer> {
  const blob = new VerifiedBlob(source, request, "blob", signal)
  try {
    for (let chunk = await blob.next(); chunk; chunk = await blob.next()) yield chunk
  } catch (error) {
    if (isImageError(error)) onFailure(error)
    throw error
  } finally {
    await blob.close()
  }
}

/** Cuts a stream into pieces of `size` bytes; the last may be shorter. */
async function* pieces(chunks: AsyncIterable<Buffer>, size: number): AsyncGenerator<Buffer> {
  let held: Buffer[] = []
  let length = 0
  for await (let chunk of chunks) {
    while (length + chunk.length >= size) {
      yield Buffer.concat([...held, chunk.subarray(0, size - length)])
      chunk = chunk.subarray(size - length)
      held = []
      length = 0
    }
    held.push(chunk)
    length += chunk.length
  }
  if (length > 0) yield Buffer.concat(held)
}

/** The registry's own parameters of an upload stay. */
function withDigest(location: URL, digest: Digest): URL {
  const url = new URL(location)
  url.searchParams.set("digest", digest)
  return url
}
