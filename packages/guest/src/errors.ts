/** Why a call to the guest, or something made for the guest, failed. A closed set. */
export type GuestErrorCode =
  /** No answer within `timeoutMs`. */
  | "timeout"
  /** The caller's `signal` ended the call. */
  | "aborted"
  /** The connection to the agent is gone. */
  | "closed"
  /** The agent broke the framing rules; the connection was closed. */
  | "protocol"
  /** A frame above 4 MiB, ours or the agent's. */
  | "frame-too-large"
  /** A reply that does not decode, or whose values cannot be true. */
  | "bad-reply"
  /** The agent answered with an error; `status` says which. */
  | "rpc"
  /** The program of a container or exec does not exist (exit code 127). */
  | "exec-not-found"
  /** The program exists and cannot be executed (exit code 126). */
  | "exec-not-executable"
  /** The agent or kernel that has to be built first is not there. */
  | "artifact-missing"
  /** The caller passed something that cannot be expressed. */
  | "invalid-argument"

/** Facts that go with a {@link GuestError}. */
export interface GuestErrorDetails {
  /** `Service/Method` of the call. */
  method?: string
  /** gRPC status code of the agent's answer. */
  status?: number
  /** The exit code a container runtime reports for this failure: 126 or 127. */
  exitCode?: number
  /** The lower error. */
  cause?: unknown
}

/**
 * The one error class of this package. Recognise it by `code`.
 *
 * @example
 * ```ts
 * try {
 *   await agent.startContainer({ containerId: "c1" })
 * } catch (error) {
 *   if (error instanceof GuestError && error.code === "exec-not-found") process.exitCode = error.exitCode
 * }
 * ```
 */
export class GuestError extends Error {
  override readonly name = "GuestError"
  readonly code: GuestErrorCode
  readonly method: string | undefined
  readonly status: number | undefined
  readonly exitCode: number | undefined

  constructor(code: GuestErrorCode, message: string, details: GuestErrorDetails = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause })
    this.code = code
    this.method = details.method
    this.status = details.status
    this.exitCode = details.exitCode
  }
}
