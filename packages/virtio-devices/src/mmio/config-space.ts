import type { VirtioDevice } from "../device.js"
import { VIRTIO_MMIO_CONFIG, VIRTIO_MMIO_WINDOW_SIZE } from "./defs.js"

/** Config space that fits the window. */
const ROOM = VIRTIO_MMIO_WINDOW_SIZE - VIRTIO_MMIO_CONFIG
/** What is watched for changes: no device type has more (vhost-user draws its line here too). */
const WATCHED = 256

/**
 * Config space of one device, and its generation. A driver reads the generation, then the fields, then the
 * generation again, and believes the fields when it has not changed. So it is enough to look at what config space
 * holds each time the generation is read, whether or not the device said that something changed.
 *
 * @see virtio 1.3, section 2.5 and 4.2.2
 */
export class ConfigSpace {
  readonly #device: VirtioDevice
  readonly #onError: (error: Error) => void
  #generation = 0
  #seen = new Uint8Array(WATCHED)
  #now = new Uint8Array(WATCHED)

  /** @param onError told what a device throws, instead of the guest's access */
  constructor(device: VirtioDevice, onError: (error: Error) => void) {
    this.#device = device
    this.#onError = onError
  }

  /** Reads what the device has there; zeroes behind its end. @returns false when it leaves the window */
  read(offset: number, into: Uint8Array): boolean {
    into.fill(0)
    const inside = clamp(offset, into)
    if (inside.length > 0) this.#guard(() => this.#device.readConfig?.(offset, inside))
    return inside.length === into.length
  }

  /** @returns false when nothing can be written there */
  write(offset: number, from: Uint8Array): boolean {
    const inside = clamp(offset, from)
    if (inside.length !== from.length || !this.#device.writeConfig) return false
    this.#guard(() => this.#device.writeConfig?.(offset, inside))
    return true
  }

  /** The device says that something changed. */
  changed(): void {
    this.#generation = (this.#generation + 1) >>> 0
  }

  /** The generation register. */
  generation(): number {
    this.read(0, this.#now)
    if (this.#now.some((byte, i) => byte !== this.#seen[i])) this.changed()
    ;[this.#seen, this.#now] = [this.#now, this.#seen]
    return this.#generation
  }

  #guard(access: () => void): void {
    try {
      access()
    } catch (error) {
      this.#onError(error instanceof Error ? error : new Error(String(error)))
    }
  }
}

/** The part of an access that lies in the window. */
function clamp(offset: number, bytes: Uint8Array): Uint8Array {
  return bytes.subarray(0, Math.max(0, Math.min(bytes.length, ROOM - offset)))
}
