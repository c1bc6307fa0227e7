/** Every reason for which this package refuses something. The set is closed: switch over it. */
export type ImageErrorCode =
  // names and sources
  | "reference-invalid"
  | "source-invalid"
  | "source-missing"
  | "archive-invalid"
  | "not-found"
  | "ambiguous"
  | "platform-missing"
  // content addressing
  | "digest-invalid"
  | "digest-mismatch"
  | "size-mismatch"
  | "blob-missing"
  // documents
  | "json-invalid"
  | "manifest-invalid"
  | "config-invalid"
  | "media-type"
  // layer streams
  | "compression-invalid"
  | "tar-header"
  | "tar-checksum"
  | "tar-number"
  | "tar-pax"
  | "tar-disagrees"
  | "tar-type"
  | "tar-size"
  | "tar-sparse"
  | "tar-truncated"
  | "tar-trailing-data"
  // layer entries
  | "entry-name"
  | "entry-escapes"
  | "entry-through-link"
  | "entry-device"
  | "entry-xattr"
  | "link-target"
  | "whiteout"
  // tables of contents that layers carry
  | "toc-invalid"
  | "toc-disagrees"
  // layers that are not read, and the process that reads them
  | "layer-foreign"
  | "layer-process"
  // registries
  | "registry-config"
  | "registry-denied"
  | "registry-insecure"
  | "registry-not-found"
  | "registry-protocol"
  | "registry-proxy"
  | "registry-rate-limited"
  | "registry-redirect"
  | "registry-timeout"
  | "registry-tls"
  | "registry-unauthorized"
  | "registry-unavailable"
  // trust
  | "policy-invalid"
  | "policy-denied"
  | "policy-digest"
  | "policy-unsigned"
  | "policy-signature"
  | "scan-refused"
  | "scan-failed"
  // bounds, store, system
  | "limit"
  | "index-corrupt"
  | "store-corrupt"
  | "store-no-blob"
  | "io"

/** Numbers and names that belong to one error; which keys there are depends on the code. */
export type ImageErrorFields = Readonly<Record<string, number | string>>

/**
 * The one error class of this package. Recognise it by `code`; the message is for people.
 *
 * @example
 * ```ts
 * try {
 *   await store.load("oci:./image:latest")
 * } catch (error) {
 *   if (isImageError(error) && error.code === "digest-mismatch") console.error(error.fields.actual)
 * }
 * ```
 */
export class ImageError extends Error {
  override readonly name = "ImageError"
  /** Why, from a closed set. */
  readonly code: ImageErrorCode
  /** The facts as values: digests, sizes, names, limits. */
  readonly fields: ImageErrorFields

  /**
   * @param code - why, from the closed set
   * @param message - lower-case fact without a trailing dot
   * @param fields - the facts as values
   * @param options - `cause`: the lower error, if there is one
   */
  constructor(code: ImageErrorCode, message: string, fields: ImageErrorFields = {}, options?: ErrorOptions) {
    super(message, options)
    this.code = code
    this.fields = fields
  }
}

/** Whether `error` is an {@link ImageError}, also one of another copy of this package. */
export function isImageError(error: unknown): error is ImageError {
  return error instanceof Error && error.name === "ImageError" && "code" in error && "fields" in error
}

/** Wraps a failed system call, keeping its name: `io` with `errno` ("ENOSPC") and `syscall`. */
export function ioError(error: unknown, what: string): ImageError {
  if (isImageError(error)) return error
  const { code = "", syscall = "" } = error as NodeJS.ErrnoException
  const reason = error instanceof Error ? error.message : String(error)
  return new ImageError("io", `${what}: ${reason}`, { errno: code, syscall }, { cause: error })
}

/**
 * Makes bytes from an image printable for a message: at most 80 characters, nothing that moves a cursor.
 *
 * @param text - a name as it came out of an image
 */
export function printable(text: string): string {
  const short = text.length > 80 ? `${text.slice(0, 77)}...` : text
  return JSON.stringify(short).replace(
    /[^\x20-\x7e]/g,
    c => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`,
  )
}
