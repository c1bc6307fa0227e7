// Shared by the tests of the network device.

import type { DescriptorChain } from "../queue/chain.js"
import { direct, type FrontDoor, MockDriver, type MockDriverOptions } from "../testing/index.js"
import { NET_HEADER_SIZE, PACKET_HEAD_SIZE } from "./defs.js"
import {
  NetDevice,
  type NetDeviceOptions,
  type NetPort,
  type PacketSender,
  type PacketSink,
} from "./index.js"

/** A frame as a port saw it. */
export interface SeenFrame {
  readonly frame: Uint8Array
  readonly header: Uint8Array
  readonly pair: number
}

/** A port that keeps what the guest sends, while it has room. */
export class Cable implements NetPort {
  readonly offloads: bigint
  readonly queuePairs: number
  readonly seen: SeenFrame[] = []
  room = Number.POSITIVE_INFINITY
  resumed = 0
  /** What the device said last. */
  guestOffloads = 0n
  pairsInUse = 1
  deliver: (frame: Uint8Array, header?: Uint8Array, pair?: number) => boolean = () => false
  onRoom: (pair?: number) => void = () => undefined
  onLink: (isUp: boolean) => void = () => undefined

  constructor({ offloads = 0n, queuePairs = 1 }: { offloads?: bigint; queuePairs?: number } = {}) {
    this.offloads = offloads
    this.queuePairs = queuePairs
  }

  /** The frames of the guest alone. */
  get sent(): Uint8Array[] {
    return this.seen.map(({ frame }) => frame)
  }

  attach(deliver: Cable["deliver"], onRoom: Cable["onRoom"], onLink: Cable["onLink"]): void {
    Object.assign(this, { deliver, onRoom, onLink })
  }

  send(frame: Uint8Array, header: Uint8Array = new Uint8Array(12), pair = 0): boolean {
    if (this.seen.length >= this.room) return false
    this.seen.push({ frame: frame.slice(), header: header.slice(), pair })
    return true
  }

  resume(): void {
    this.resumed++
  }

  setOffloads(features: bigint): void {
    this.guestOffloads = features
  }

  setQueuePairs(count: number): void {
    this.pairsInUse = count
  }

  close(): void {
    this.room = 0
  }
}

/** So many wait for a flush at most. */
const PACKETS_AT_ONCE = 32

/** A cable that takes packets out of the guest's memory, when it is flushed and not before. */
export class PacketCable extends Cable implements PacketSender {
  readonly packets = this
  deliverPacket: PacketSink = () => false
  readonly #waiting: (() => void)[] = []
  #head = new Uint8Array(PACKET_HEAD_SIZE)

  override attach(...sinks: Parameters<NetPort["attach"]>): void {
    const [deliver, onRoom, onLink = () => undefined, deliverPacket = () => false] = sinks
    Object.assign(this, { deliver, onRoom, onLink, deliverPacket })
  }

  packetHead(): Uint8Array | undefined {
    if (this.#waiting.length === PACKETS_AT_ONCE || this.seen.length >= this.room) return undefined
    this.#head = new Uint8Array(PACKET_HEAD_SIZE)
    return this.#head
  }

  sendPacket(pair: number, length: number, chain: DescriptorChain): boolean {
    const parts = [this.#head.subarray(0, length), ...chain.readableSlices(length)]
    this.#waiting.push(() => {
      const packet = Uint8Array.from(parts.flatMap(part => [...part]))
      this.seen.push({ frame: packet.slice(NET_HEADER_SIZE), header: packet.slice(0, NET_HEADER_SIZE), pair })
    })
    return true
  }

  flushPackets(): number {
    const fit = Math.max(0, this.room - this.seen.length)
    for (const send of this.#waiting.splice(0, fit)) send()
    return this.#waiting.splice(0).length
  }
}

/** A device on a cable, and a driver for it. */
export interface Rig<Port extends Cable = Cable> extends AsyncDisposable {
  readonly cable: Port
  readonly device: NetDevice
  readonly driver: MockDriver
}

export async function makeRig<Port extends Cable = Cable>(
  cable: Port = new Cable() as Port,
  driverOptions: MockDriverOptions = {},
  options: NetDeviceOptions = {},
  over: FrontDoor = direct,
): Promise<Rig<Port>> {
  const device = new NetDevice(cable, options)
  const queueSizes = device.queueSizes.map(() => 64)
  const driver = await MockDriver.attach(device, over, { queueSizes, ...driverOptions })
  return { cable, device, driver, [Symbol.asyncDispose]: () => driver[Symbol.asyncDispose]() }
}

/** Bytes of an address, `10.0.0.1`. */
const ipBytes = (address: string) => address.split(".").map(Number)
const macBytes = (mac: string) => mac.split(":").map(part => Number.parseInt(part, 16))
const u16 = (value: number) => [value >> 8, value & 255]

/** The sum of RFC 1071, not complemented. */
export function onesSum(bytes: ArrayLike<number>): number {
  let sum = 0
  for (let i = 0; i < bytes.length; i += 2) sum += ((bytes[i] as number) << 8) | (bytes[i + 1] ?? 0)
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >> 16)
  return sum
}

/** Where a UDP or TCP packet begins in a frame of {@link ipv4Frame}. */
export const TRANSPORT_AT = 34

/** Who sends to whom. */
export interface Route {
  readonly fromMac: string
  readonly toMac: string
  readonly from: string
  readonly to: string
}

export const ROUTE: Route = {
  fromMac: "02:00:00:00:00:01",
  toMac: "02:00:00:00:00:02",
  from: "10.0.0.1",
  to: "10.0.0.2",
}

/**
 * A UDP datagram (protocol 17) or TCP segment (6) in IPv4 in Ethernet. Its checksum field has the sum of the pseudo header
 * only, as who asks for `VIRTIO_NET_HDR_F_NEEDS_CSUM` leaves it.
 */
export function ipv4Frame(
  protocol: 6 | 17,
  ports: readonly [from: number, to: number],
  payload: Uint8Array,
  route: Route = ROUTE,
): Uint8Array {
  const size = (protocol === 6 ? 20 : 8) + payload.length
  const addresses = [...ipBytes(route.from), ...ipBytes(route.to)]
  const pseudo = onesSum([...addresses, 0, protocol, ...u16(size)])
  const ip = [0x45, 0, ...u16(20 + size), 0, 0, 0, 0, 64, protocol, 0, 0, ...addresses]
  ip.splice(10, 2, ...u16(~onesSum(ip) & 0xffff))
  const transport =
    protocol === 17
      ? [...ports.flatMap(u16), ...u16(size), ...u16(pseudo)]
      : [...ports.flatMap(u16), 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x10, 0xff, 0xff, ...u16(pseudo), 0, 0]
  return Uint8Array.from([
    ...macBytes(route.toMac),
    ...macBytes(route.fromMac),
    8,
    0,
    ...ip,
    ...transport,
    ...payload,
  ])
}

/** Fields of a `struct virtio_net_hdr_v1`. */
export interface HeaderFields {
  readonly flags?: number
  readonly gsoType?: number
  readonly headerLength?: number
  readonly gsoSize?: number
  readonly csumStart?: number
  readonly csumOffset?: number
}

export function makeHeader(fields: HeaderFields = {}): Uint8Array {
  const { flags = 0, gsoType = 0, headerLength = 0, gsoSize = 0, csumStart = 0, csumOffset = 0 } = fields
  const view = new DataView(new ArrayBuffer(12))
  view.setUint8(0, flags)
  view.setUint8(1, gsoType)
  for (const [index, value] of [headerLength, gsoSize, csumStart, csumOffset].entries())
    view.setUint16(2 + 2 * index, value, true)
  return new Uint8Array(view.buffer)
}
