import type { DescriptorChain } from "../../queue/chain.js"
import { NET_HEADER_SIZE } from "../defs.js"
import { NO_HEADER } from "../header.js"
import type { FrameSink, NetPort, PacketSender, PacketSink } from "../port.js"
import { TapError } from "./errors.js"
import { openTap, setOffloads, setQueueAttached, type Tap, type TapOptions } from "./open-tap.js"
import { TapQueue } from "./tap-queue.js"

/** Options of {@link TapPort}. */
export interface TapPortOptions {
  /** The interface was deleted, or its network namespace was. Called at most once, not after `close`. */
  readonly onEnd?: (error: TapError) => void
}

/**
 * A {@link NetPort} on a tap device: frames go to the host's own network, and the kernel finishes what the guest leaves
 * undone of them.
 *
 * An interface that is down or gone is a cable without a link to the guest. That it went down is seen when it refuses a
 * frame of the guest; that it came up, or was deleted, at once, but not before the guest has room for the frames that
 * wait for it.
 *
 * @example
 * ```ts
 * const tap = openTap({ name: "tap0" })
 * const device = new NetDevice(new TapPort(tap, { onEnd: error => console.error(error.message) }), { mtu: tap.mtu })
 * ```
 */
export class TapPort implements NetPort, PacketSender {
  readonly packets: PacketSender = this
  readonly offloads: bigint
  readonly queuePairs: number
  /** Frames of the guest that the kernel did not take: the interface is down, or has no room. */
  lost = 0
  readonly #name: string
  readonly #queues: readonly TapQueue[]
  readonly #onEnd: ((error: TapError) => void) | undefined
  #deliver: PacketSink = () => true
  #onLink: (isUp: boolean) => void = () => undefined
  #attached: number
  #isClosed = false

  /** @param tap - whose fds it owns from here on */
  constructor(tap: Tap, options: TapPortOptions = {}) {
    this.offloads = tap.offloads
    this.queuePairs = tap.fds.length
    this.#attached = tap.fds.length
    this.#name = tap.name
    this.#onEnd = options.onEnd
    this.#queues = tap.fds.map(
      (fd, pair) =>
        new TapQueue(fd, {
          deliver: packet => this.#deliver(packet, pair),
          link: isUp => this.#onLink(isUp),
          gone: () => this.#end(),
          lost: () => {
            this.lost++
          },
        }),
    )
  }

  attach(
    deliver: FrameSink,
    _onRoom: () => void,
    onLink?: (isUp: boolean) => void,
    deliverPacket: PacketSink = (packet, pair) =>
      deliver(packet.subarray(NET_HEADER_SIZE), packet.subarray(0, NET_HEADER_SIZE), pair),
  ): void {
    this.#deliver = deliverPacket
    if (!onLink) return
    this.#onLink = onLink
    onLink(false) // until it is known to be up
  }

  send(frame: Uint8Array, header: Uint8Array = NO_HEADER, pair = 0): boolean {
    if (!this.#isClosed) this.#queues[pair]?.send(header, frame)
    return true
  }

  packetHead(pair: number, chain: DescriptorChain): Uint8Array {
    return (this.#queues[pair] as TapQueue).packetHead(chain)
  }

  sendPacket(pair: number, length: number, chain: DescriptorChain): boolean {
    if (!this.#isClosed) this.#queues[pair]?.sendPacket(length, chain)
    return !this.#isClosed
  }

  /** What the kernel has no room for is lost. */
  flushPackets(pair: number): number {
    this.flush(pair)
    return 0
  }

  flush(pair = 0): void {
    if (!this.#isClosed) this.#queues[pair]?.flush()
  }

  resume(pair = 0): void {
    if (!this.#isClosed) this.#queues[pair]?.resume()
  }

  setOffloads(features: bigint): void {
    // They are the interface's, whichever queue is asked. One that is gone has none to set.
    this.#ask(() => setOffloads((this.#queues[0] as TapQueue).fd, features))
  }

  setQueuePairs(count: number): void {
    for (const [pair, queue] of this.#queues.entries()) {
      const isWanted = pair < count
      if (isWanted === pair < this.#attached || this.#isClosed) continue
      this.#ask(() => {
        if (!isWanted) queue.setAttached(false)
        setQueueAttached(queue.fd, isWanted)
        if (isWanted) queue.setAttached(true)
      })
    }
    this.#attached = count
  }

  close(): void {
    this.#isClosed = true
    for (const queue of this.#queues) queue.close()
  }

  /** What the kernel refuses here it refuses since the interface is on its way out: its end is told by the queues. */
  #ask(call: () => void): void {
    if (this.#isClosed) return
    try {
      call()
    } catch {
      this.#onLink(false)
    }
  }

  #end(): void {
    if (this.#isClosed) return
    this.close()
    this.#onLink(false)
    this.#onEnd?.(new TapError("gone", `the interface ${this.#name} is gone`))
  }
}

/**
 * Opens a tap device as a port: {@link openTap} and {@link TapPort} in one.
 *
 * @throws TapError, RangeError as {@link openTap}
 *
 * @example
 * ```ts
 * const device = new NetDevice(tapPort({ name: "tap0" }))
 * ```
 */
export function tapPort(options: TapOptions & TapPortOptions): TapPort {
  return new TapPort(openTap(options), options)
}
