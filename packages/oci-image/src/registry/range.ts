import { ImageError, isImageError } from "../errors.js"
import { checkLimit } from "../limits.js"
import type { Reference } from "../references.js"
import type { BlobRequest } from "../sources/blob.js"
import type { Mirrors } from "./mirrors.js"
import { type RegistryAccess, Session } from "./session.js"
import type { Answer } from "./transport.js"

const RANGE_MAX = 64 * 1024 * 1024
/** How often an answer may break off: each request is tried several times as it is, and a guest waits for it. */
const BREAKS = 2
/** Errors that another answer may get around. */
const MAY_PASS: ReadonlySet<string> = new Set(["registry-unavailable", "registry-timeout"])

/** Where a blob is asked for. */
export interface RangePlace {
  readonly access: RegistryAccess
  readonly mirrors: Mirrors
  readonly reference: Reference
}

/**
 * Reads a part of a blob. Nothing proves it here: whoever asks has to know what it should be.
 *
 * @throws ImageError `limit`, `registry-…`
 * @see OCI distribution spec 1.1, "Pulling blobs"; RFC 9110, 14
 */
export async function readRange(
  { access, mirrors, reference }: RangePlace,
  request: BlobRequest,
  [from, to]: readonly [number, number],
  signal: AbortSignal | undefined,
): Promise<Buffer> {
  checkLimit("documentBytes", to - from, RANGE_MAX, "length of a range")
  for (let attempt = 1; ; attempt++) {
    try {
      return await mirrors.firstOf(reference.registry, true, signal, endpoint =>
        askRange(new Session(access, reference, {}, signal, endpoint), request, from, to),
      )
    } catch (error) {
      signal?.throwIfAborted()
      if (attempt >= BREAKS || !isImageError(error) || !MAY_PASS.has(error.code)) throw error
      await access.transport.wait(attempt, 0, signal)
    }
  }
}

async function askRange(
  session: Session,
  { digest }: BlobRequest,
  from: number,
  to: number,
): Promise<Buffer> {
  const path = `blobs/${digest}`
  const headers = { range: `bytes=${from}-${to - 1}` }
  // One that sends the whole instead is refused: it would be read again and again.
  const answer = await session.ask({ to: path, headers, what: `the question for a part of ${digest}` }, 206)
  const bytes = await session.read(answer, session.url(path), to - from)
  if (bytes.length === to - from && isRange(answer, from, to)) return bytes
  const { host } = session.url(path)
  throw new ImageError("registry-protocol", `${host} sends another part of a blob than was asked for`, {
    host,
  })
}

function isRange({ headers }: Answer, from: number, to: number): boolean {
  const range = headers["content-range"]
  return typeof range === "string" && range.startsWith(`bytes ${from}-${to - 1}/`)
}
