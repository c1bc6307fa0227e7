import { type Aml, buffer } from "./aml.js"
import { requireUnsigned } from "./table.js"

/** Resource descriptors for `_CRS`. @see ACPI 6.3, 6.4 */
const MEMORY32_FIXED = 0x86
const EXTENDED_INTERRUPT = 0x89
const IO_PORT = 0x47
const END_TAG = 0x79
const READ_WRITE = 1
const DECODE_16 = 1
/** The device consumes it, edge-triggered, active high, not shared. */
const CONSUMER_EDGE_HIGH_EXCLUSIVE = 0b0011

/** `ResourceTemplate () { resources }` */
export function resourceTemplate(resources: readonly Uint8Array[]): Aml {
  return buffer(Buffer.concat([...resources, Uint8Array.of(END_TAG, 0)]))
}

/** `Memory32Fixed (ReadWrite, base, size)` */
export function memory32Fixed(base: number, size: number): Uint8Array {
  requireUnsigned(base, 32, "window base")
  requireUnsigned(size, 32, "window size")
  requireUnsigned(base + size, 32, "window end")
  const bytes = new Uint8Array(12)
  const view = new DataView(bytes.buffer)
  bytes[0] = MEMORY32_FIXED
  view.setUint16(1, 9, true)
  bytes[3] = READ_WRITE
  view.setUint32(4, base, true)
  view.setUint32(8, size, true)
  return bytes
}

/** `Interrupt (ResourceConsumer, Edge, ActiveHigh, Exclusive) { gsi }` */
export function edgeInterrupt(gsi: number): Uint8Array {
  requireUnsigned(gsi, 32, "gsi")
  const bytes = new Uint8Array(9)
  const view = new DataView(bytes.buffer)
  bytes[0] = EXTENDED_INTERRUPT
  view.setUint16(1, 6, true)
  bytes[3] = CONSUMER_EDGE_HIGH_EXCLUSIVE
  bytes[4] = 1
  view.setUint32(5, gsi, true)
  return bytes
}

/** `IO (Decode16, port, port, 1, count)` */
export function ioPorts(port: number, count: number): Uint8Array {
  requireUnsigned(port, 16, "port")
  requireUnsigned(port + count - 1, 16, "last port")
  return Uint8Array.of(IO_PORT, DECODE_16, port & 0xff, port >> 8, port & 0xff, port >> 8, 1, count)
}
