import { closeSync } from "node:fs"
import { constants } from "node:os"
import {
  IO_RECEIVE,
  IO_SEND,
  IoBatch,
  POLL_ERROR,
  POLL_READABLE,
  POLL_WRITABLE,
  Poller,
} from "@ts-vmm/native"
import type { DescriptorChain } from "../../queue/chain.js"
import * as defs from "../defs.js"
import { PacketBatch } from "../packet-batch.js"

/** Room for a frame and its header, a multiple of 64. */
const SLOT_SIZE = Math.ceil((defs.NET_HEADER_SIZE + defs.MAX_FRAME_SIZE) / 64) * 64
/** Frames taken in one native call. */
const RECEIVE_SLOTS = 16
/** Native calls for what came, and bytes, in one turn of the event loop. */
const TURN_CALLS = 4
const TURN_BYTES = 2 ** 20
/** Frames and bytes sent in one native call. */
const SEND_ROWS = 64
const SEND_BYTES = 8 * SLOT_SIZE
/** Pieces of guest memory in one native call, beside the head of each packet; a chain has 1024 at most. */
const SEND_PIECES = 2048
/** The region of a send's segments that has the copies. */
const COPIES = 1
const STOP = { stopAtFailure: true } as const

const { EIO } = constants.errno
/** Not among the numbers of node:os. */
const EBADFD = 77

/** What a queue tells its port. */
export interface TapQueueEvents {
  /** A frame came, with its header before it; false when there is no room for it. */
  deliver(packet: Uint8Array): boolean
  /** The interface is up, or down. */
  link(isUp: boolean): void
  /** It does not exist any more. */
  gone(): void
  /** A frame of the guest was not taken. */
  lost(): void
}

/** One queue pair of a tap device: frames in and out, many in a native call. */
export class TapQueue {
  readonly fd: number
  readonly #events: TapQueueEvents
  readonly #poller: Poller
  readonly #received = new Uint8Array(RECEIVE_SLOTS * SLOT_SIZE)
  readonly #receiving = new IoBatch(RECEIVE_SLOTS, RECEIVE_SLOTS)
  readonly #receiveRegions = [this.#received.buffer]
  readonly #copies = new Uint8Array(SEND_BYTES)
  readonly #sending = new PacketBatch(
    SEND_ROWS,
    new IoBatch(SEND_ROWS, SEND_ROWS + SEND_PIECES),
    this.#copies.buffer,
  )
  /** Received frames, and how many of them were delivered. */
  #count = 0
  #next = 0
  /** Bytes of `#copies` that wait for the next flush. */
  #used = 0
  #isAttached = true
  #isFull = false
  /** Until it is known to be up: the kernel has room for a frame only then. */
  #isDown = true

  /** @param fd - owned from here on */
  constructor(fd: number, events: TapQueueEvents) {
    this.fd = fd
    this.#events = events
    for (let i = 0; i < RECEIVE_SLOTS; i++) {
      this.#receiving.setOp(i, IO_RECEIVE, fd, 0, i, 1)
      this.#receiving.setSegment(i, 0, i * SLOT_SIZE, SLOT_SIZE)
    }
    this.#poller = new Poller(fd, "both", happened => this.#polled(happened))
  }

  /** Keeps a copy, to go with the others at the next {@link flush}. */
  send(header: Uint8Array, frame: Uint8Array): void {
    const sending = this.#sending
    const length = header.length + frame.length
    const isFull = sending.rows === SEND_ROWS || sending.segments === sending.io.segmentCapacity
    if (isFull || this.#used + length > SEND_BYTES) this.flush()
    this.#copies.set(header, this.#used)
    this.#copies.set(frame, this.#used + header.length)
    sending.io.setSegment(sending.segments, COPIES, this.#used, length)
    this.#used += length
    this.#addRow(1)
  }

  /** See `PacketSender`. */
  packetHead(chain: DescriptorChain): Uint8Array {
    if (!this.#sending.fits(chain)) this.flush()
    return this.#sending.head
  }

  /** See `PacketSender`. */
  sendPacket(length: number, chain: DescriptorChain): void {
    this.#addRow(this.#sending.fill(0, length, chain))
  }

  /** A frame that the kernel has no room for is lost, as on any network. */
  flush(): void {
    const { io, regions, rows } = this.#sending
    this.#sending.clear()
    this.#used = 0
    if (rows === 0 || this.#poller.closed) return
    io.runSync(regions, rows)
    for (let i = 0; i < rows; i++) {
      const result = io.results[i] as number
      if (result >= 0) continue
      this.#events.lost()
      if (result === -EIO) this.#setDown(true)
      if (result === -EBADFD) this.#events.gone()
    }
  }

  /** There is room for frames again. */
  resume(): void {
    if (!this.#isFull) return
    this.#isFull = false
    this.#deliver()
    this.#listen()
  }

  /** A queue out of use has nothing to read, and says so as an error. */
  setAttached(isAttached: boolean): void {
    this.#isAttached = isAttached
    this.#count = 0
    this.#next = 0
    this.#isFull = false
    this.#listen()
  }

  close(): void {
    if (this.#poller.closed) return
    this.#poller.close()
    closeSync(this.fd)
  }

  /** Completes a row of so many segments. */
  #addRow(segments: number): void {
    const sending = this.#sending
    sending.io.setOp(sending.rows, IO_SEND, this.fd, 0, sending.segments, segments)
    sending.next(segments)
  }

  #listen(): void {
    if (!this.#isAttached) this.#poller.setInterest("none")
    else if (this.#isDown) this.#poller.setInterest(this.#isFull ? "writable" : "both")
    else this.#poller.setInterest(this.#isFull ? "none" : "readable")
  }

  #polled(happened: number): void {
    if ((happened & POLL_ERROR) !== 0) {
      this.#events.gone()
      return
    }
    if ((happened & POLL_WRITABLE) !== 0 && this.#isDown) this.#setDown(false)
    if ((happened & POLL_READABLE) !== 0 && !this.#isFull) this.#receive()
  }

  #setDown(isDown: boolean): void {
    if (isDown === this.#isDown) return
    this.#isDown = isDown
    this.#listen()
    this.#events.link(!isDown)
  }

  /** What is left in the kernel after a few calls wakes the poller again. */
  #receive(): void {
    let bytes = 0
    for (let call = 0; call < TURN_CALLS && bytes < TURN_BYTES; call++) {
      bytes += this.#take()
      this.#deliver()
      if (this.#isFull) this.#listen()
      // Also when it has turned out to be gone.
      if (this.#isFull || this.#count < RECEIVE_SLOTS) return
    }
  }

  /** @returns bytes that came */
  #take(): number {
    this.#receiving.runSync(this.#receiveRegions, RECEIVE_SLOTS, STOP)
    const { results } = this.#receiving
    this.#next = 0
    let bytes = 0
    let count = 0
    for (; count < RECEIVE_SLOTS && (results[count] as number) >= 0; count++)
      bytes += results[count] as number
    this.#count = count
    if (count < RECEIVE_SLOTS && results[count] === -EBADFD) this.#events.gone()
    return bytes
  }

  #deliver(): void {
    for (; this.#next < this.#count; this.#next++) {
      const length = this.#receiving.results[this.#next] as number
      if (length < defs.NET_HEADER_SIZE) continue
      const at = this.#next * SLOT_SIZE
      if (!this.#events.deliver(this.#received.subarray(at, at + length))) {
        this.#isFull = true
        return
      }
    }
  }
}
