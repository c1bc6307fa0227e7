/**
 * virtio-net: Ethernet frames between a guest and a port.
 *
 * @packageDocumentation
 */
export type { NetCounters } from "./counters.js"
export { NET_HEADER_SIZE, PACKET_HEAD_SIZE } from "./defs.js"
export { NetDevice, type NetDeviceOptions } from "./device.js"
export type { StreamPortOptions } from "./frame-stream.js"
export { randomMac } from "./mac.js"
export type { FrameSink, NetPort, PacketSender, PacketSink } from "./port.js"
export { StreamPort } from "./stream-port.js"
