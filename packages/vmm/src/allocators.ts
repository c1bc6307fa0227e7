import type { BusRange } from "./bus.js"
import { VmmError } from "./errors.js"

/** What an allocation of addresses asks for. */
export interface AddressRequest {
  /** Number of addresses. */
  readonly size: number
  /** Power of two that the base is a multiple of. Default 1. */
  readonly alignment?: number
  /** Lowest or highest base that fits, or exactly this base. Default `first`. */
  readonly place?: "first" | "last" | { readonly base: number }
}

/**
 * Gives out pieces of one range of addresses: MMIO windows, ports. No two pieces overlap.
 *
 * @example
 * ```ts
 * import { AddressAllocator } from "@ts-vmm/vmm"
 *
 * const windows = new AddressAllocator({ base: 0xd000_0000, size: 0x1000_0000 })
 * const { base } = windows.allocate({ size: 0x1000, alignment: 0x1000 })
 * windows.free(base)
 * ```
 */
export class AddressAllocator {
  /** All that there is to give. */
  readonly range: BusRange
  /** What is given out, by rising base. */
  readonly #taken: BusRange[] = []

  /** @throws VmmError `range-invalid` */
  constructor(range: BusRange) {
    const { base, size } = range
    if (!(Number.isSafeInteger(base) && base >= 0 && size > 0 && Number.isSafeInteger(base + size)))
      throw new VmmError("range-invalid", `not a range of addresses: ${base}, ${size}`, { base, size })
    this.range = { base, size }
  }

  /** What is given out, by rising base. */
  get allocated(): readonly BusRange[] {
    return this.#taken
  }

  /**
   * Takes a piece.
   * @throws VmmError `allocation-invalid` for a size or alignment that can never be given, `exhausted` when
   *   nothing of that size and alignment is left, or the exact base is taken
   */
  allocate(request: AddressRequest): BusRange {
    const { size, alignment = 1, place = "first" } = request
    checkRequest(size, alignment)
    const base = typeof place === "object" ? this.#exact(place.base, size, alignment) : this.#search(request)
    if (base === undefined)
      throw new VmmError("exhausted", `no ${size} addresses aligned to ${alignment} are left`, {
        size,
        alignment,
      })
    const piece = { base, size }
    const index = this.#taken.findIndex(t => t.base > base)
    this.#taken.splice(index < 0 ? this.#taken.length : index, 0, piece)
    return piece
  }

  /**
   * Gives a piece back.
   * @param base - first address of a piece that was allocated
   * @throws VmmError `not-found`
   */
  free(base: number): void {
    const index = this.#taken.findIndex(t => t.base === base)
    if (index < 0) throw new VmmError("not-found", `0x${base.toString(16)} was not allocated`, { base })
    this.#taken.splice(index, 1)
  }

  #search({ size, alignment = 1, place }: AddressRequest): number | undefined {
    const gaps = place === "last" ? this.#gaps().reverse() : this.#gaps()
    for (const { start, end } of gaps) {
      const base = place === "last" ? alignDown(end - size, alignment) : alignUp(start, alignment)
      if (base >= start && base + size <= end) return base
    }
    return undefined
  }

  #exact(base: number, size: number, alignment: number): number | undefined {
    if (!(Number.isSafeInteger(base) && base % alignment === 0))
      throw new VmmError("allocation-invalid", `0x${base.toString(16)} is not aligned to ${alignment}`, {
        base,
        alignment,
      })
    return this.#gaps().some(({ start, end }) => base >= start && base + size <= end) ? base : undefined
  }

  /** What is not given out, by rising address. */
  #gaps(): { start: number; end: number }[] {
    const starts = [this.range.base, ...this.#taken.map(t => t.base + t.size)]
    const ends = [...this.#taken.map(t => t.base), this.range.base + this.range.size]
    return starts.map((start, i) => ({ start, end: ends[i]! })).filter(({ start, end }) => end > start)
  }
}

/**
 * Gives out numbers of one range, lowest first: interrupts (GSIs), memory slots.
 *
 * @example
 * ```ts
 * import { IdAllocator } from "@ts-vmm/vmm"
 *
 * const gsis = new IdAllocator(5, 23)
 * gsis.reserve(9)
 * const gsi = gsis.allocate()   // 5
 * gsis.free(gsi)
 * ```
 */
export class IdAllocator {
  /** Lowest id. */
  readonly first: number
  /** Highest id. */
  readonly last: number
  readonly #taken = new Set<number>()
  /** No id below is free. */
  #lowest: number

  /** @throws VmmError `range-invalid` */
  constructor(first: number, last: number) {
    if (!(Number.isSafeInteger(first) && Number.isSafeInteger(last) && first >= 0 && last >= first))
      throw new VmmError("range-invalid", `not a range of ids: ${first} to ${last}`, { first, last })
    this.first = first
    this.last = last
    this.#lowest = first
  }

  /** Number of ids that are left. */
  get available(): number {
    return this.last - this.first + 1 - this.#taken.size
  }

  /**
   * Takes the lowest free id.
   * @throws VmmError `exhausted`
   */
  allocate(): number {
    while (this.#taken.has(this.#lowest)) this.#lowest++
    if (this.#lowest > this.last)
      throw new VmmError("exhausted", `all ids from ${this.first} to ${this.last} are taken`, {
        first: this.first,
        last: this.last,
      })
    this.#taken.add(this.#lowest)
    return this.#lowest++
  }

  /**
   * Takes one id.
   * @throws VmmError `allocation-invalid` outside the range, `exhausted` when it is taken
   */
  reserve(id: number): number {
    if (!(Number.isInteger(id) && id >= this.first && id <= this.last))
      throw new VmmError("allocation-invalid", `id ${id} is not in ${this.first} to ${this.last}`, { id })
    if (this.#taken.has(id)) throw new VmmError("exhausted", `id ${id} is taken`, { id })
    this.#taken.add(id)
    return id
  }

  /**
   * Gives an id back.
   * @throws VmmError `not-found` when it was not taken
   */
  free(id: number): void {
    if (!this.#taken.delete(id)) throw new VmmError("not-found", `id ${id} was not allocated`, { id })
    this.#lowest = Math.min(this.#lowest, id)
  }
}

function checkRequest(size: number, alignment: number): void {
  if (!(Number.isSafeInteger(size) && size > 0))
    throw new VmmError("allocation-invalid", `cannot allocate ${size} addresses`, { size })
  // Not by `&`, which stops at 32 bits.
  if (!(Number.isSafeInteger(alignment) && alignment >= 1 && Number.isInteger(Math.log2(alignment))))
    throw new VmmError("allocation-invalid", `alignment ${alignment} is no power of two`, { alignment })
}

function alignUp(value: number, alignment: number): number {
  return Math.ceil(value / alignment) * alignment
}

function alignDown(value: number, alignment: number): number {
  return Math.floor(value / alignment) * alignment
}
