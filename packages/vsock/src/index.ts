/**
 * virtio-vsock: connections between a guest and its host as Node streams.
 *
 * @packageDocumentation
 */
export type { ConnectOptions } from "./connect.js"
export type { Connection, ConnectionState } from "./connection.js"
export * from "./connection-roles.js"
export * from "./defs.js"
export { type ListenOptions, VsockDevice, type VsockDeviceOptions } from "./device.js"
export { VsockError, type VsockErrorCode } from "./errors.js"
export { type OnConnection, VsockListener } from "./listener.js"
export type { Acceptor } from "./muxer.js"
export {
  emptyHeader,
  HeaderBuffer,
  type PacketSource,
  type PacketTarget,
  type VsockHeader,
} from "./packet.js"
export type { VsockStats } from "./stats.js"
export { type Borrower, VsockStream } from "./streams.js"
export { UnixBridge, type UnixBridgeOptions } from "./unix-bridge.js"
