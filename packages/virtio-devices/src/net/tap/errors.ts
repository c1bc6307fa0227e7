/** What was wrong with a tap device. */
export type TapErrorCode =
  /** No interface of this name, or no `/dev/net/tun`. */
  | "not-found"
  /** It belongs to another user, and this one may not have it, or may not make one. */
  | "not-permitted"
  /** Another program has it open. */
  | "busy"
  /** The interface is something else, or was made for another number of queues. */
  | "not-a-tap"
  /** It is gone while it was used. */
  | "gone"
  /** Any other refusal of the kernel. */
  | "refused"

/** @example `if ((error as TapError).code === "busy") …` */
export class TapError extends Error {
  override readonly name = "TapError"
  readonly code: TapErrorCode

  constructor(code: TapErrorCode, message: string, options?: ErrorOptions) {
    super(message, options)
    this.code = code
  }
}
