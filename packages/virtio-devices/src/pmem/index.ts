/**
 * virtio-pmem: files of the host in the guest's address space, for DAX.
 *
 * @see virtio 1.3, section 5.19
 * @packageDocumentation
 */
export type { PmemOptions, PmemPart } from "./backend.js"
export * from "./defs.js"
export { type PmemCounters, PmemDevice } from "./device.js"
export { PmemError, type PmemErrorCode } from "./errors.js"
