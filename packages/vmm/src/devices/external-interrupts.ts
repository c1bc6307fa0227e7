import { InterruptStatus } from "@ts-vmm/virtio-devices/mmio"

/**
 * The interrupt status of a device whose server raises the interrupt without passing here. The bits of `always` stay
 * set, so vCPU threads drop acknowledgements; only while there is something of ours to acknowledge (a change of the
 * configuration) they are handed on.
 */
export class ExternalInterrupts extends InterruptStatus {
  readonly #always: number
  readonly #answer: (write: "deliver" | "drop") => void

  /** @param answer - how vCPU threads treat acknowledgements from now on */
  constructor(cells: Uint32Array, cell: number, always: number, answer: (write: "deliver" | "drop") => void) {
    super(cells, cell, always)
    this.#always = always
    this.#answer = answer
    answer("drop")
  }

  override raise(bits: number): void {
    if ((bits & ~this.#always) !== 0) this.#answer("deliver")
    super.raise(bits)
  }

  override clear(bits: number): void {
    super.clear(bits)
    if ((this.load() & ~this.#always) === 0) this.#answer("drop")
  }
}
