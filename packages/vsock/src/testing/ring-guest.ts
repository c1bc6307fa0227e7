import { DeviceRuntime, VIRTIO_F_VERSION_1 } from "@ts-vmm/virtio-devices"
import { type ArrayBufferMemory, arrayBufferMemory } from "@ts-vmm/vm-memory"
import {
  VIRTIO_VSOCK_MAX_PKT_BUF_SIZE,
  VSOCK_EVENT_QUEUE,
  VSOCK_HEADER_SIZE,
  VSOCK_RX_QUEUE,
  VSOCK_TX_QUEUE,
} from "../defs.js"
import type { VsockDevice } from "../device.js"
import { GuestVsock } from "./guest.js"

const QUEUE_SIZE = 256
/** A transmitted packet takes header and payload descriptors, with room for headers in pieces. */
const SLOT_DESCRIPTORS = 8
const TX_SLOTS = QUEUE_SIZE / SLOT_DESCRIPTORS
const RING_BYTES = 0x4000
const DRIVER_OFFSET = 0x1000
const DEVICE_OFFSET = 0x2000
const VIRTQ_DESC_F_NEXT = 1
const VIRTQ_DESC_F_WRITE = 2
/** Payload and header of Linux's receive buffers: a page less the socket buffer's own needs. */
const LINUX_RX_BUFFER = 4096 - 320

/** A guest's driver over real split rings in ordinary memory, with no guest. */
export interface RingGuestOptions {
  /** Size of each receive buffer; default what Linux posts. */
  readonly rxBufferSize?: number
  /** Negotiated features besides VERSION_1. */
  readonly features?: bigint
}

/**
 * A simulated guest that drives a `VsockDevice` through its queues, in process: what a benchmark or an
 * example needs in place of a virtual machine.
 *
 * @example
 * ```ts
 * const { guest } = new RingGuest(vsock)
 * const socket = await guest.connect(1024)
 * ```
 */
export class RingGuest implements Disposable {
  readonly guest: GuestVsock
  /** The transport under the device. */
  readonly runtime: DeviceRuntime
  readonly memory: ArrayBufferMemory
  /** Interrupts so far. */
  interrupts = 0
  /** Descriptors that the header of each sent packet is spread over. */
  headerPieces = 1
  readonly #rxBufferSize: number
  readonly #bytes: Uint8Array
  readonly #rx: DriverRing
  readonly #tx: DriverRing
  readonly #event: DriverRing
  readonly #freeSlots: number[]
  readonly #backlog: { header: Uint8Array; payload: Uint8Array }[] = []
  readonly #txBuffers: number
  readonly #rxBuffers: number
  readonly #eventBuffers: number
  #kickPending = false
  #pollPending = false

  constructor(device: VsockDevice, options: RingGuestOptions = {}) {
    this.#rxBufferSize = options.rxBufferSize ?? LINUX_RX_BUFFER
    this.#rxBuffers = 3 * RING_BYTES
    this.#txBuffers = this.#rxBuffers + QUEUE_SIZE * roundUp(this.#rxBufferSize)
    this.#eventBuffers = this.#txBuffers + TX_SLOTS * txSlotSize()
    this.memory = arrayBufferMemory([{ start: 0, size: this.#eventBuffers + 4096 }])
    this.#bytes = this.memory.regions[0]!.bytes
    this.#rx = new DriverRing(this.#bytes, 0)
    this.#tx = new DriverRing(this.#bytes, RING_BYTES)
    this.#event = new DriverRing(this.#bytes, 2 * RING_BYTES)
    this.#freeSlots = Array.from({ length: TX_SLOTS }, (_, slot) => slot)
    this.guest = new GuestVsock(device.guestCid, { send: (header, payload) => this.#send(header, payload) })
    this.runtime = new DeviceRuntime(device, {
      interrupt: () => this.#interrupt(),
      configInterrupt: () => undefined,
      needsReset: () => undefined,
    })
    this.#start(options.features ?? 0n)
  }

  /** Lets both sides run until nothing moves any more. */
  async settle(): Promise<void> {
    for (let quiet = 0, last = -1; quiet < 3; quiet++) {
      const activity = this.interrupts + this.runtime.counters.notifications
      if (activity !== last) quiet = 0
      last = activity
      await new Promise(resolve => setImmediate(resolve))
    }
  }

  /** The driver goes away. */
  [Symbol.dispose](): void {
    this.runtime.reset()
  }

  /** Events the device sent. */
  takeEvents(): number[] {
    const ids: number[] = []
    for (let used = this.#event.takeUsed(); used !== undefined; used = this.#event.takeUsed()) {
      ids.push(new DataView(this.#bytes.buffer).getUint32(this.#eventBuffers + used.id * 4, true))
    }
    return ids
  }

  #start(features: bigint): void {
    for (let i = 0; i < QUEUE_SIZE; i++) {
      this.#rx.describe(
        i,
        this.#rxBuffers + i * roundUp(this.#rxBufferSize),
        this.#rxBufferSize,
        VIRTQ_DESC_F_WRITE,
        0,
      )
      this.#rx.offer(i)
    }
    for (let i = 0; i < 8; i++) {
      this.#event.describe(i, this.#eventBuffers + i * 4, 4, VIRTQ_DESC_F_WRITE, 0)
      this.#event.offer(i)
    }
    const rings = [this.#rx, this.#tx, this.#event]
    const queues = new Map(rings.map((ring, index) => [index, ring.config]))
    this.runtime.activate(this.memory, VIRTIO_F_VERSION_1 | features, queues)
    for (const index of [VSOCK_RX_QUEUE, VSOCK_EVENT_QUEUE]) this.runtime.notify(index)
  }

  /** Sends bytes that need not be a packet, in one descriptor. */
  transmitRaw(bytes: Uint8Array): void {
    this.#reclaim()
    const slot = this.#freeSlots.pop()
    if (slot === undefined) throw new Error("no free slot")
    this.#transmit(slot, bytes, new Uint8Array())
  }

  #send(header: Uint8Array, payload: Uint8Array): void {
    this.#reclaim()
    const slot = this.#backlog.length === 0 ? this.#freeSlots.pop() : undefined
    if (slot === undefined) this.#backlog.push({ header: header.slice(), payload: payload.slice() })
    else this.#transmit(slot, header, payload)
  }

  #transmit(slot: number, header: Uint8Array, payload: Uint8Array): void {
    const at = this.#txBuffers + slot * txSlotSize()
    this.#bytes.set(header, at)
    this.#bytes.set(payload, at + 64)
    const first = slot * SLOT_DESCRIPTORS
    const pieces = this.headerPieces
    const size = Math.ceil(header.length / pieces)
    for (let i = 0; i < pieces; i++) {
      const flags = i < pieces - 1 || payload.length > 0 ? VIRTQ_DESC_F_NEXT : 0
      this.#tx.describe(
        first + i,
        at + i * size,
        Math.min(size, header.length - i * size),
        flags,
        first + i + 1,
      )
    }
    if (payload.length > 0) this.#tx.describe(first + pieces, at + 64, payload.length, 0, 0)
    this.#tx.offer(first)
    this.#kick()
  }

  #reclaim(): void {
    for (let used = this.#tx.takeUsed(); used !== undefined; used = this.#tx.takeUsed()) {
      this.#freeSlots.push(Math.floor(used.id / SLOT_DESCRIPTORS))
    }
  }

  #kick(): void {
    if (this.#kickPending) return
    this.#kickPending = true
    setImmediate(() => {
      this.#kickPending = false
      this.runtime.notify(VSOCK_TX_QUEUE)
    })
  }

  #interrupt(): void {
    this.interrupts++
    if (this.#pollPending) return
    this.#pollPending = true
    setImmediate(() => {
      this.#pollPending = false
      this.#poll()
    })
  }

  #poll(): void {
    let received = 0
    for (let used = this.#rx.takeUsed(); used !== undefined; used = this.#rx.takeUsed()) {
      const at = this.#rxBuffers + used.id * roundUp(this.#rxBufferSize)
      const bytes = this.#bytes
      if (used.length >= VSOCK_HEADER_SIZE) {
        const header = bytes.subarray(at, at + VSOCK_HEADER_SIZE)
        this.guest.receive(header, bytes.subarray(at + VSOCK_HEADER_SIZE, at + used.length))
      }
      this.#rx.offer(used.id)
      received++
    }
    this.#reclaim()
    while (this.#backlog.length > 0 && this.#freeSlots.length > 0) {
      const { header, payload } = this.#backlog.shift()!
      this.#transmit(this.#freeSlots.pop()!, header, payload)
    }
    if (received > 0) this.runtime.notify(VSOCK_RX_QUEUE)
  }
}

/** The driver's side of one split ring. */
class DriverRing {
  readonly config: { size: number; desc: number; driver: number; device: number }
  readonly #view: DataView
  readonly #used = { id: 0, length: 0 }
  #avail = 0
  #seen = 0

  constructor(bytes: Uint8Array, at: number) {
    this.#view = new DataView(bytes.buffer)
    this.config = { size: QUEUE_SIZE, desc: at, driver: at + DRIVER_OFFSET, device: at + DEVICE_OFFSET }
  }

  describe(index: number, address: number, length: number, flags: number, next: number): void {
    const at = this.config.desc + index * 16
    this.#view.setUint32(at, address, true)
    this.#view.setUint32(at + 8, length, true)
    this.#view.setUint16(at + 12, flags, true)
    this.#view.setUint16(at + 14, next, true)
  }

  offer(head: number): void {
    this.#view.setUint16(this.config.driver + 4 + 2 * (this.#avail % QUEUE_SIZE), head, true)
    this.#avail = (this.#avail + 1) & 0xffff
    this.#view.setUint16(this.config.driver + 2, this.#avail, true)
  }

  /** The next used element, valid until the next call. */
  takeUsed(): { id: number; length: number } | undefined {
    if (this.#seen === this.#view.getUint16(this.config.device + 2, true)) return undefined
    const at = this.config.device + 4 + 8 * (this.#seen % QUEUE_SIZE)
    this.#seen = (this.#seen + 1) & 0xffff
    this.#used.id = this.#view.getUint32(at, true)
    this.#used.length = this.#view.getUint32(at + 4, true)
    return this.#used
  }
}

function roundUp(size: number): number {
  return (size + 63) & ~63
}

function txSlotSize(): number {
  return 64 + VIRTIO_VSOCK_MAX_PKT_BUF_SIZE
}
