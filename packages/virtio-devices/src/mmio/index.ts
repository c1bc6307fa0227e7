export * from "./defs.js"
export { EmptyMmioSlot } from "./empty-slot.js"
export { InterruptStatus } from "./interrupt-status.js"
export { MmioTransport, type MmioTransportOptions } from "./transport.js"
