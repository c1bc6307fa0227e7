/** Why the host's wish cannot be met. Closed set; switch on it. */
export type BalloonErrorCode =
  /** No driver works the device at the moment. */
  | "inactive"
  /** The driver did not take the feature. */
  | "unsupported"
  /** The guest did not answer in time; it need not ever. */
  | "timeout"
  /** The driver reset the device meanwhile. */
  | "reset"
  /** A round of hinting is under way. */
  | "busy"

/** The one error of the balloon. Nothing the guest sends throws; this is for calls that wait for its answer. */
export class BalloonError extends Error {
  override readonly name = "BalloonError"
  readonly code: BalloonErrorCode

  constructor(code: BalloonErrorCode, message: string) {
    super(message)
    this.code = code
  }
}
