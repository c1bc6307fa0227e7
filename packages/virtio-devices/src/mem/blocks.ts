import * as defs from "./defs.js"

/** Which blocks of a region are plugged. */
export class Blocks {
  readonly #plugged: Uint8Array
  #count = 0

  constructor(count: number) {
    this.#plugged = new Uint8Array(count)
  }

  /** How many are plugged. */
  get count(): number {
    return this.#count
  }

  /** How many there are. */
  get length(): number {
    return this.#plugged.length
  }

  /** `VIRTIO_MEM_STATE_…` of `[first, first + count)`, which there are. */
  state(first: number, count: number): number {
    const blocks = this.#plugged.subarray(first, first + count)
    if (!blocks.includes(0)) return defs.VIRTIO_MEM_STATE_PLUGGED
    return blocks.includes(1) ? defs.VIRTIO_MEM_STATE_MIXED : defs.VIRTIO_MEM_STATE_UNPLUGGED
  }

  /** Makes all of `[first, first + count)` plugged, none of which was. */
  plug(first: number, count: number): void {
    this.#plugged.fill(1, first, first + count)
    this.#count += count
  }

  /** Makes none of `[first, first + count)` plugged, all of which were. */
  unplug(first: number, count: number): void {
    this.#plugged.fill(0, first, first + count)
    this.#count -= count
  }

  /** Runs of plugged blocks: first, and how many. */
  *runs(): Generator<readonly [first: number, count: number]> {
    for (let first = this.#plugged.indexOf(1); first >= 0; ) {
      const end = this.#plugged.indexOf(0, first)
      const count = (end < 0 ? this.#plugged.length : end) - first
      yield [first, count]
      first = this.#plugged.indexOf(1, first + count)
    }
  }
}
