import type { DeviceContext, VirtioDevice } from "../device.js"
import { hasFeature } from "../features.js"
import { VIRTIO_ID } from "../ids.js"
import { makeNetConfig, readNetConfig } from "./config-space.js"
import { type ControlTarget, runCommand } from "./control.js"
import { type NetCounters, newCounters } from "./counters.js"
import * as defs from "./defs.js"
import { formatMac, MAC_SIZE, randomMac } from "./mac.js"
import type { NetPort } from "./port.js"
import { ReceiveFilter } from "./receive-filter.js"
import { Receiver } from "./receiver.js"
import { Transmitter } from "./transmitter.js"

/** Options of {@link NetDevice}. */
export interface NetDeviceOptions {
  /** `02:00:00:00:00:01`; unicast. Default: a random, locally administered address. */
  readonly mac?: string
  /** Largest packet in bytes, 68 to 65,535, without the Ethernet header. Default 1500. */
  readonly mtu?: number
}

/** Of the control queue as well: User Mode Linux makes every queue as large as this. */
const QUEUE_SIZE = 256

const OWN_FEATURES =
  defs.VIRTIO_NET_F_MTU |
  defs.VIRTIO_NET_F_MAC |
  defs.VIRTIO_NET_F_MRG_RXBUF |
  defs.VIRTIO_NET_F_STATUS |
  defs.VIRTIO_NET_F_CTRL_VQ |
  defs.VIRTIO_NET_F_CTRL_RX |
  defs.VIRTIO_NET_F_CTRL_RX_EXTRA |
  defs.VIRTIO_NET_F_CTRL_VLAN |
  defs.VIRTIO_NET_F_CTRL_MAC_ADDR |
  defs.VIRTIO_NET_F_GUEST_ANNOUNCE

/** What there is while a driver is at work. */
interface Active {
  readonly ctx: DeviceContext
  readonly receiver: Receiver
  readonly transmitter: Transmitter
  readonly filter: ReceiveFilter
  readonly controlQueue: number
  pairs: number
}

/**
 * A virtio network device: moves Ethernet frames between the guest and a {@link NetPort}. What the port does of
 * checksums and segmentation is offered to the driver; without that every frame is whole and has its checksums. Receive
 * buffers are merged, so a large MTU, or a frame yet to be cut up, needs no large buffers. Every header of the guest is
 * checked before the port sees it.
 *
 * @see virtio 1.3, section 5.1
 *
 * @example
 * ```ts
 * const device = new NetDevice(new StreamPort(socket), { mtu: 65_520 })
 * const server = serveVhostUser(device, { socketPath: "net.sock" })
 * ```
 */
export class NetDevice implements VirtioDevice {
  readonly type = VIRTIO_ID.net
  readonly queueSizes: readonly number[]
  readonly features: bigint
  readonly counters: NetCounters = newCounters()
  readonly #port: NetPort
  readonly #pairs: number
  readonly #config: DataView
  readonly #maxFrame: number
  readonly #ownMac: Uint8Array
  #active: Active | undefined

  /** @throws RangeError for an option, or a number of queue pairs, out of its range */
  constructor(port: NetPort, options: NetDeviceOptions = {}) {
    const { mac = randomMac(), mtu = 1500 } = options
    const { queuePairs = 1, offloads = 0n } = port
    if (!(Number.isInteger(queuePairs) && queuePairs >= 1 && queuePairs <= defs.MAX_QUEUE_PAIRS))
      throw new RangeError(`a port has 1 to ${defs.MAX_QUEUE_PAIRS} queue pairs`)
    this.#config = makeNetConfig(mac, mtu, queuePairs)
    this.#port = port
    this.#pairs = queuePairs
    this.#maxFrame = mtu + defs.ETHERNET_HEADER_SIZE
    this.queueSizes = new Array(2 * queuePairs + 1).fill(QUEUE_SIZE)
    this.features = OWN_FEATURES | offeredFor(offloads, queuePairs)
    this.#ownMac = this.#macBytes.slice()
    port.attach(
      (frame, header, pair = 0) => this.#receive(frame, header, pair),
      (pair = 0) => this.#active?.transmitter.drain(pair),
      isUp => this.setLink(isUp),
      (packet, pair) => this.#receivePacket(packet, pair),
    )
  }

  /** The address as it is now, as `02:00:00:00:00:01`: the driver can change it until the next reset. */
  get mac(): string {
    return formatMac(this.#macBytes)
  }

  /** True while the cable is in. */
  get isLinkUp(): boolean {
    return (this.#status & defs.VIRTIO_NET_S_LINK_UP) !== 0
  }

  readConfig(offset: number, into: Uint8Array): void {
    readNetConfig(this.#config, offset, into)
  }

  /** Takes the cable out, or puts it in; the guest is told. */
  setLink(isUp: boolean): void {
    if (isUp !== this.isLinkUp) this.#setStatus(defs.VIRTIO_NET_S_LINK_UP, isUp)
  }

  /**
   * Asks the guest to tell the network where it is now, after it moved. It acknowledges on the control queue; a driver that
   * did not negotiate this is not asked.
   *
   * @returns whether it was asked
   */
  announce(): boolean {
    const { features = 0n } = this.#active?.ctx ?? {}
    const canBeAsked = hasFeature(features, defs.VIRTIO_NET_F_GUEST_ANNOUNCE | defs.VIRTIO_NET_F_CTRL_VQ)
    if (canBeAsked) this.#setStatus(defs.VIRTIO_NET_S_ANNOUNCE, true)
    return canBeAsked
  }

  activate(ctx: DeviceContext): void {
    const hasVlans = hasFeature(ctx.features, defs.VIRTIO_NET_F_CTRL_VLAN)
    this.#active = {
      ctx,
      receiver: new Receiver(ctx, this.counters),
      transmitter: new Transmitter(ctx, this.#port, this.counters, this.#maxFrame),
      filter: new ReceiveFilter(this.#macBytes, hasVlans),
      // 5.1.2: behind the last pair that could be, if the driver knows of more than one.
      controlQueue: hasFeature(ctx.features, defs.VIRTIO_NET_F_MQ) ? 2 * this.#pairs : 2,
      pairs: 1,
    }
    this.#port.setQueuePairs?.(1)
    this.#port.setOffloads?.(ctx.features & defs.GUEST_OFFLOADS)
  }

  reset(): void {
    this.#active = undefined
    this.#macBytes.set(this.#ownMac)
    this.#config.setUint16(defs.CONFIG.status, this.#status & ~defs.VIRTIO_NET_S_ANNOUNCE, true)
    this.#port.setQueuePairs?.(1)
    this.#port.setOffloads?.(0n)
  }

  notify(index: number): void {
    const active = this.#active
    if (!active) return
    if (index === active.controlQueue) this.#control(active)
    else if (index >> 1 >= active.pairs) return
    else if (index % 2 === defs.RECEIVE_QUEUE) this.#port.resume(index >> 1)
    else active.transmitter.drain(index >> 1)
  }

  #control(active: Active): void {
    if (!hasFeature(active.ctx.features, defs.VIRTIO_NET_F_CTRL_VQ)) return
    const target: ControlTarget = {
      features: active.ctx.features,
      filter: active.filter,
      queuePairs: this.#pairs,
      setMac: mac => {
        this.#macBytes.set(mac)
        active.filter.setMac(mac)
      },
      announced: () => this.#setStatus(defs.VIRTIO_NET_S_ANNOUNCE, false),
      setQueuePairs: count => {
        active.pairs = count
        this.#port.setQueuePairs?.(count)
      },
      setOffloads: features => this.#port.setOffloads?.(features),
    }
    active.ctx.drain(active.controlQueue, chain => runCommand(chain, target))
  }

  /** @returns false while the guest has no buffers; without a guest frames are lost, as on a cable */
  #receive(frame: Uint8Array, header: Uint8Array | undefined, pair: number): boolean {
    const active = this.#active
    const isCut = header !== undefined && header[defs.HEADER.gsoType] !== 0
    if (!active || pair >= active.pairs || !this.#isFrame(frame.length, isCut)) return true
    if (active.filter.accepts(frame, 0))
      return active.receiver.deliver(2 * pair + defs.RECEIVE_QUEUE, frame, header)
    this.counters.filtered++
    return true
  }

  /** As {@link #receive}, of a frame behind its header. */
  #receivePacket(packet: Uint8Array, pair: number): boolean {
    const active = this.#active
    const isCut = packet[defs.HEADER.gsoType] !== 0
    const isFrame = this.#isFrame(packet.length - defs.NET_HEADER_SIZE, isCut)
    if (!active || pair >= active.pairs || !isFrame) return true
    if (active.filter.accepts(packet, defs.NET_HEADER_SIZE))
      return active.receiver.deliverPacket(2 * pair + defs.RECEIVE_QUEUE, packet)
    this.counters.filtered++
    return true
  }

  #isFrame(length: number, isCut: boolean): boolean {
    const most = isCut ? defs.MAX_FRAME_SIZE : this.#maxFrame + defs.VLAN_TAG_SIZE
    return length >= defs.ETHERNET_HEADER_SIZE && length <= most
  }

  get #macBytes(): Uint8Array {
    return new Uint8Array(this.#config.buffer, defs.CONFIG.mac, MAC_SIZE)
  }

  get #status(): number {
    return this.#config.getUint16(defs.CONFIG.status, true)
  }

  #setStatus(bit: number, on: boolean): void {
    this.#config.setUint16(defs.CONFIG.status, on ? this.#status | bit : this.#status & ~bit, true)
    this.#active?.ctx.configChanged()
  }
}

/** Features that depend on the port. */
function offeredFor(offloads: bigint, queuePairs: number): bigint {
  const known = offloads & (defs.HOST_OFFLOADS | defs.GUEST_OFFLOADS)
  const isSwitched = (known & defs.GUEST_OFFLOADS) !== 0n
  return (
    known |
    (isSwitched ? defs.VIRTIO_NET_F_CTRL_GUEST_OFFLOADS : 0n) |
    (queuePairs > 1 ? defs.VIRTIO_NET_F_MQ : 0n)
  )
}
