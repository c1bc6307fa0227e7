import { closeFd, drain, eventFd, Poller, signal } from "@ts-vmm/native"
import type { DeviceContext, ExternalDevice, RingHost } from "../device.js"
import { VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC, VIRTIO_F_VERSION_1 } from "../features.js"
import { hostAddress } from "../host-address.js"
import { availRingSize, usedRingSize, VIRTQ_DESC_SIZE } from "../queue/defs.js"
import type { QueueConfig } from "../queue/virt-queue.js"
import { VHOST_FILE_UNBIND } from "./defs.js"
import { VhostError } from "./errors.js"
import type { VhostFd, VringAddresses } from "./vhost-fd.js"

const RING_FEATURES = VIRTIO_F_INDIRECT_DESC | VIRTIO_F_EVENT_IDX | VIRTIO_F_VERSION_1

/**
 * What devices have in common whose rings the kernel serves.
 *
 * ```
 *   open: owner          activate                            reset, or a ring that the kernel gives up
 *     ------> idle -----------------------------> serving ------------------------.
 *              ^       features, memory, rings,                                   |
 *              |       run                                  halt, bases, fds off  |
 *              '------------------------------------------------------------------'
 * ```
 *
 * Every step is a system call that has ended when it returns: once `reset` is back, the kernel touches no ring.
 */
export abstract class VhostDevice implements ExternalDevice {
  abstract readonly type: number
  abstract readonly queueSizes: readonly number[]
  abstract readonly features: bigint
  readonly servedBy = "kernel"
  readonly ringFeatures: bigint
  protected readonly vhost: VhostFd
  /** What the kernel knows: no other bit is told to it. */
  protected readonly kernelFeatures: bigint
  /** Rings of the kernel; queues behind them are nobody's. */
  readonly #ringCount: number
  #host: RingHost | undefined
  #running: readonly number[] = []
  #faults: RingFaults | undefined

  /**
   * @param vhost - becomes the device's when this returns
   * @throws VhostError `unsuitable`, `ioctl`
   */
  protected constructor(vhost: VhostFd, ringCount: number) {
    this.vhost = vhost
    this.#ringCount = ringCount
    this.kernelFeatures = vhost.getFeatures()
    if ((this.kernelFeatures & VIRTIO_F_VERSION_1) === 0n)
      throw new VhostError("unsuitable", "the kernel's vhost has no virtio 1.0 (VIRTIO_F_VERSION_1)")
    this.ringFeatures = this.kernelFeatures & RING_FEATURES
    vhost.setOwner()
  }

  /** The rings are set up: the kernel is to serve them. @throws VhostError */
  protected abstract run(ctx: DeviceContext, rings: readonly number[]): void
  /** The kernel is to leave them alone. @throws VhostError */
  protected abstract halt(rings: readonly number[]): void

  abstract readConfig(offset: number, into: Uint8Array): void

  attachHost(host: RingHost): void {
    this.#host = host
  }

  /** @throws VhostError, by which the transport breaks the device */
  activate(ctx: DeviceContext): void {
    const host = this.#host
    if (!host) throw new VhostError("unsuitable", "a device of the kernel needs a machine with eventfds")
    try {
      this.#start(ctx, host)
    } catch (error) {
      this.#stop()
      throw error
    }
  }

  /** Only what came without an eventfd: an access of an odd width. */
  notify(index: number): void {
    const kick = this.#host?.kicks[index]
    if (kick !== undefined) signal(kick, "eventfd")
  }

  reset(): void {
    this.#stop()
  }

  /** The kernel lets go of the guest. Idempotent. */
  close(): void {
    this.#stop()
    this.vhost.close()
  }

  #start(ctx: DeviceContext, host: RingHost): void {
    const rings = [...Array(this.#ringCount).keys()].filter(index => ctx.hasQueue(index))
    this.vhost.setFeatures(ctx.features & this.kernelFeatures)
    this.vhost.setMemTable(host.regions())
    this.#faults = new RingFaults(() => this.#broke(ctx))
    this.#running = rings
    for (const index of rings) this.#setUp(index, ctx.queueConfig(index) as QueueConfig, host, this.#faults)
    this.run(ctx, rings)
    // What the driver said while nobody listened.
    for (const index of rings) this.notify(index)
  }

  #setUp(index: number, queue: QueueConfig, host: RingHost, faults: RingFaults): void {
    const { vhost } = this
    vhost.setVringNum(index, queue.size)
    vhost.setVringBase(index, 0)
    vhost.setVringAddr(index, addressesOf(queue, host))
    vhost.setVringErr(index, faults.fd)
    vhost.setVringCall(index, host.call)
    vhost.setVringKick(index, host.kicks[index] as number)
  }

  /** Where the kernel does not let go in good order, only closing it takes the guest's memory from it. */
  #stop(): void {
    const rings = this.#running
    this.#running = []
    this.#faults?.close()
    this.#faults = undefined
    if (rings.length === 0 || this.vhost.closed) return
    try {
      this.halt(rings)
      for (const index of rings) this.#takeBack(index)
    } catch {
      this.vhost.close()
    }
  }

  #takeBack(index: number): void {
    this.vhost.getVringBase(index)
    this.vhost.setVringKick(index, VHOST_FILE_UNBIND)
    this.vhost.setVringCall(index, VHOST_FILE_UNBIND)
    this.vhost.setVringErr(index, VHOST_FILE_UNBIND)
  }

  #broke(ctx: DeviceContext): void {
    this.#stop()
    const why = "the driver broke it, or what it leads to is gone"
    ctx.fail(new VhostError("ring", `the kernel gave up a ring: ${why}`))
  }
}

/** An eventfd on which the kernel says that it gave up a ring: once is enough. */
class RingFaults {
  readonly fd = eventFd()
  readonly #poller: Poller

  constructor(onFault: () => void) {
    this.#poller = new Poller(this.fd, "readable", () => {
      if (drain(this.fd) > 0) onFault()
    })
  }

  close(): void {
    this.#poller.close()
    closeFd(this.fd)
  }
}

/** The kernel goes by addresses of this process, so a ring that is not all guest RAM must not reach it. @throws VhostError `ring` */
function addressesOf({ size, desc, driver, device }: QueueConfig, host: RingHost): VringAddresses {
  const regions = host.regions()
  const inHost = (address: number, bytes: number): bigint => {
    const found = hostAddress(regions, address, bytes)
    if (found !== undefined) return found
    throw new VhostError("ring", `a ring of ${bytes} bytes at 0x${address.toString(16)} is not in guest RAM`)
  }
  return {
    desc: inHost(desc, size * VIRTQ_DESC_SIZE),
    avail: inHost(driver, availRingSize(size)),
    used: inHost(device, usedRingSize(size)),
  }
}
