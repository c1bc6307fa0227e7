/**
 * virtio-net: Ethernet frames between a guest and a port.
 *
 * @packageDocumentation
 */
export { type NetCounters, NetDevice, type NetDeviceOptions, randomMac } from "./device.js"
export type { FrameSink, NetPort } from "./port.js"
export { StreamPort, type StreamPortOptions } from "./stream-port.js"
