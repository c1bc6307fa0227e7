import { VmmError } from "./errors.js"

/**
 * A device on a bus. Passive: it acts only when accessed. What the guest does wrong it answers with silence,
 * it never throws for it.
 */
export interface BusDevice {
  /**
   * Answers a guest's read.
   * @param offset - bytes from the start of the device's range
   * @param into - filled with the answer; its length is the width of the access
   */
  read(offset: number, into: Uint8Array): void
  /**
   * Takes a guest's write.
   * @param offset - bytes from the start of the device's range
   * @param from - the bytes written; valid only during the call
   * @returns a promise when the vCPU has to wait for the effect
   */
  write(offset: number, from: Uint8Array): void | Promise<void>
}

/** Where a device sits: ports on the port bus, guest physical addresses on the memory bus. */
export interface BusRange {
  /** First address. */
  readonly base: number
  /** Number of addresses. */
  readonly size: number
}

/** A device with its place. */
export interface BusEntry extends BusRange {
  readonly device: BusDevice
}

/** Accesses that nobody answered. */
export interface BusCounters {
  /** Reads of nothing, or over the end of a range: answered with all ones. */
  unclaimedReads: number
  /** Writes to nothing, or over the end of a range: dropped. */
  unclaimedWrites: number
}

/**
 * Port or memory bus: finds by binary search the one device whose range holds a whole access.
 *
 * What a guest addresses wrong behaves like a floating bus: reads give all ones, writes vanish, both are
 * counted. Only misuse by the host throws.
 *
 * @example
 * ```ts
 * import { Bus } from "@ts-vmm/vmm"
 *
 * const ports = new Bus()
 * ports.insert({ base: 0x3f8, size: 8 }, serial)
 * ports.write(0x3f8, Uint8Array.of(0x41))
 * ```
 */
export class Bus {
  /** Accesses that nobody answered. */
  readonly counters: BusCounters = { unclaimedReads: 0, unclaimedWrites: 0 }
  /** By rising base; no two overlap. */
  readonly #entries: BusEntry[] = []

  /** Everything on the bus, by rising address. */
  get entries(): readonly BusEntry[] {
    return this.#entries
  }

  /**
   * Puts a device at a range.
   * @returns this bus, so that insertions chain
   * @throws VmmError `range-invalid`, `range-overlap`
   */
  insert({ base, size }: BusRange, device: BusDevice): this {
    if (!(Number.isSafeInteger(base) && base >= 0 && Number.isSafeInteger(size) && size > 0))
      throw new VmmError("range-invalid", `not a bus range: ${base}, ${size} addresses`, { base, size })
    if (!Number.isSafeInteger(base + size))
      throw new VmmError("range-invalid", `bus range ends too high: 0x${base.toString(16)}`, { base, size })
    const index = this.#firstEndingAbove(base)
    const next = this.#entries[index]
    if (next && next.base < base + size)
      throw new VmmError("range-overlap", `0x${base.toString(16)} overlaps 0x${next.base.toString(16)}`, {
        base,
        size,
        otherBase: next.base,
        otherSize: next.size,
      })
    this.#entries.splice(index, 0, { base, size, device })
    return this
  }

  /**
   * Takes a device off the bus.
   * @param base - first address of its range
   * @returns the device
   * @throws VmmError `not-found`
   */
  remove(base: number): BusDevice {
    const index = this.#firstEndingAbove(base)
    const entry = this.#entries[index]
    if (entry?.base !== base)
      throw new VmmError("not-found", `no bus range starts at 0x${base.toString(16)}`, { base })
    this.#entries.splice(index, 1)
    return entry.device
  }

  /** The entry whose range holds `address`, in O(log n). */
  find(address: number): BusEntry | undefined {
    const entry = this.#entries[this.#firstEndingAbove(address)]
    return entry && entry.base <= address ? entry : undefined
  }

  /** Answers a guest's read; all ones when no one device holds the whole access. */
  read(address: number, into: Uint8Array): void {
    const entry = this.find(address)
    if (entry && address + into.length <= entry.base + entry.size) {
      entry.device.read(address - entry.base, into)
      return
    }
    this.counters.unclaimedReads++
    into.fill(0xff)
  }

  /** Hands on a guest's write; dropped when no one device holds the whole access. */
  write(address: number, from: Uint8Array): undefined | Promise<void> {
    const entry = this.find(address)
    if (entry && address + from.length <= entry.base + entry.size)
      return entry.device.write(address - entry.base, from) ?? undefined
    this.counters.unclaimedWrites++
  }

  /** Index of the first entry that ends above `address`, or the number of entries. */
  #firstEndingAbove(address: number): number {
    let low = 0
    let high = this.#entries.length
    while (low < high) {
      const middle = (low + high) >>> 1
      const entry = this.#entries[middle]!
      if (entry.base + entry.size > address) high = middle
      else low = middle + 1
    }
    return low
  }
}
