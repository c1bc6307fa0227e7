import type { DeviceContext } from "../device.js"
import { hasFeature } from "../features.js"
import type { DescriptorChain } from "../queue/chain.js"
import type { NetCounters } from "./counters.js"
import * as defs from "./defs.js"

/** Most buffers of the guest for one frame: 65,565 bytes in pieces of little more than 1 KiB. */
const MAX_BUFFERS = 64

/** Puts frames into the buffers of a guest that is there. */
export class Receiver {
  readonly #ctx: DeviceContext
  readonly #counters: NetCounters
  readonly #most: number
  readonly #takesUnfinished: boolean
  readonly #chains: DescriptorChain[] = []
  readonly #header = new Uint8Array(defs.NET_HEADER_SIZE)

  constructor(ctx: DeviceContext, counters: NetCounters) {
    this.#ctx = ctx
    this.#counters = counters
    this.#most = hasFeature(ctx.features, defs.VIRTIO_NET_F_MRG_RXBUF) ? MAX_BUFFERS : 1
    this.#takesUnfinished = hasFeature(ctx.features, defs.VIRTIO_NET_F_GUEST_CSUM)
  }

  /** @returns false while the guest has no buffers on this queue */
  deliver(queue: number, frame: Uint8Array, header: Uint8Array | undefined): boolean {
    const own = this.#header
    if (header) own.set(header)
    else own.fill(0)
    return this.#deliver(queue, own, frame, frame.length)
  }

  /** The same, of a frame with its header before it, which this fills in. */
  deliverPacket(queue: number, packet: Uint8Array): boolean {
    return this.#deliver(queue, packet, undefined, packet.length - defs.NET_HEADER_SIZE)
  }

  /** @param first - header, and without `rest` the frame behind it */
  #deliver(queue: number, first: Uint8Array, rest: Uint8Array | undefined, length: number): boolean {
    const isUnfinished = first[defs.HEADER.flags] !== 0 || first[defs.HEADER.gsoType] !== 0
    // It was on its way when the driver changed its mind.
    if (isUnfinished && !this.#takesUnfinished) {
      this.#counters.dropped++
      return true
    }
    const chains = this.#chains
    const needed = length + defs.NET_HEADER_SIZE
    const room = this.#take(queue, needed)
    const isDone = room >= needed || chains.length === this.#most
    const holdsHeader = (chains[0]?.writableLength ?? 0) >= defs.NET_HEADER_SIZE
    if (room >= needed && holdsHeader) this.#fill(queue, first, rest, length)
    else if (isDone) this.#drop(queue)
    else for (const chain of chains.reverse()) this.#ctx.unpop(queue, chain)
    chains.length = 0
    return isDone
  }

  /** Takes buffers for `needed` bytes, as far as there are. @returns bytes that they hold */
  #take(queue: number, needed: number): number {
    let room = 0
    while (room < needed && this.#chains.length < this.#most) {
      const chain = this.#ctx.pop(queue)
      if (!chain) break
      this.#chains.push(chain)
      room += chain.writableLength
    }
    return room
  }

  /** Buffers that hold no frame, as many of them as may be, or no header, are the driver's fault: they come back empty. */
  #drop(queue: number): void {
    this.#counters.dropped++
    for (const chain of this.#chains) this.#ctx.complete(queue, chain, 0)
  }

  /** The header says over how many buffers the frame is spread. */
  #fill(queue: number, first: Uint8Array, rest: Uint8Array | undefined, length: number): void {
    first[defs.HEADER.numBuffers] = this.#chains.length
    first[defs.HEADER.numBuffers + 1] = 0
    const bytes = rest ?? first
    let done = 0
    let skip = rest ? (this.#chains[0] as DescriptorChain).write(0, first) : 0
    for (const chain of this.#chains) {
      // Cut to what fits, so that the copy makes no view of its own.
      const end = done + chain.writableLength - skip
      const isAll = done === 0 && end >= bytes.length
      const part = chain.write(skip, isAll ? bytes : bytes.subarray(done, end))
      done += part
      this.#ctx.complete(queue, chain, skip + part)
      skip = 0
    }
    this.#counters.framesReceived++
    this.#counters.bytesReceived += length
  }
}
