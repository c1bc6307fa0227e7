/** What went wrong between front end and back end. Closed set; switch on it. */
export type VhostUserErrorCode =
  /** The peer broke the protocol: wrong code, size, order, index or value. */
  | "protocol"
  /** A header or payload that started did not end in time, or an answer did not come. */
  | "timeout"
  /** The peer closed the connection. */
  | "disconnected"
  /** The peer does not read what it asked for. */
  | "peer-stalled"
  /** A memory region cannot be used. */
  | "memory-region"
  /** The peer answered a request with an error. */
  | "refused"
  /** The back end can do too little for its device, or after a reconnect less than before. */
  | "unsuitable"
  /** A device, or this package, threw: a defect. See `cause`. */
  | "internal"
  /** The server or front end was used after `close()`. */
  | "closed"
  /** The socket path cannot be used: longer than 107 bytes. */
  | "socket-path"

/** Facts that go with a `VhostUserError`. */
export interface VhostUserErrorFields {
  /** Message number, one of `VHOST_USER_*`. */
  readonly request?: number
  /** Ring index. */
  readonly queue?: number
  /** The offending value. */
  readonly value?: number
  /** The lower error. */
  readonly cause?: unknown
}

/** The one error of the vhost-user transport. Recognise it by `code`. */
export class VhostUserError extends Error {
  override readonly name = "VhostUserError"
  readonly code: VhostUserErrorCode
  readonly request?: number
  readonly queue?: number
  readonly value?: number

  constructor(code: VhostUserErrorCode, message: string, fields: VhostUserErrorFields = {}) {
    super(message, fields.cause === undefined ? undefined : { cause: fields.cause })
    this.code = code
    if (fields.request !== undefined) this.request = fields.request
    if (fields.queue !== undefined) this.queue = fields.queue
    if (fields.value !== undefined) this.value = fields.value
  }
}
