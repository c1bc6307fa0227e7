import { type FrameSink, NET_HEADER_SIZE, type NetPort, type PacketSender } from "@ts-vmm/virtio-devices/net"
import { FrameFilter, type GuestIdentity } from "./frame-filter.js"

/** Lets of a guest's frames through to another port what {@link FrameFilter} allows. */
export class FilteredPort implements NetPort {
  /** Frames that were not let through. */
  refused = 0
  readonly offloads: bigint
  readonly queuePairs: number
  readonly packets: PacketSender | undefined
  readonly #port: NetPort
  readonly #filter: FrameFilter

  constructor(port: NetPort, guest: GuestIdentity) {
    this.#port = port
    this.#filter = new FrameFilter(guest)
    this.offloads = port.offloads ?? 0n
    this.queuePairs = port.queuePairs ?? 1
    this.packets = port.packets && this.#filtered(port.packets)
  }

  attach(...sinks: Parameters<NetPort["attach"]>): void {
    this.#port.attach(...sinks)
  }

  send(...[frame, header, pair]: Parameters<FrameSink>): boolean {
    return this.#allows(frame) ? this.#port.send(frame, header, pair) : true
  }

  flush(pair?: number): void {
    this.#port.flush?.(pair)
  }

  resume(pair?: number): void {
    this.#port.resume(pair)
  }

  setOffloads(features: bigint): void {
    this.#port.setOffloads?.(features)
  }

  setQueuePairs(count: number): void {
    this.#port.setQueuePairs?.(count)
  }

  close(): void {
    this.#port.close()
  }

  /** Only the copied head of a packet is looked at: the guest can change the rest, and headers that go on in there are none. */
  #filtered(packets: PacketSender): PacketSender {
    let head: Uint8Array | undefined
    return {
      packetHead: (pair, chain) => {
        head = packets.packetHead(pair, chain)
        return head
      },
      sendPacket: (pair, length, chain) => {
        const isAllowed = head !== undefined && this.#allows(head.subarray(NET_HEADER_SIZE, length))
        return isAllowed && packets.sendPacket(pair, length, chain)
      },
      flushPackets: pair => packets.flushPackets(pair),
    }
  }

  #allows(frame: Uint8Array): boolean {
    const isAllowed = this.#filter.allows(Buffer.from(frame.buffer, frame.byteOffset, frame.length))
    if (!isAllowed) this.refused++
    return isAllowed
  }
}
