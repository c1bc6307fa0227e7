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
import * as defs from "../defs.js"

/** Room for a frame and its header, a multiple of 64. */
const SLOT_SIZE = Math.ceil((defs.NET_HEADER_SIZE + defs.MAX_FRAME_SIZE) / 64) * 64
/** Frames taken in one native call. */
const RECEIVE_SLOTS = 16
/** Frames and bytes sent in one native call. */
const SEND_ROWS = 64
const SEND_BYTES = 8 * SLOT_SIZE
const STOP = { stopAtFailure: true } as const

const { EIO } = constants.errno
/** Not among the numbers of node:os. */
const EBADFD = 77

/** What a queue tells its port. */
export interface TapQueueEvents {
  /** A frame came; false when there is no room for it. */
  deliver(header: Uint8Array, frame: Uint8Array): boolean
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
  readonly #received = new ArrayBuffer(RECEIVE_SLOTS * SLOT_SIZE)
  readonly #receiving = new IoBatch(RECEIVE_SLOTS, RECEIVE_SLOTS)
  readonly #sent = new ArrayBuffer(SEND_BYTES)
  readonly #sentBytes = new Uint8Array(this.#sent)
  readonly #sending = new IoBatch(SEND_ROWS, SEND_ROWS)
  /** Received frames, and how many of them were delivered. */
  #count = 0
  #next = 0
  #rows = 0
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
    const length = header.length + frame.length
    if (this.#rows === SEND_ROWS || this.#used + length > SEND_BYTES) this.flush()
    this.#sentBytes.set(header, this.#used)
    this.#sentBytes.set(frame, this.#used + header.length)
    this.#sending.setSegment(this.#rows, 0, this.#used, length)
    this.#sending.setOp(this.#rows, IO_SEND, this.fd, 0, this.#rows, 1)
    this.#rows++
    this.#used += length
  }

  /** A frame that the kernel has no room for is lost, as on any network. */
  flush(): void {
    const count = this.#rows
    this.#rows = 0
    this.#used = 0
    if (count === 0 || this.#poller.closed) return
    this.#sending.runSync([this.#sent], count)
    for (let i = 0; i < count; i++) {
      const result = this.#sending.results[i] as number
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

  /** What is left in the kernel wakes the poller again. */
  #receive(): void {
    this.#receiving.runSync([this.#received], RECEIVE_SLOTS, STOP)
    const { results } = this.#receiving
    this.#next = 0
    this.#count = RECEIVE_SLOTS
    for (let i = 0; i < RECEIVE_SLOTS; i++) {
      if ((results[i] as number) >= 0) continue
      this.#count = i
      if (results[i] === -EBADFD) this.#events.gone()
      break
    }
    this.#deliver()
    if (this.#isFull) this.#listen()
  }

  #deliver(): void {
    while (this.#next < this.#count) {
      const length = this.#receiving.results[this.#next] as number
      const at = this.#next * SLOT_SIZE
      const header = new Uint8Array(this.#received, at, defs.NET_HEADER_SIZE)
      const frame = new Uint8Array(
        this.#received,
        at + defs.NET_HEADER_SIZE,
        Math.max(0, length - defs.NET_HEADER_SIZE),
      )
      if (!this.#events.deliver(header, frame)) {
        this.#isFull = true
        return
      }
      this.#next++
    }
  }
}
