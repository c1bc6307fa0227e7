import { closeFd } from "@ts-vmm/native"
import type { DeviceContext } from "../device.js"
import { VIRTIO_ID } from "../ids.js"
import { makeNetConfig, readNetConfig } from "../net/config-space.js"
import * as net from "../net/defs.js"
import { randomMac } from "../net/mac.js"
import { setOffloads, type Tap } from "../net/tap/open-tap.js"
import { VHOST_FILE_UNBIND, VHOST_NET_NODE } from "./defs.js"
import { VhostDevice } from "./vhost-device.js"
import { type IoctlCall, VhostFd } from "./vhost-fd.js"

/** Options of {@link VhostNetDevice}. */
export interface VhostNetDeviceOptions {
  /** `02:00:00:00:00:01`; unicast. Default: a random, locally administered address. */
  readonly mac?: string
  /** Largest packet in bytes, 68 to 65,535, without the Ethernet header. Default: that of the tap device. */
  readonly mtu?: number
}

/** Receive and transmit. */
const RING_COUNT = 2
const QUEUE_SIZE = 256

/**
 * A virtio network device whose frames go between the guest and a tap device inside the kernel, past this process.
 *
 * Unlike with `NetDevice` on a `TapPort`, nothing here sees a frame, so none is filtered, and what the guest writes of
 * frames and headers the host's kernel parses. There is no control queue: no receive filters (the guest gets all that
 * the tap device has), one queue pair, a MAC address that stays. The link is always up; a tap device that is deleted
 * breaks the device when the guest next sends.
 *
 * @see linux/vhost.h; virtio 1.3, section 5.1
 *
 * @example
 * ```ts
 * import { openTap } from "@ts-vmm/virtio-devices/net/tap"
 * import { VhostNetDevice } from "@ts-vmm/virtio-devices/vhost"
 *
 * const card = VhostNetDevice.open(openTap({ name: "tap0" }))
 * const machine = await MicroVm.create({ kernel: "vmlinux", memoryMiB: 256, devices: [card] })
 * ```
 */
export class VhostNetDevice extends VhostDevice {
  readonly type = VIRTIO_ID.net
  readonly queueSizes: readonly number[] = [QUEUE_SIZE, QUEUE_SIZE]
  readonly features: bigint
  readonly #config: DataView
  readonly #tap: number
  readonly #ioctl: IoctlCall | undefined
  #isClosed = false

  /**
   * @param vhost - an open `/dev/vhost-net`, and
   * @param tap - an open tap device: both become the device's when this returns
   * @param call - for requests to the tap device; default: the kernel's
   * @throws RangeError for an option out of its range, or a tap device with several queue pairs
   * @throws VhostError `unsuitable`, `ioctl`
   */
  constructor(vhost: VhostFd, tap: Tap, options: VhostNetDeviceOptions = {}, call?: IoctlCall) {
    const { mac = randomMac(), mtu = tap.mtu } = options
    const config = makeNetConfig(mac, mtu, 1)
    if (tap.fds.length !== 1) throw new RangeError("the kernel serves one queue pair of a tap device")
    super(vhost, RING_COUNT)
    this.#config = config
    this.#tap = tap.fds[0] as number
    this.#ioctl = call
    this.features =
      net.VIRTIO_NET_F_MAC |
      net.VIRTIO_NET_F_MTU |
      (this.kernelFeatures & net.VIRTIO_NET_F_MRG_RXBUF) |
      (tap.offloads & (net.HOST_OFFLOADS | net.GUEST_OFFLOADS))
  }

  /**
   * Opens `/dev/vhost-net` for a tap device, which becomes the device's; it stays the caller's when this throws.
   *
   * @throws RangeError as the constructor; VhostError `unavailable`, `unsuitable`, `ioctl`
   */
  static open(tap: Tap, options: VhostNetDeviceOptions = {}): VhostNetDevice {
    const vhost = VhostFd.open(VHOST_NET_NODE)
    try {
      return new VhostNetDevice(vhost, tap, options)
    } catch (error) {
      vhost.close()
      throw error
    }
  }

  readConfig(offset: number, into: Uint8Array): void {
    readNetConfig(this.#config, offset, into)
  }

  override close(): void {
    if (this.#isClosed) return
    this.#isClosed = true
    super.close()
    closeFd(this.#tap)
  }

  protected run({ features }: DeviceContext, rings: readonly number[]): void {
    this.#setOffloads(features & net.GUEST_OFFLOADS)
    for (const index of rings) this.vhost.netSetBackend(index, this.#tap)
  }

  protected halt(rings: readonly number[]): void {
    for (const index of rings) this.vhost.netSetBackend(index, VHOST_FILE_UNBIND)
    this.#setOffloads(0n)
  }

  /** An interface that is deleted refuses: then there are no frames to be finished. */
  #setOffloads(features: bigint): void {
    try {
      setOffloads(this.#tap, features, this.#ioctl)
    } catch {
      // Nothing to be done, and nothing that the guest did.
    }
  }
}
