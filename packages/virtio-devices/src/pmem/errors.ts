/** Why a file cannot be persistent memory. Closed set; switch on it. */
export type PmemErrorCode =
  /** A part is no whole number of pages, or there is none. */
  | "part-size"
  /** A file is shorter than its part, or cannot be opened or mapped: see `cause`. */
  | "file"

/** The one error of persistent memory. Nothing the guest sends throws; this is for files that do not fit. */
export class PmemError extends Error {
  override readonly name = "PmemError"
  readonly code: PmemErrorCode

  constructor(code: PmemErrorCode, message: string, options?: ErrorOptions) {
    super(message, options)
    this.code = code
  }
}
