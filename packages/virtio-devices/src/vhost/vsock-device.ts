import type { DeviceContext } from "../device.js"
import { VIRTIO_ID } from "../ids.js"
import * as defs from "./defs.js"
import { VhostError } from "./errors.js"
import { VhostDevice } from "./vhost-device.js"
import { VhostFd } from "./vhost-fd.js"

/** Options of {@link VhostVsockDevice}. */
export interface VhostVsockDeviceOptions {
  /** The guest's address, 3 to 2^32 - 2; one guest of the host has it at a time. */
  readonly guestCid: number
}

/** Receive and transmit. The event queue behind them is for guests that move to another host: nothing uses it. */
const RING_COUNT = 2
const QUEUE_SIZE = 256

/**
 * A virtio socket device that the host's kernel serves: programs of the host reach the guest by AF_VSOCK, and the guest
 * reaches what listens on the host by CID 2. `VsockDevice` of `@ts-vmm/vsock` keeps connections in this process
 * instead; a guest uses one of the two.
 *
 * @see linux/vhost.h; vsock(7); virtio 1.3, section 5.10
 *
 * @example
 * ```ts
 * import { VhostVsockDevice } from "@ts-vmm/virtio-devices/vhost"
 *
 * const vsock = VhostVsockDevice.open({ guestCid: 42 })
 * const machine = await MicroVm.create({ kernel: "vmlinux", memoryMiB: 256, devices: [vsock] })
 * // then, on the host: socat - VSOCK-CONNECT:42:1024
 * ```
 */
export class VhostVsockDevice extends VhostDevice {
  readonly type = VIRTIO_ID.vsock
  readonly queueSizes: readonly number[] = [QUEUE_SIZE, QUEUE_SIZE, QUEUE_SIZE]
  readonly features: bigint
  readonly #config = new Uint8Array(defs.VSOCK_CONFIG_SIZE)

  /**
   * @param vhost - an open `/dev/vhost-vsock`, which becomes the device's when this returns
   * @throws RangeError for a CID that is no guest's; VhostError `unsuitable`, `ioctl` (`EADDRINUSE`: the CID is taken)
   */
  constructor(vhost: VhostFd, { guestCid }: VhostVsockDeviceOptions) {
    const { MIN_GUEST_CID, MAX_GUEST_CID } = defs
    if (!(Number.isInteger(guestCid) && guestCid >= MIN_GUEST_CID && guestCid <= MAX_GUEST_CID))
      throw new RangeError(`a guest's CID is ${MIN_GUEST_CID} to ${MAX_GUEST_CID}, not ${guestCid}`)
    super(vhost, RING_COUNT)
    vhost.vsockSetGuestCid(guestCid)
    this.features = this.kernelFeatures & defs.VIRTIO_VSOCK_F_SEQPACKET
    new DataView(this.#config.buffer).setBigUint64(0, BigInt(guestCid), true)
  }

  /**
   * Opens `/dev/vhost-vsock`.
   *
   * @throws RangeError as the constructor; VhostError `unavailable`, `unsuitable`, `ioctl`
   */
  static open(options: VhostVsockDeviceOptions): VhostVsockDevice {
    const vhost = VhostFd.open(defs.VHOST_VSOCK_NODE)
    try {
      return new VhostVsockDevice(vhost, options)
    } catch (error) {
      vhost.close()
      throw error
    }
  }

  readConfig(offset: number, into: Uint8Array): void {
    into.fill(0)
    into.set(this.#config.subarray(offset).subarray(0, into.length))
  }

  protected run(_ctx: DeviceContext, rings: readonly number[]): void {
    if (rings.length < RING_COUNT) throw new VhostError("ring", "the driver set up only one of two rings")
    this.vhost.vsockSetRunning(true)
  }

  protected halt(): void {
    this.vhost.vsockSetRunning(false)
  }
}
