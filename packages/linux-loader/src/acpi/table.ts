import { LoaderError } from "../errors.js"
import { sum8 } from "./checksum.js"

/** Length of the header that every ACPI table but the RSDP starts with. */
export const TABLE_HEADER_SIZE = 36

/** Who made the tables, as their headers say. */
export interface OemIds {
  /** Up to 6 characters of ASCII. */
  readonly oemId: string
  /** Up to 8 characters of ASCII. */
  readonly oemTableId: string
}

/** A whole table: header, `body`, checksum. @see ACPI 6.3, 5.2.6 */
export function acpiTable(
  signature: string,
  revision: number,
  { oemId, oemTableId }: OemIds,
  body: Uint8Array,
) {
  const table = new Uint8Array(TABLE_HEADER_SIZE + body.length)
  const view = new DataView(table.buffer)
  table.set(ascii(signature, 4))
  view.setUint32(4, table.length, true)
  table[8] = revision
  table.set(ascii(oemId, 6), 10)
  table.set(ascii(oemTableId, 8), 16)
  view.setUint32(24, 1, true)
  table.set(ascii("TSVM", 4), 28)
  view.setUint32(32, 1, true)
  table.set(body, TABLE_HEADER_SIZE)
  table[9] = sum8(table)
  return table
}

/**
 * `text` in exactly `size` bytes, padded with spaces.
 * @throws LoaderError `invalid-argument` when it is longer or no printable ASCII
 */
export function ascii(text: string, size: number): Uint8Array {
  if (text.length > size || /[^ -~]/.test(text))
    throw new LoaderError("invalid-argument", { need: text.length, have: size }, "ACPI identifier")
  return Buffer.from(text.padEnd(size), "latin1")
}

/** @throws LoaderError `invalid-argument` unless `value` is an unsigned integer of `bits` bits */
export function requireUnsigned(value: number, bits: number, what: string): void {
  if (!(Number.isSafeInteger(value) && value >= 0 && value < 2 ** bits))
    throw new LoaderError("invalid-argument", { need: value }, what)
}
