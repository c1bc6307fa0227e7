import type { GuestAddress } from "@ts-vmm/vm-memory"
import { requireUnsigned } from "./table.js"

/** Length of a generic address structure. */
export const GENERIC_ADDRESS_SIZE = 12
const SPACE_ID = { memory: 0, io: 1 } as const
const BYTE_WIDTH = 8
const BYTE_ACCESS = 1

/** A register of one byte. */
export interface AcpiRegister {
  /** Guest memory or I/O ports. */
  readonly space: "memory" | "io"
  /** Guest address or port. */
  readonly address: GuestAddress
}

/** ACPI 6.3, 5.2.3.2 */
export function genericAddress({ space, address }: AcpiRegister): Uint8Array {
  requireUnsigned(address, space === "io" ? 16 : 52, "register address")
  const bytes = new Uint8Array(GENERIC_ADDRESS_SIZE)
  bytes.set([SPACE_ID[space], BYTE_WIDTH, 0, BYTE_ACCESS])
  new DataView(bytes.buffer).setBigUint64(4, BigInt(address), true)
  return bytes
}
