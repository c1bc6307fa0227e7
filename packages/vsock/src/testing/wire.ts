import { VSOCK_HEADER_SIZE } from "../defs.js"
import { Muxer, type MuxerOptions } from "../muxer.js"
import { emptyHeader, HeaderBuffer } from "../packet.js"
import { GuestVsock } from "./guest.js"

/** A muxer and a simulated guest, joined packet by packet with no queue between them. */
export interface Wire {
  readonly muxer: Muxer
  readonly guest: GuestVsock
  /** While true no packet reaches the guest, as when it posts no receive buffers. */
  stalled: boolean
  /** Delivers everything that can be delivered, and lets streams act on it. */
  settle(): Promise<void>
}

/** Joins a muxer with a guest. `room` is the payload that one receive buffer of the guest holds. */
export function joinGuest(options: Partial<MuxerOptions> = {}, room = 4096): Wire {
  const all = { guestCid: 3, maxConnections: 1024, bufAlloc: 256 * 1024, ...options }
  const muxer = new Muxer(all, () => undefined)
  const codec = new HeaderBuffer()
  const header = emptyHeader()
  const guest = new GuestVsock(all.guestCid, {
    send(bytes, payload) {
      codec.bytes.set(bytes)
      codec.decode(header)
      muxer.receive({ ...header }, sourceOf(payload), payload.length)
    },
  })
  const pump = () => {
    const buffer = new Uint8Array(VSOCK_HEADER_SIZE + room)
    const target = { write: (offset: number, from: Uint8Array) => writeAt(buffer, offset, from) }
    muxer.notifyConsumers()
    if (wire.stalled || !muxer.hasOutput || !muxer.next(header, target, room)) return muxer.hasNotifications
    codec.encode(header)
    buffer.set(codec.bytes)
    const packet = buffer.slice(0, VSOCK_HEADER_SIZE + header.len)
    guest.receive(packet.subarray(0, VSOCK_HEADER_SIZE), packet.subarray(VSOCK_HEADER_SIZE))
    return true
  }
  const wire: Wire = {
    muxer,
    guest,
    stalled: false,
    async settle() {
      for (let quiet = 0; quiet < 3; quiet++) {
        while (pump()) quiet = 0
        await new Promise(resolve => setImmediate(resolve))
      }
    },
  }
  return wire
}

function sourceOf(payload: Uint8Array) {
  return {
    read(offset: number, into: Uint8Array): number {
      const at = offset - VSOCK_HEADER_SIZE
      const part = payload.subarray(at, at + into.length)
      into.set(part)
      return part.length
    },
  }
}

function writeAt(buffer: Uint8Array, offset: number, from: Uint8Array): number {
  buffer.set(from, offset)
  return from.length
}
