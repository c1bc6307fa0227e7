import type { SharedMemoryRegion } from "../device-memory.js"

/** What the registers say of a region that is not there (4.2.2). */
const NONE = 2n ** 64n - 1n

/** The shared memory regions of one device, as its registers show them. */
export class SharedMemory {
  readonly #regions = new Map<number, SharedMemoryRegion>()

  /** @throws RangeError for an id, base or length out of range, or an id given twice */
  constructor(regions: readonly SharedMemoryRegion[]) {
    for (const region of regions) {
      const { id, base, length } = region
      if (!(Number.isInteger(id) && id >= 0 && id <= 255) || this.#regions.has(id))
        throw new RangeError(`shared memory region ${id} is out of range, or there twice`)
      if (!(Number.isSafeInteger(base) && base >= 0 && Number.isSafeInteger(length) && length > 0))
        throw new RangeError(`shared memory region ${id} at ${base} of ${length} bytes`)
      this.#regions.set(id, region)
    }
  }

  length(id: number): bigint {
    const region = this.#regions.get(id)
    return region ? BigInt(region.length) : NONE
  }

  base(id: number): bigint {
    const region = this.#regions.get(id)
    return region ? BigInt(region.base) : NONE
  }
}
