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
    const isUnfinished = header !== undefined && (header[0] !== 0 || header[1] !== 0)
    // It was on its way when the driver changed its mind.
    if (isUnfinished && !this.#takesUnfinished) {
      this.#counters.dropped++
      return true
    }
    const chains = this.#chains
    const needed = frame.length + defs.NET_HEADER_SIZE
    let room = 0
    while (room < needed && chains.length < this.#most) {
      const chain = this.#ctx.pop(queue)
      if (!chain) break
      chains.push(chain)
      room += chain.writableLength
    }
    const isDone = room >= needed || chains.length === this.#most
    const holdsHeader = (chains[0]?.writableLength ?? 0) >= defs.NET_HEADER_SIZE
    if (room >= needed && holdsHeader) this.#fill(queue, frame, header)
    else if (isDone) this.#drop(queue)
    else for (const chain of chains.reverse()) this.#ctx.unpop(queue, chain)
    chains.length = 0
    return isDone
  }

  /** Buffers that hold no frame, as many of them as may be, or no header, are the driver's fault: they come back empty. */
  #drop(queue: number): void {
    this.#counters.dropped++
    for (const chain of this.#chains) this.#ctx.complete(queue, chain, 0)
  }

  /** The header says over how many buffers the frame is spread. */
  #fill(queue: number, frame: Uint8Array, header: Uint8Array | undefined): void {
    const own = this.#header
    if (header) own.set(header)
    else own.fill(0)
    own[defs.HEADER.numBuffers] = this.#chains.length
    own[defs.HEADER.numBuffers + 1] = 0
    let done = 0
    for (const [index, chain] of this.#chains.entries()) {
      const skip = index === 0 ? chain.write(0, own) : 0
      const part = chain.write(skip, done === 0 ? frame : frame.subarray(done))
      done += part
      this.#ctx.complete(queue, chain, skip + part)
    }
    this.#counters.framesReceived++
    this.#counters.bytesReceived += frame.length
  }
}
