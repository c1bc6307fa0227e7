import type { DeviceContext } from "../device.js"
import type { DescriptorChain } from "../queue/chain.js"
import type { NetCounters } from "./counters.js"
import * as defs from "./defs.js"
import { HeaderCheck, isTagged, NO_HEADER } from "./header.js"
import type { NetPort, PacketSender } from "./port.js"

/** Headers of a frame that can be cut up are looked for in this many bytes of it. */
const HEAD_FRAME_SIZE = defs.PACKET_HEAD_SIZE - defs.NET_HEADER_SIZE
/** The longest header of a transport. */
const MAX_TRANSPORT_HEADER_SIZE = 60
/** A packet in more pieces is put together first: no system call takes more than 1024. */
const PACKET_PIECES = 1000

/** What became of a chain: it is the driver's again, the port's until its flush, or has to wait for room. */
type Outcome = "done" | "lent" | "full"

/** Takes frames out of the buffers of a guest that is there, and hands those that are sound to the port. */
export class Transmitter {
  readonly #ctx: DeviceContext
  readonly #port: NetPort
  readonly #packets: PacketSender | undefined
  readonly #counters: NetCounters
  readonly #check: HeaderCheck
  readonly #maxFrame: number
  readonly #header = new Uint8Array(defs.NET_HEADER_SIZE)
  /** A frame of the guest, copied once. */
  readonly #frame: Uint8Array
  /** What a drain does with a chain, by pair. */
  readonly #handlers: ((chain: DescriptorChain) => number | undefined)[] = []
  /** Chains that the port sends from where they are: the driver has them back after its flush, and no sooner. */
  readonly #lent: DescriptorChain[] = []

  /** @param maxFrame - of a finished frame without a VLAN tag, bytes */
  constructor(ctx: DeviceContext, port: NetPort, counters: NetCounters, maxFrame: number) {
    this.#ctx = ctx
    this.#port = port
    this.#packets = port.packets
    this.#counters = counters
    this.#maxFrame = maxFrame
    this.#check = new HeaderCheck(ctx.features)
    const canBeCut = (ctx.features & defs.HOST_OFFLOADS & ~defs.VIRTIO_NET_F_CSUM) !== 0n
    this.#frame = new Uint8Array(canBeCut ? defs.MAX_FRAME_SIZE : maxFrame + defs.VLAN_TAG_SIZE)
  }

  /** Sends what the guest has put on the queue of `pair`, a ring of it in one turn of the event loop. */
  drain(pair: number): void {
    this.#handlers[pair] ??= chain => this.#handle(chain, pair)
    this.#ctx.drain(queueOf(pair), this.#handlers[pair] as (chain: DescriptorChain) => number | undefined)
    this.#flush(pair)
    this.#putBack(pair)
  }

  #handle(chain: DescriptorChain, pair: number): number | undefined {
    const outcome = this.#send(chain, pair)
    if (outcome === "done") return 0
    if (outcome === "lent") this.#lent.push(chain)
    else {
      this.#ctx.unpop(queueOf(pair), chain) // the port says when it has room
      this.#putBack(pair)
    }
    return undefined
  }

  #send(chain: DescriptorChain, pair: number): Outcome {
    const length = chain.readableLength - defs.NET_HEADER_SIZE
    if (length < defs.ETHERNET_HEADER_SIZE || length > this.#frame.length) return this.#drop()
    const packets = chain.readableCount <= PACKET_PIECES ? this.#packets : undefined
    const outcome = packets && this.#sendPacket(packets, chain, pair, length)
    return outcome ?? this.#sendCopy(chain, pair, length)
  }

  #sendCopy(chain: DescriptorChain, pair: number, length: number): Outcome {
    const frame = this.#frame.subarray(0, length)
    if (chain.read(0, this.#header) !== defs.NET_HEADER_SIZE) return this.#drop()
    if (chain.read(defs.NET_HEADER_SIZE, frame) !== length) return this.#drop()
    const header = this.#check.check(this.#header, frame)
    if (!header || !this.#isInBounds(frame, length, header)) return this.#drop()
    // What was lent comes before it.
    if (this.#lent.length > 0 && !this.#flush(pair)) return "full"
    if (!this.#port.send(frame, header, pair)) return "full"
    this.#count(length)
    return "done"
  }

  /**
   * All that is looked at is copied before, and what is sent begins with that copy; the rest may be whatever the guest
   * makes of it meanwhile.
   *
   * @returns undefined when it has headers that do not fit into the copy
   */
  #sendPacket(
    packets: PacketSender,
    chain: DescriptorChain,
    pair: number,
    length: number,
  ): Outcome | undefined {
    let head = packets.packetHead(pair, chain)
    if (!head && this.#flush(pair)) head = packets.packetHead(pair, chain)
    if (!head) return "full"
    const copied = chain.read(0, head)
    if (copied !== Math.min(head.length, length + defs.NET_HEADER_SIZE)) return this.#drop()
    const start = (head[defs.HEADER.csumStart] as number) | ((head[defs.HEADER.csumStart + 1] as number) << 8)
    if (length > HEAD_FRAME_SIZE && start + MAX_TRANSPORT_HEADER_SIZE > HEAD_FRAME_SIZE) return undefined
    const header = this.#checkHead(head, copied, length)
    if (!header) return this.#drop()
    for (let i = 0; i < defs.NET_HEADER_SIZE; i++) head[i] = header[i] as number
    if (packets.sendPacket(pair, copied, chain)) return "lent"
    this.#count(length)
    return "done"
  }

  /** @returns what may be passed on of the header in `head`, behind which `copied` bytes end; undefined when it is wrong */
  #checkHead(head: Uint8Array, copied: number, length: number): Readonly<Uint8Array> | undefined {
    const needsNothing = head[defs.HEADER.flags] === 0 && head[defs.HEADER.gsoType] === 0
    // As most: a view of each of their frames would cost as much as all that is done with it here.
    if (needsNothing && length <= this.#maxFrame) return NO_HEADER
    const frame = head.subarray(defs.NET_HEADER_SIZE, copied)
    const header = this.#check.check(head, frame, length)
    return header && this.#isInBounds(frame, length, header) ? header : undefined
  }

  /** Completes what the port has sent. @returns false when it had no room for all */
  #flush(pair: number): boolean {
    const left = this.#packets?.flushPackets(pair) ?? 0
    const sent = this.#lent.length - left
    for (let i = 0; i < sent; i++) {
      const chain = this.#lent[i] as DescriptorChain
      this.#count(chain.readableLength - defs.NET_HEADER_SIZE)
      this.#ctx.complete(queueOf(pair), chain, 0)
    }
    this.#lent.splice(0, sent)
    if (left === 0) this.#port.flush?.(pair)
    return left === 0
  }

  /** What the port had no room for is sent anew when it has some. */
  #putBack(pair: number): void {
    for (const chain of this.#lent.reverse()) this.#ctx.unpop(queueOf(pair), chain)
    this.#lent.length = 0
  }

  #count(length: number): void {
    this.#counters.framesSent++
    this.#counters.bytesSent += length
  }

  /** Only what is yet to be cut up may be longer than the MTU allows. */
  #isInBounds(frame: Uint8Array, length: number, header: Readonly<Uint8Array>): boolean {
    const isCut = header !== NO_HEADER && header[defs.HEADER.gsoType] !== 0
    return isCut || length <= this.#maxFrame + (isTagged(frame) ? defs.VLAN_TAG_SIZE : 0)
  }

  #drop(): "done" {
    this.#counters.dropped++
    return "done"
  }
}

function queueOf(pair: number): number {
  return 2 * pair + defs.TRANSMIT_QUEUE
}
