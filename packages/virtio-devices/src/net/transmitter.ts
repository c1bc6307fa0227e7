import type { DeviceContext } from "../device.js"
import type { DescriptorChain } from "../queue/chain.js"
import type { NetCounters } from "./counters.js"
import * as defs from "./defs.js"
import { HeaderCheck, isTagged, NO_HEADER } from "./header.js"
import type { NetPort } from "./port.js"

/** Frames of the guest in one turn of the event loop; the rest wait for the next. */
const MAX_TURN_FRAMES = 256

/** Takes frames out of the buffers of a guest that is there, and hands those that are sound to the port. */
export class Transmitter {
  readonly #ctx: DeviceContext
  readonly #port: NetPort
  readonly #counters: NetCounters
  readonly #check: HeaderCheck
  readonly #maxFrame: number
  readonly #header = new Uint8Array(defs.NET_HEADER_SIZE)
  /** A frame of the guest, copied once. */
  readonly #frame: Uint8Array
  /** Pairs that go on in the next turn of the event loop. */
  readonly #waiting = new Set<number>()

  /** @param maxFrame - of a finished frame without a VLAN tag, bytes */
  constructor(ctx: DeviceContext, port: NetPort, counters: NetCounters, maxFrame: number) {
    this.#ctx = ctx
    this.#port = port
    this.#counters = counters
    this.#maxFrame = maxFrame
    this.#check = new HeaderCheck(ctx.features)
    const canBeCut = (ctx.features & defs.HOST_OFFLOADS & ~defs.VIRTIO_NET_F_CSUM) !== 0n
    this.#frame = new Uint8Array(canBeCut ? defs.MAX_FRAME_SIZE : maxFrame + defs.VLAN_TAG_SIZE)
  }

  /** Sends what the guest has put on the queue of `pair`. */
  drain(pair: number): void {
    if (this.#waiting.has(pair)) return
    const queue = 2 * pair + defs.TRANSMIT_QUEUE
    let turn = 0
    this.#ctx.drain(queue, chain => {
      const isOver = turn++ >= MAX_TURN_FRAMES
      if (!isOver && this.#send(chain, pair)) return 0
      this.#ctx.unpop(queue, chain)
      // Otherwise the port says when it has room.
      if (isOver) this.#goOnLater(pair)
      return undefined
    })
    this.#port.flush?.(pair)
  }

  /** @returns false when the port has no room */
  #send(chain: DescriptorChain, pair: number): boolean {
    const length = chain.readableLength - defs.NET_HEADER_SIZE
    if (length < defs.ETHERNET_HEADER_SIZE || length > this.#frame.length) return this.#drop()
    const frame = this.#frame.subarray(0, length)
    if (chain.read(0, this.#header) !== defs.NET_HEADER_SIZE) return this.#drop()
    if (chain.read(defs.NET_HEADER_SIZE, frame) !== length) return this.#drop()
    const header = this.#check.check(this.#header, frame)
    if (!header || !this.#isInBounds(frame, header)) return this.#drop()
    if (!this.#port.send(frame, header, pair)) return false
    this.#counters.framesSent++
    this.#counters.bytesSent += length
    return true
  }

  /** Only what is yet to be cut up may be longer than the MTU allows. */
  #isInBounds(frame: Uint8Array, header: Readonly<Uint8Array>): boolean {
    const isCut = header !== NO_HEADER && header[defs.HEADER.gsoType] !== 0
    return isCut || frame.length <= this.#maxFrame + (isTagged(frame) ? defs.VLAN_TAG_SIZE : 0)
  }

  #drop(): true {
    this.#counters.dropped++
    return true
  }

  #goOnLater(pair: number): void {
    this.#waiting.add(pair)
    setImmediate(() => {
      this.#waiting.delete(pair)
      if (!this.#ctx.signal.aborted) this.drain(pair)
    })
  }
}
