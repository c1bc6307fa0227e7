/**
 * Serving virtio devices to other processes, and using devices of other processes, over vhost-user.
 *
 * @see https://qemu-project.gitlab.io/qemu/interop/vhost-user.html
 * @packageDocumentation
 */
export type { RingHost, SharedRegion } from "../device.js"
export type { BackendOptions } from "./backend.js"
export * from "./defs.js"
export { VhostUserError, type VhostUserErrorCode, type VhostUserErrorFields } from "./errors.js"
export {
  type FrontendOptions,
  PACKED_INITIAL_BASE,
  type RingSetup,
  VhostUserFrontend,
} from "./frontend.js"
export { VhostUserDevice, type VhostUserDeviceOptions } from "./frontend-device.js"
export type { VhostUserKind } from "./frontend-kind.js"
export type { MemoryPolicy } from "./memory-table.js"
export type { InflightArea } from "./message.js"
export {
  type ServeOptions,
  ServerCounters,
  serveVhostUser,
  VhostUserServer,
  type VhostUserServerEvents,
} from "./server.js"
