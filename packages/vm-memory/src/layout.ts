/// <reference path="./buffer-layout.d.ts" />
import lib from "buffer-layout"

type Raw = InstanceType<typeof lib.Layout>

/**
 * A fixed-size little-endian structure or field: buffer-layout 1.2.2 with types, and with 64-bit integers
 * as `bigint`. For cold structures; rings and packets use `DataView`.
 *
 * @example
 * ```ts
 * const vring = struct({ index: u32(), flags: u32(), descriptor: u64() })
 * const { descriptor } = vring.decode(bytes)   // bigint
 * ```
 */
export class Layout<T> {
  readonly #raw: Raw

  /** @internal Use the functions of this module. */
  constructor(raw: unknown) {
    this.#raw = raw as Raw
  }

  /** Size in bytes. */
  get span(): number {
    return this.#raw.span
  }

  /**
   * Reads a value from `bytes` at `offset`.
   * @throws RangeError when `bytes` is shorter than `offset + span`
   */
  decode(bytes: Uint8Array, offset = 0): T {
    return this.#raw.decode(this.#room(bytes, offset), offset) as T
  }

  /**
   * Writes `value` into `bytes` at `offset`. @returns bytes written, always `span`
   * @throws RangeError when `bytes` is shorter than `offset + span`, or a number does not fit its field
   */
  encode(value: T, bytes: Uint8Array, offset = 0): number {
    this.#raw.encode(value, this.#room(bytes, offset), offset)
    return this.span
  }

  /** A new zero-padded array of `span` bytes that holds `value`. */
  toBytes(value: T): Uint8Array {
    const bytes = new Uint8Array(this.span)
    this.encode(value, bytes)
    return bytes
  }

  /** Byte offset of each field of a structure, in order. */
  static offsets<F extends Fields>(fields: F): { readonly [K in keyof F]: number } {
    let offset = 0
    const entries = Object.entries(fields).map(([name, field]) => {
      const at = offset
      offset += field.span
      return [name, at] as const
    })
    return Object.fromEntries(entries) as { [K in keyof F]: number }
  }

  /** @internal */
  static struct<F extends Fields>(fields: F, isPadding: (name: string) => boolean): Layout<Decoded<F>> {
    // A field without a property is passed over by decode and encode.
    const named = ([name, field]: [string, Layout<unknown>]) =>
      field.#raw.replicate(isPadding(name) ? undefined : name)
    return new Layout(lib.struct(Object.entries(fields).map(named)))
  }

  /** @internal */
  static array<T>(element: Layout<T>, count: number): Layout<T[]> {
    return new Layout(lib.seq(element.#raw, count))
  }

  #room(bytes: Uint8Array, offset: number): Buffer {
    if (!(Number.isSafeInteger(offset) && offset >= 0 && offset + this.span <= bytes.length))
      throw new RangeError(`layout of ${this.span} bytes does not fit at offset ${offset} of ${bytes.length}`)
    return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length)
  }
}

/** Fields of a structure, by name, in the order they lie in memory. No padding is added. */
export type Fields = { readonly [name: string]: Layout<unknown> }
/** What a structure of `F` decodes to. */
export type Decoded<F extends Fields> = { -readonly [K in keyof F]: F[K] extends Layout<infer T> ? T : never }

/** 64-bit little-endian integers that keep every bit, which buffer-layout's own do not. */
class BigIntLayout extends lib.Layout {
  readonly #signed: boolean

  constructor(signed: boolean, property?: string) {
    super(8, property)
    this.#signed = signed
  }

  override decode(buffer: Buffer, offset = 0): bigint {
    return this.#signed ? buffer.readBigInt64LE(offset) : buffer.readBigUInt64LE(offset)
  }

  override encode(source: unknown, buffer: Buffer, offset = 0): number {
    if (typeof source !== "bigint") throw new TypeError("a 64-bit field takes a bigint")
    if (this.#signed) buffer.writeBigInt64LE(source, offset)
    else buffer.writeBigUInt64LE(source, offset)
    return 8
  }

  override replicate(property: string | undefined): Raw {
    return new BigIntLayout(this.#signed, property)
  }
}

/** Raw bytes as `Uint8Array`; buffer-layout's own insist on `Buffer`. */
class BytesLayout extends lib.Layout {
  override decode(buffer: Buffer, offset = 0): Uint8Array {
    return new Uint8Array(buffer.subarray(offset, offset + this.span))
  }

  override encode(source: unknown, buffer: Buffer, offset = 0): number {
    if (!(source instanceof Uint8Array) || source.length !== this.span)
      throw new TypeError(`a field of ${this.span} bytes takes exactly that many`)
    buffer.set(source, offset)
    return this.span
  }

  override replicate(property: string | undefined): Raw {
    return new BytesLayout(this.span, property)
  }
}

/** Unsigned 8-bit field. */
export const u8 = (): Layout<number> => new Layout(lib.u8())
/** Unsigned 16-bit little-endian field. */
export const u16 = (): Layout<number> => new Layout(lib.u16())
/** Unsigned 32-bit little-endian field. */
export const u32 = (): Layout<number> => new Layout(lib.u32())
/** Signed 8-bit field. */
export const i8 = (): Layout<number> => new Layout(lib.s8())
/** Signed 16-bit little-endian field. */
export const i16 = (): Layout<number> => new Layout(lib.s16())
/** Signed 32-bit little-endian field. */
export const i32 = (): Layout<number> => new Layout(lib.s32())
/** Unsigned 64-bit little-endian field, as `bigint`. */
export const u64 = (): Layout<bigint> => new Layout(new BigIntLayout(false))
/** Signed 64-bit little-endian field, as `bigint`. */
export const i64 = (): Layout<bigint> => new Layout(new BigIntLayout(true))
/** `length` raw bytes; decodes to a copy, encodes exactly `length` bytes. */
export const bytes = (length: number): Layout<Uint8Array> => new Layout(new BytesLayout(length))
/** `count` elements, one after the other. */
export const array = <T>(element: Layout<T>, count: number): Layout<T[]> => Layout.array(element, count)
/**
 * Named fields, one after the other; padding is a field of its own. Fields whose name `isPadding` accepts take their
 * room and no more: `decode` leaves them out, `encode` leaves their bytes as they are.
 *
 * @example
 * ```ts
 * const header = struct({ type: u32(), reserved: u32(), sector: u64() })
 * header.span   // 16
 * ```
 */
export const struct = <F extends Fields>(
  fields: F,
  isPadding: (name: string) => boolean = () => false,
): Layout<Decoded<F>> => Layout.struct(fields, isPadding)
