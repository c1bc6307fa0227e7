import type { GuestAddress } from "@ts-vmm/vm-memory"

/** A piece of {@link DeviceMemory}: memory of this process. */
export interface DeviceMemoryPart {
  /** Address in this process, a multiple of 4096, as `Mapping.hostAddress`. It stays as long as the guest runs. */
  readonly hostAddress: bigint
  /** Bytes, a multiple of 4096. */
  readonly size: number
  /** The guest cannot write to it. */
  readonly readOnly: boolean
}

/**
 * Guest address space that a device has beside what the guest is told to be RAM (virtio-pmem, virtio-mem). Whoever runs the
 * guest looks for a place, shows there what the device says, and tells it where that is, before the guest's first
 * instruction.
 */
export interface DeviceMemory {
  /** Bytes. */
  readonly size: number
  /** Power of two that its first address is a multiple of. */
  readonly alignment: number
  /**
   * What is there: memory of the device's, one part after the other, which buffers of other devices cannot lie in; or
   * `ram`: guest RAM, made for it, of which the guest is not told at boot.
   */
  readonly parts: readonly DeviceMemoryPart[] | "ram"
  /** It is at guest address `start`. */
  placedAt(start: GuestAddress): void
}

/**
 * A piece of guest address space that a device shares with its driver (a DAX window, say).
 *
 * @see virtio 1.3, section 2.10
 */
export interface SharedMemoryRegion {
  /** Id by which the device type knows it, 0 to 255. */
  readonly id: number
  /** Guest address. */
  readonly base: number
  /** Bytes. */
  readonly length: number
}
