import type { DescriptorChain } from "../queue/chain.js"

/**
 * Takes a frame; false: there is no room now, and the sink's owner will say when there is.
 *
 * `header` is a `struct virtio_net_hdr_v1` (virtio 1.3, 5.1.6), 12 bytes, of a frame that is not finished: its checksum
 * is to be completed, or it is to be cut into packets. Left out, or all zero: nothing is to be done. `pair` is the number
 * of the queue pair, 0 by default.
 */
export type FrameSink = (frame: Uint8Array, header?: Uint8Array, pair?: number) => boolean

/** As {@link FrameSink}, of a packet: a `struct virtio_net_hdr_v1` and the frame behind it, in one piece. */
export type PacketSink = (packet: Uint8Array, pair: number) => boolean

/** Sends packets out of the guest's own memory, many in one call: what is long in them is not copied on the way. */
export interface PacketSender {
  /**
   * Where the beginning of the next packet goes, which lies in `chain`: `PACKET_HEAD_SIZE` bytes, to be filled in before
   * {@link sendPacket} and not touched afterwards. Undefined when those before have to be flushed first, and, with none
   * before, when there is no room.
   */
  packetHead(pair: number, chain: DescriptorChain): Uint8Array | undefined
  /**
   * Takes the first `length` bytes of the head, and of `chain`, which is looked at in this call only, all that is behind as
   * many bytes.
   *
   * @returns true when the chain is lent until {@link flushPackets}, false when its packet is lost and nobody needs it
   */
  sendPacket(pair: number, length: number, chain: DescriptorChain): boolean
  /**
   * Sends what was taken. The chains may be completed.
   *
   * @returns how many, the last of them, there was no room for: to be sent anew when the port says that it has some
   */
  flushPackets(pair: number): number
}

/**
 * The other end of a network device's cable: a tap device, a user-mode network stack, a bridge, a test. Ethernet frames
 * go both ways, without a frame check sequence; whoever is full says so, and nothing is queued without limit.
 *
 * What is optional is for ports that do more than move frames; the device offers its driver what the port says it does.
 */
export interface NetPort {
  /**
   * Offloads that it takes over, as feature bits of virtio-net: of `VIRTIO_NET_F_CSUM` and `VIRTIO_NET_F_HOST_*` what it
   * does with frames of the guest, of `VIRTIO_NET_F_GUEST_*` what it leaves undone in frames for it. Default none.
   */
  readonly offloads?: bigint
  /** Queue pairs, 1 to 16. Default 1. */
  readonly queuePairs?: number
  /**
   * Connects the device: frames for the guest go to `deliver`, which is called again with the same frame after
   * {@link resume} when it returned false. A port that knows whether its other end is there says so to `onLink`. One that
   * has frames with their headers gives them to `deliverPacket`, as to `deliver`.
   */
  attach(
    deliver: FrameSink,
    onRoom: (pair?: number) => void,
    onLink?: (isUp: boolean) => void,
    deliverPacket?: PacketSink,
  ): void
  /** A frame of the guest, which it may change at once: copy it. False when there is no room: `onRoom` follows. */
  send: FrameSink
  /** A faster way than {@link send}, for a port that has one. */
  readonly packets?: PacketSender | undefined
  /** Nothing more follows on a pair for now: what `send` kept back to do it at once is to go. */
  flush?(pair?: number): void
  /** The guest has room again. */
  resume(pair?: number): void
  /** From now on the guest takes these of the `VIRTIO_NET_F_GUEST_*` bits of {@link offloads}; none before the first call. */
  setOffloads?(features: bigint): void
  /** From now on the guest uses this many pairs; 1 before the first call. */
  setQueuePairs?(count: number): void
  /** Ends the connection. */
  close(): void
}
