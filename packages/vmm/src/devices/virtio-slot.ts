import type { VirtioDevice } from "@ts-vmm/virtio-devices"
import { EmptyMmioSlot } from "@ts-vmm/virtio-devices/mmio"
import type { BusDevice } from "../bus.js"
import { type VirtioPlace, VirtioWindow, type VirtioWindowHost } from "./virtio-window.js"

const EMPTY = new EmptyMmioSlot()

/**
 * A place for a virtio device that the guest was told of at boot. There may be a device in it or not: with none its
 * window says device id 0, which drivers leave alone.
 *
 * ```
 *           plug(device), then the guest's driver binds
 *   empty ----------------------------------------------> taken
 *      ^                                                    |
 *      '----------------------------------------------------'
 *           the guest's driver unbinds, then unplug()
 * ```
 */
export class VirtioSlot implements BusDevice {
  readonly place: VirtioPlace
  readonly #host: VirtioWindowHost
  #window: VirtioWindow | undefined
  /** A device that is on its way out still has the place's interrupt. */
  #leaving: Promise<void> | undefined

  constructor(place: VirtioPlace, host: VirtioWindowHost) {
    this.place = place
    this.#host = host
  }

  get device(): VirtioDevice | undefined {
    return this.#window?.device
  }

  /** No device is in it, and none is on its way out. */
  get free(): boolean {
    return this.#window === undefined && this.#leaving === undefined
  }

  /** Puts a device in; it belongs to the slot from here on. @throws KvmError `ioctl`; SysError; VmmError */
  plug(device: VirtioDevice): void {
    this.#window = new VirtioWindow(device, this.place, this.#host)
  }

  /** Takes the device out, whatever the guest does with it. Nothing touches guest memory for it once this resolves. */
  unplug(): Promise<void> {
    const window = this.#window
    this.#window = undefined
    if (window) this.#leaving = window.close().finally(() => this.#left())
    return this.#leaving ?? Promise.resolve()
  }

  read(offset: number, into: Uint8Array): void {
    const device: BusDevice = this.#window ?? EMPTY
    device.read(offset, into)
  }

  write(offset: number, from: Uint8Array): void | Promise<void> {
    const device: BusDevice = this.#window ?? EMPTY
    return device.write(offset, from)
  }

  #left(): void {
    this.#leaving = undefined
    VirtioWindow.clear(this.place, this.#host)
  }
}
