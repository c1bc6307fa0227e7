import type { Dispatcher } from "undici"
import { ImageError } from "../errors.js"

/** Errors of Node's TLS that say "not whom you wanted to talk to". */
const TLS_ERROR = /^(CERT_|ERR_TLS_|ERR_SSL_|DEPTH_ZERO|SELF_SIGNED|UNABLE_TO_|EPROTO$|HOSTNAME_MISMATCH)/
/** Alerts by which a server says that it is the client who has not proven himself. @see RFC 8446, 6.2 */
const CLIENT_REFUSED =
  /_ALERT_(CERTIFICATE_REQUIRED|BAD_CERTIFICATE|UNKNOWN_CA|CERTIFICATE_UNKNOWN|HANDSHAKE_FAILURE|ACCESS_DENIED)$/
/** What does not get better when it is asked again. */
const FINAL_ERROR = /^(ENOTFOUND$|ERR_INVALID_URL$|HPE_|UND_ERR_HEADERS_OVERFLOW$|UND_ERR_INVALID_ARG$)/

/** Codes of trouble with an answer that another one may get around. */
export const MAY_PASS: ReadonlySet<string> = new Set(["registry-unavailable", "registry-timeout"])

/** Whether trying again may help. */
export function mayPass(error: unknown): boolean {
  const { code = "" } = error as NodeJS.ErrnoException
  return !TLS_ERROR.test(code) && !FINAL_ERROR.test(code)
}

/** The error for a connection that failed, by Node's and undici's codes. */
export function connectionError({ host }: URL, cause: unknown): ImageError {
  const { code = "", message = "" } = cause as NodeJS.ErrnoException
  const fields = { host, errno: code }
  if (CLIENT_REFUSED.test(code)) {
    const hint = "set cert and key for the host, of an authority that it knows"
    return new ImageError("registry-tls", `${host} wants a client certificate (${code}): ${hint}`, fields, {
      cause,
    })
  }
  if (TLS_ERROR.test(code)) {
    const hint = "set ca for the host, or plainHttp if it speaks no TLS"
    return new ImageError("registry-tls", `${host} is not trusted (${code}): ${hint}`, fields, { cause })
  }
  if (/^HPE_|CONTENT_LENGTH|HEADERS_OVERFLOW/.test(code) || isNoHttp(cause))
    return new ImageError(
      "registry-protocol",
      `${host} does not speak HTTP well: ${code || message}`,
      fields,
      {
        cause,
      },
    )
  const kind = /_TIMEOUT$|^ETIMEDOUT$/.test(code) ? "registry-timeout" : "registry-unavailable"
  return new ImageError(kind, `cannot reach ${host}: ${code || message}`, fields, { cause })
}

/** What came could not be read. An answer that only ends too early is none of these: it may be whole next time. */
function isNoHttp(cause: unknown): boolean {
  return cause instanceof Error && cause.name === "HTTPParserError" && !cause.message.includes("EOF")
}

/** The error for an answer 429 or 5xx that stays. */
export function troubleError({ host }: URL, status: number): ImageError {
  const isLimit = status === 429
  const what = isLimit ? "takes no more requests for now" : "is in trouble"
  return new ImageError(
    isLimit ? "registry-rate-limited" : "registry-unavailable",
    `${host} ${what} (HTTP ${status}): try again later`,
    { host, status },
  )
}

/**
 * What a server asks to be left alone for, in milliseconds: 0 when it does not say, or not in a way to understand.
 *
 * @see RFC 9110, 10.2.3
 */
export function retryAfter({ headers }: Pick<Dispatcher.ResponseData, "headers">, now = Date.now()): number {
  const value = headers["retry-after"]
  if (typeof value !== "string") return 0
  if (/^\d{1,9}$/.test(value)) return Number(value) * 1000
  const date = Date.parse(value)
  return Number.isNaN(date) ? 0 : Math.max(0, date - now)
}
