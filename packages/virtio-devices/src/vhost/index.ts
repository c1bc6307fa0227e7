/**
 * Devices whose rings the host's kernel serves: `/dev/vhost-net` and `/dev/vhost-vsock`.
 *
 * @packageDocumentation
 */
export { VhostError, type VhostErrorCode, type VhostErrorDetails } from "./errors.js"
export { VhostNetDevice, type VhostNetDeviceOptions } from "./net-device.js"
export { VhostDevice } from "./vhost-device.js"
export { type IoctlCall, VhostFd, type VringAddresses } from "./vhost-fd.js"
export { VhostVsockDevice, type VhostVsockDeviceOptions } from "./vsock-device.js"
