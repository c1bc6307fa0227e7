import { ImageError, type ImageErrorCode, isImageError } from "../errors.js"
import { isObject, parseJsonObject } from "../spec/json.js"
import { type BodyOrigin, readBody } from "./read-body.js"
import type { Answer } from "./transport.js"

/** Longest error document that is looked at, in bytes. */
const DOCUMENT_MAX = 16 * 1024
/** What registries call their errors: `MANIFEST_UNKNOWN`. Their texts may be anything and are not repeated. */
const ERROR_CODE = /^[A-Z][A-Z_]{0,63}$/

const CODES: ReadonlyMap<number, ImageErrorCode> = new Map<number, ImageErrorCode>([
  [401, "registry-unauthorized"],
  [403, "registry-denied"],
  [404, "registry-not-found"],
])
const HINTS: ReadonlyMap<number, string> = new Map([
  [401, "log in with an account that may do this"],
  [403, "the account may not do this"],
])

/**
 * The error for an answer that is no success. It reads the body, as far as it is short.
 *
 * @param what - says what was asked, e.g. `the upload of sha256:…`
 * @see OCI distribution spec 1.1, "Error Codes"
 */
export async function statusError(answer: Answer, origin: BodyOrigin, what: string): Promise<ImageError> {
  const { statusCode: status } = answer
  const { host } = origin.url
  const reason = await reasonOf(answer, origin)
  const because = [reason, HINTS.get(status)].filter(Boolean).join("; ")
  return new ImageError(
    CODES.get(status) ?? "registry-protocol",
    `${host} answers HTTP ${status} to ${what}${because && `: ${because}`}`,
    { host, status, ...(reason ? { reason } : {}) },
  )
}

async function reasonOf(answer: Answer, origin: BodyOrigin): Promise<string> {
  try {
    const { errors } = parseJsonObject(await readBody(answer, DOCUMENT_MAX, origin), "the error")
    const first: unknown = Array.isArray(errors) ? errors[0] : undefined
    const code = isObject(first) ? first["code"] : undefined
    return typeof code === "string" && ERROR_CODE.test(code) ? code : ""
  } catch (error) {
    if (isImageError(error)) return "" // no body, or another one: the status says enough
    throw error
  }
}
