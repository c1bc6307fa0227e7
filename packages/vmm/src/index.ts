/**
 * The x86-64 machine on KVM.
 *
 * @packageDocumentation
 */
export { AddressAllocator, type AddressRequest, IdAllocator } from "./allocators.js"
export * from "./arch/x86-64/index.js"
export { Bus, type BusCounters, type BusDevice, type BusEntry, type BusRange } from "./bus.js"
export type { BootProtocol, DeviceDescription, MachineConfig } from "./config.js"
export { VmmError, type VmmErrorCode, type VmmErrorFields } from "./errors.js"
export type { MachineEnd, MachineEvents } from "./events.js"
export { createGuestRam, type GuestRamOptions } from "./guest-ram.js"
export { type MachineState, MicroVm } from "./machine.js"
