/**
 * What a vsock operation can fail with.
 *
 * - `connection-refused`: nobody listens on the guest's port.
 * - `connection-reset`: the guest dropped the connection.
 * - `broken-pipe`: written to a connection whose other end takes no more.
 * - `timeout`, `aborted`: `timeoutMs` passed, or `signal` fired.
 * - `device-reset`: the guest's driver or the transport went away.
 * - `protocol-violation`: the guest broke a rule of the protocol (credit, order of packets).
 * - `address-in-use`: the port has a listener already.
 * - `too-many-connections`: the device's limit is reached.
 * - `closed`: the device or the listener was closed.
 * - `invalid-argument`: a port, CID or option outside its range.
 * - `bridge-path`: a Unix socket of the bridge could not be made.
 */
export type VsockErrorCode =
  | "connection-refused"
  | "connection-reset"
  | "broken-pipe"
  | "timeout"
  | "aborted"
  | "device-reset"
  | "protocol-violation"
  | "address-in-use"
  | "too-many-connections"
  | "closed"
  | "invalid-argument"
  | "bridge-path"

const MESSAGES: Record<VsockErrorCode, string> = {
  "connection-refused": "guest refused the connection",
  "connection-reset": "guest reset the connection",
  "broken-pipe": "other end takes no more data",
  timeout: "no answer in time",
  aborted: "operation was aborted",
  "device-reset": "vsock device was reset",
  "protocol-violation": "guest broke the vsock protocol",
  "address-in-use": "port is in use",
  "too-many-connections": "too many connections",
  closed: "closed",
  "invalid-argument": "argument is out of range",
  "bridge-path": "unix socket cannot be made",
}

/** Error of this package; tell the cases apart by `code`. */
export class VsockError extends Error {
  override readonly name = "VsockError"
  /** What happened; closed set. */
  readonly code: VsockErrorCode
  /** Port of the operation, when there is one. */
  readonly port: number | undefined

  constructor(code: VsockErrorCode, port?: number, detail?: string, options?: ErrorOptions) {
    const where = port === undefined ? "" : ` (port ${port})`
    super(`${detail ?? MESSAGES[code]}${where}`, options)
    this.code = code
    this.port = port
  }
}
