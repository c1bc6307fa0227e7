import { ImageError } from "../errors.js"
import { checkLimit } from "../limits.js"
import type { Reference } from "../references.js"
import type { BlobRequest } from "../sources/blob.js"
import type { Mirrors } from "./mirrors.js"
import { type RegistryAccess, Session } from "./session.js"
import type { Answer } from "./transport.js"

const RANGE_MAX = 64 * 1024 * 1024
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
  return mirrors.firstOf(reference.registry, true, signal, endpoint =>
    askRange(new Session(access, reference, {}, signal, endpoint), request, from, to),
  )
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
  const asked = { to: path, headers, what: `the question for a part of ${digest}` }
  const { answer, document } = await session.fetch(asked, to - from, 206)
  if (document.length === to - from && isRange(answer, from, to)) return document
  const { host } = session.url(path)
  throw new ImageError("registry-protocol", `${host} sends another part of a blob than was asked for`, {
    host,
  })
}

function isRange({ headers }: Answer, from: number, to: number): boolean {
  const range = headers["content-range"]
  return typeof range === "string" && range.startsWith(`bytes ${from}-${to - 1}/`)
}
