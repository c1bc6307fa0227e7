import { setTimeout } from "node:timers/promises"
import { closeFd, drain, eventFd, Poller, signal } from "@ts-vmm/native"
import { type MappedMemory, mmapMemory } from "@ts-vmm/vm-memory/mmap"
import type { ExternalDevice, VirtioDevice } from "../device.js"
import { VIRTIO_MMIO_INT_VRING } from "../mmio/defs.js"
import { InterruptStatus } from "../mmio/interrupt-status.js"
import type { FrontDoor } from "../testing/front-door.js"
import { MmioPort } from "../testing/mmio-port.js"

/**
 * A driver and a device whose rings somebody else serves, joined as a machine joins them: registers of virtio-mmio,
 * an eventfd a queue, one for the interrupt.
 */
export const overExternal: FrontDoor = {
  name: "mmio, rings served elsewhere",
  open: async (device, { regions }) => new ExternalPort(device as ExternalDevice, mmapMemory(regions)),
}

const SETTLE_MS = 10

/** The driver's end of `overExternal`. */
export class ExternalPort extends MmioPort {
  readonly #kicks: readonly number[]
  readonly #call = eventFd()
  readonly #poller: Poller

  constructor(device: ExternalDevice & VirtioDevice, ram: MappedMemory) {
    super(device, ram, {
      ringFeatures: device.ringFeatures,
      interruptStatus: new InterruptStatus(undefined, 0, VIRTIO_MMIO_INT_VRING),
    })
    this.#kicks = device.queueSizes.map(() => eventFd())
    this.#poller = new Poller(this.#call, "readable", () => {
      if (drain(this.#call) > 0) this.interrupted()
    })
    device.attachHost({
      kicks: this.#kicks,
      call: this.#call,
      regions: () =>
        ram.regions.map(({ start, size }, i) => ({
          guestAddress: start,
          size,
          userAddress: ram.mappings[i]!.hostAddress,
          fd: ram.mappings[i]!.fd,
        })),
    })
  }

  override kick(index: number): void {
    const kick = this.#kicks[index]
    if (kick !== undefined) signal(kick, "eventfd")
  }

  /** There is nobody in this process to ask. */
  override async settle(): Promise<void> {
    await setTimeout(SETTLE_MS)
  }

  override async close(): Promise<void> {
    await super.close()
    this.#poller.close()
    for (const fd of [this.#call, ...this.#kicks]) closeFd(fd)
  }
}
