import { invalidArgument } from "../errors.js"
import type { KvmStruct } from "./struct.js"

/** What describes a {@link FlexibleArray}. */
export interface FlexibleArrayOptions<H, E> {
  readonly header: KvmStruct<H>
  /** Field of the header that holds the number of elements. */
  readonly count: keyof H & string
  readonly element: KvmStruct<E>
  /** Most elements that the kernel takes. */
  readonly max: number
}

/**
 * A structure that ends in an array: `kvm_cpuid2`, `kvm_msrs`, `kvm_irq_routing`, … The number of elements is checked
 * before the kernel sees it, and what the kernel reports is checked against the bytes that are there.
 */
export class FlexibleArray<H, E> {
  readonly header: KvmStruct<H>
  readonly element: KvmStruct<E>
  /** Most elements that the kernel takes. */
  readonly max: number
  readonly #count: keyof H & string
  /** The count is a 64-bit field. */
  readonly #wide: boolean

  constructor(options: FlexibleArrayOptions<H, E>) {
    this.header = options.header
    this.element = options.element
    this.max = options.max
    this.#count = options.count
    this.#wide = typeof this.header.decode(new Uint8Array(this.header.span))[this.#count] === "bigint"
  }

  /** Name in the kernel's headers. */
  get name(): string {
    return this.header.name
  }

  /** Bytes with `count` elements. @throws {@link KvmError} `invalid-argument` */
  span(count: number): number {
    if (!(Number.isInteger(count) && count >= 0 && count <= this.max))
      throw invalidArgument(`${this.name} takes 0 to ${this.max} entries, not ${count}`)
    return this.header.span + count * this.element.span
  }

  /** Room for an answer of up to `capacity` elements. */
  room(capacity: number, header: object = {}): Uint8Array {
    const bytes = new Uint8Array(this.span(capacity))
    this.header.encode(this.#withCount(header, capacity), bytes)
    return bytes
  }

  /** `elements` with their header; fields of the header that `header` lacks are zero. */
  toBytes(elements: readonly E[], header: object = {}): Uint8Array {
    const bytes = this.room(elements.length, header)
    elements.forEach((element, index) => {
      this.element.encode(element, bytes, this.header.span + index * this.element.span)
    })
    return bytes
  }

  /** Number of elements that the header names. */
  count(bytes: Uint8Array): number {
    return Number(this.header.decode(bytes)[this.#count])
  }

  /** The elements, at most as many as there are bytes for. */
  decode(bytes: Uint8Array): E[] {
    const fit = Math.floor((bytes.length - this.header.span) / this.element.span)
    const length = Math.min(this.count(bytes), fit)
    return Array.from({ length }, (_, index) =>
      this.element.decode(bytes, this.header.span + index * this.element.span),
    )
  }

  #withCount(header: object, count: number): H {
    return { ...header, [this.#count]: this.#wide ? BigInt(count) : count } as H
  }
}
