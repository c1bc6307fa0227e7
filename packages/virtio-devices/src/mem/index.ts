/**
 * virtio-mem: memory that a running guest is given and gives back.
 *
 * @see virtio 1.3, section 5.15
 * @packageDocumentation
 */
export * from "./defs.js"
export { type MemCounters, MemDevice, type MemOptions } from "./device.js"
