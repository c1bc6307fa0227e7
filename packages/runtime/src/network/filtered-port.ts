import type { FrameSink, NetPort } from "@ts-vmm/virtio-devices/net"
import { FrameFilter, type GuestIdentity } from "./frame-filter.js"

/** Lets of a guest's frames through to another port what {@link FrameFilter} allows. */
export class FilteredPort implements NetPort {
  /** Frames that were not let through. */
  refused = 0
  readonly offloads: bigint
  readonly queuePairs: number
  readonly #port: NetPort
  readonly #filter: FrameFilter

  constructor(port: NetPort, guest: GuestIdentity) {
    this.#port = port
    this.#filter = new FrameFilter(guest)
    this.offloads = port.offloads ?? 0n
    this.queuePairs = port.queuePairs ?? 1
  }

  attach(...sinks: Parameters<NetPort["attach"]>): void {
    this.#port.attach(...sinks)
  }

  send(...[frame, header, pair]: Parameters<FrameSink>): boolean {
    if (this.#filter.allows(Buffer.from(frame.buffer, frame.byteOffset, frame.length)))
      return this.#port.send(frame, header, pair)
    this.refused++
    return true
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
}
