import { LoaderError } from "../errors.js"

/**
 * ACPI Machine Language, as much of it as describing devices takes. Each function gives the bytes of one
 * term; terms nest by passing them on. @see ACPI 6.3, chapter 20
 */
export type Aml = Uint8Array

const OP = {
  zero: 0x00,
  one: 0x01,
  name: 0x08,
  byte: 0x0a,
  word: 0x0b,
  dword: 0x0c,
  string: 0x0d,
  qword: 0x0e,
  scope: 0x10,
  buffer: 0x11,
  package: 0x12,
  method: 0x14,
  rootPrefix: 0x5c,
  dualName: 0x2e,
  multiName: 0x2f,
  extended: 0x5b,
  device: 0x82,
  notify: 0x86,
} as const
const METHOD_SERIALIZED = 1 << 3
const MAX_PACKAGE_LENGTH = 2 ** 28

/** An integer constant in its shortest form. */
export function integer(value: number): Aml {
  if (!(Number.isSafeInteger(value) && value >= 0))
    throw new LoaderError("invalid-argument", { need: value }, "AML")
  if (value === 0) return Uint8Array.of(OP.zero)
  if (value === 1) return Uint8Array.of(OP.one)
  if (value < 2 ** 8) return Uint8Array.of(OP.byte, value)
  if (value < 2 ** 16) return concat([OP.word], littleEndian(value, 2))
  if (value < 2 ** 32) return concat([OP.dword], littleEndian(value, 4))
  return concat([OP.qword], littleEndian(value, 8))
}

/** An ASCII string. */
export function string(text: string): Aml {
  if (/[^ -~]/.test(text)) throw new LoaderError("invalid-argument", {}, "AML string")
  return concat([OP.string], Buffer.from(text, "latin1"), [0])
}

/** A device id such as `PNP0501`, packed into 32 bits. @see ACPI 6.3, 19.3.4, EISAID */
export function eisaId(id: string): Aml {
  if (!/^[A-Z]{3}[0-9A-F]{4}$/.test(id)) throw new LoaderError("invalid-argument", {}, `EISA id ${id}`)
  const [a, b, c] = [...id.slice(0, 3)].map(letter => letter.charCodeAt(0) - 0x40) as [number, number, number]
  const vendor = (a << 10) | (b << 5) | c
  const product = Number.parseInt(id.slice(3), 16)
  // Both halves are big-endian in memory, which the constant itself is not.
  return Uint8Array.of(OP.dword, vendor >> 8, vendor & 0xff, product >> 8, product & 0xff)
}

/** `Name (path, value)` */
export function name(path: string, value: Aml): Aml {
  return concat([OP.name], namePath(path), value)
}

/** `Scope (path) { terms }` */
export function scope(path: string, terms: readonly Aml[]): Aml {
  return concat([OP.scope], withLength([namePath(path), ...terms]))
}

/** `Device (path) { terms }` */
export function device(path: string, terms: readonly Aml[]): Aml {
  return concat([OP.extended, OP.device], withLength([namePath(path), ...terms]))
}

/** `Method (path, argumentCount, Serialized) { terms }` */
export function method(path: string, argumentCount: number, terms: readonly Aml[]): Aml {
  return concat([OP.method], withLength([namePath(path), [argumentCount | METHOD_SERIALIZED], ...terms]))
}

/** `Package () { elements }` */
export function packageOf(elements: readonly Aml[]): Aml {
  if (elements.length > 0xff)
    throw new LoaderError("invalid-argument", { need: elements.length }, "AML package")
  return concat([OP.package], withLength([[elements.length], ...elements]))
}

/** `Buffer () { bytes }` */
export function buffer(bytes: Uint8Array): Aml {
  return concat([OP.buffer], withLength([integer(bytes.length), bytes]))
}

/** `Notify (path, value)` */
export function notify(path: string, value: number): Aml {
  return concat([OP.notify], namePath(path), integer(value))
}

/** A name such as `_CRS`, `COM1`, `\_SB_.PWRB`: segments of up to four characters. */
function namePath(path: string): Aml {
  const absolute = path.startsWith("\\")
  const segments = (absolute ? path.slice(1) : path).split(".").map(nameSegment)
  const count = segments.length
  const prefix = count === 1 ? [] : count === 2 ? [OP.dualName] : [OP.multiName, count]
  return concat(absolute ? [OP.rootPrefix] : [], prefix, ...segments)
}

function nameSegment(segment: string): Aml {
  if (!/^[A-Z_][A-Z0-9_]{0,3}$/.test(segment))
    throw new LoaderError("invalid-argument", {}, `AML name ${segment}`)
  return Buffer.from(segment.padEnd(4, "_"), "latin1")
}

/** Parts behind the encoding of their length, which counts its own bytes too. @see ACPI 6.3, 20.2.4 */
function withLength(parts: readonly (Aml | readonly number[])[]): Aml {
  const body = concat(...parts)
  if (body.length + 1 < 2 ** 6) return concat([body.length + 1], body)
  const extra = body.length + 2 < 2 ** 12 ? 1 : body.length + 3 < 2 ** 20 ? 2 : 3
  const length = body.length + 1 + extra
  if (length >= MAX_PACKAGE_LENGTH) throw new LoaderError("invalid-argument", { need: length }, "AML length")
  return concat([(extra << 6) | (length & 0xf)], littleEndian(Math.floor(length / 16), extra), body)
}

function littleEndian(value: number, size: number): Aml {
  const bytes = Buffer.alloc(8)
  bytes.writeBigUInt64LE(BigInt(value))
  return bytes.subarray(0, size)
}

function concat(...parts: readonly (Aml | readonly number[])[]): Aml {
  return Buffer.concat(parts.map(part => Uint8Array.from(part)))
}
