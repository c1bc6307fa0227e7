import { VIRTIO_MMIO_INT_CONFIG, VIRTIO_MMIO_INT_VRING } from "./defs.js"

/** Every bit there is. */
export const ALL_INTERRUPTS = VIRTIO_MMIO_INT_VRING | VIRTIO_MMIO_INT_CONFIG

/**
 * The interrupt status register of one device. It lives in a cell that vCPU threads can share: they answer reads of
 * the register and acknowledgements by themselves, so an interrupt costs no hop to this thread. Every change is
 * one atomic operation, so whoever changes it, no bit gets lost.
 *
 * @see virtio 1.3, section 4.2.2, "InterruptStatus" and "InterruptACK"
 *
 * @example
 * ```ts
 * import { InterruptStatus } from "@ts-vmm/virtio-devices/mmio"
 *
 * const cells = new Uint32Array(new SharedArrayBuffer(4 * 8))
 * const status = new InterruptStatus(cells, 3)   // the register of the device in slot 3
 * ```
 */
export class InterruptStatus {
  readonly #cells: Uint32Array
  readonly #index: number
  readonly #always: number

  /**
   * @param cells shared memory; by default one cell of its own
   * @param index which of the cells
   * @param always bits that are set from here on, whatever is acknowledged: of a device whose interrupts come from
   *   somebody who cannot set bits. A driver that is told of used buffers looks, and finds none.
   * @throws RangeError when there is no such cell
   */
  constructor(cells: Uint32Array = new Uint32Array(new SharedArrayBuffer(4)), index = 0, always = 0) {
    if (!(Number.isInteger(index) && index >= 0 && index < cells.length))
      throw new RangeError(`interrupt status cell ${index} of ${cells.length}`)
    this.#cells = cells
    this.#index = index
    this.#always = always
    Atomics.or(cells, index, always)
  }

  /** Sets `bits` (`VIRTIO_MMIO_INT_*`). The interrupt is signalled after this, never before. */
  raise(bits: number): void {
    Atomics.or(this.#cells, this.#index, bits)
  }

  /** The register as the driver reads it. */
  load(): number {
    return Atomics.load(this.#cells, this.#index)
  }

  /** Takes `bits` away: the driver acknowledged them. */
  clear(bits: number): void {
    Atomics.and(this.#cells, this.#index, ~bits | this.#always)
  }
}
