import * as defs from "./defs.js"

const VALUES: Readonly<Record<number, number>> = {
  [defs.VIRTIO_MMIO_MAGIC_VALUE]: defs.VIRTIO_MMIO_MAGIC,
  [defs.VIRTIO_MMIO_VERSION]: defs.VIRTIO_MMIO_VERSION_2,
}

/**
 * A window without a device: device id 0 tells the driver to leave it alone. The seat of a device that comes later.
 *
 * @see virtio 1.3, section 4.2.3.1
 *
 * @example
 * ```ts
 * import { EmptyMmioSlot } from "@ts-vmm/virtio-devices/mmio"
 *
 * new EmptyMmioSlot().read(0, bytes)   // "virt"
 * ```
 */
export class EmptyMmioSlot {
  /** The guest reads: magic and version, zeroes elsewhere. */
  read(offset: number, into: Uint8Array): void {
    into.fill(0)
    if (into.length === 4)
      new DataView(into.buffer, into.byteOffset, 4).setUint32(0, VALUES[offset] ?? 0, true)
  }

  /** The guest writes: nothing takes it. */
  write(_offset: number, _from: Uint8Array): void {
    // Not even counted: there is nobody to tell.
  }
}
