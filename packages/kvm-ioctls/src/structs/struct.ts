import { type Decoded, type Fields, Layout, struct } from "@ts-vmm/vm-memory/layout"
import { invalidArgument } from "../errors.js"

/** Fields that only fill a gap: zero on the way in, not shown on the way out. */
type Padding = `pad${string}` | `reserved${string}` | "gap"
const PADDING = /^(pad|reserved|gap$)/

/** What a structure decodes to, without its padding. */
export type Shown<T> = T extends Uint8Array | bigint | number
  ? T
  : T extends (infer E)[]
    ? Shown<E>[]
    : { [K in keyof T as K extends Padding ? never : K]: Shown<T[K]> }

/** A plain object with the fields of a kernel structure, under the kernel's names. */
export type Value<S> = S extends KvmStruct<infer T> ? T : never

/**
 * A structure of the KVM API: its layout under the kernel's names. 64-bit fields are `bigint`, smaller ones
 * `number`, raw bytes `Uint8Array`.
 */
export class KvmStruct<T> {
  /** Name in the kernel's headers. */
  readonly name: string
  /** Bytes. */
  readonly span: number
  /** Byte offset of each field. */
  readonly offsets: Readonly<Record<string, number>>
  /** For fields of this kind in another structure. */
  readonly layout: Layout<T>

  constructor(name: string, layout: Layout<T>, offsets: Readonly<Record<string, number>>) {
    this.name = name
    this.span = layout.span
    this.offsets = offsets
    this.layout = layout
  }

  /** @throws RangeError when there are fewer than `offset + span` bytes */
  decode(bytes: Uint8Array, offset = 0): T {
    return this.layout.decode(bytes, offset)
  }

  /** @throws {@link KvmError} `invalid-argument` when a value does not fit its field */
  encode(value: T, bytes: Uint8Array, offset = 0): void {
    try {
      this.layout.encode(value, bytes, offset)
    } catch (error) {
      throw invalidArgument(`${this.name}: ${(error as Error).message}`, error)
    }
  }

  /** A new array of `span` bytes, or more, that starts with `value`. */
  toBytes(value: T, size = this.span): Uint8Array {
    const bytes = new Uint8Array(size)
    this.encode(value, bytes)
    return bytes
  }
}

/** Declares a structure; padding is a field of its own, `gap` where C leaves it to the compiler. */
export function kvmStruct<F extends Fields>(name: string, fields: F): KvmStruct<Shown<Decoded<F>>> {
  const layout = struct(fields, name => PADDING.test(name)) as unknown as Layout<Shown<Decoded<F>>>
  return new KvmStruct(name, layout, Layout.offsets(fields))
}
