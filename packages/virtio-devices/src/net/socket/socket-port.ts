import { closeSync } from "node:fs"
import { constants } from "node:os"
import {
  errnoName,
  IO_RECEIVE,
  IO_SEND,
  IoBatch,
  POLL_ERROR,
  POLL_READABLE,
  POLL_WRITABLE,
  Poller,
  setNonBlocking,
} from "@ts-vmm/native"
import type { DescriptorChain } from "../../queue/chain.js"
import { NET_HEADER_SIZE } from "../defs.js"
import {
  FRAME_PREFIX_SIZE,
  frameLengthError,
  MAX_STREAM_FRAME_SIZE,
  type StreamPortOptions,
} from "../frame-stream.js"
import { PacketBatch } from "../packet-batch.js"
import type { FrameSink, NetPort, PacketSender, PacketSink } from "../port.js"

/** The length of a frame goes where its header for the guest ends, which is not sent. */
const PREFIX_AT = NET_HEADER_SIZE - FRAME_PREFIX_SIZE
/** Packets, and pieces of memory, in one system call: writev(2) takes no more. */
const SEND_ROWS = 64
const SEND_PIECES = 1024
/** Room for a frame and the length before it. */
const FRAME_ROOM = FRAME_PREFIX_SIZE + MAX_STREAM_FRAME_SIZE
/** What is read at a time, and how often in one turn of the event loop. */
const RECEIVE_BYTES = 512 * 1024
const TURN_CALLS = 4

const { EAGAIN } = constants.errno

/**
 * A {@link NetPort} on a connected stream socket, which speaks the same as {@link StreamPort}: frames with their length
 * before them. What a guest sends goes out of its own memory, many frames in one system call, and what comes is copied
 * once.
 *
 * @see QEMU documentation, -netdev stream
 *
 * @example
 * ```ts
 * const device = new NetDevice(new SocketPort(unixConnect("/run/passt.sock")), { mtu: 65_520 })
 * ```
 */
export class SocketPort implements NetPort, PacketSender {
  readonly packets: PacketSender = this
  readonly #fd: number
  readonly #onEnd: ((error: Error | undefined) => void) | undefined
  readonly #poller: Poller
  #deliver: PacketSink = () => false
  #onRoom: () => void = () => undefined

  /** From {@link PREFIX_AT} on frames as they come, `#next` to `#end` yet to be delivered; a header fits before each. */
  readonly #received = new Uint8Array(PREFIX_AT + RECEIVE_BYTES)
  readonly #prefixes = new DataView(this.#received.buffer)
  readonly #receiving = new IoBatch(1, 1)
  #next = PREFIX_AT
  #end = PREFIX_AT
  /** The guest has no room; at first there is none to have what comes. */
  #isGuestFull = true

  /** What is left of a frame that was sent in part, `#restFrom` to `#restEnd`. */
  readonly #rest = new Uint8Array(FRAME_ROOM)
  #restFrom = 0
  #restEnd = 0
  readonly #restSending = new IoBatch(1, 1)
  readonly #sending = new PacketBatch(SEND_ROWS, new IoBatch(1, SEND_PIECES))
  /** Bytes of each row, and its first segment; behind the last row, where its segments end. */
  readonly #lengths = new Array<number>(SEND_ROWS).fill(0)
  readonly #firsts = new Array<number>(SEND_ROWS + 1).fill(0)
  /** The socket has no room. */
  #isFull = false

  /**
   * @param fd - owned from here on, also when this throws, and made non-blocking
   * @throws SysError `EBADF`, `EMFILE`; `EPERM` for what is no socket
   */
  constructor(fd: number, options: StreamPortOptions = {}) {
    this.#fd = fd
    this.#onEnd = options.onEnd
    this.#receiving.setOp(0, IO_RECEIVE, fd, 0, 0, 1)
    this.#restSending.setOp(0, IO_SEND, fd, 0, 0, 1)
    try {
      setNonBlocking(fd, true)
      this.#poller = new Poller(fd, "readable", happened => this.#polled(happened))
    } catch (error) {
      closeSync(fd)
      throw error
    }
    this.#listen()
  }

  attach(
    deliver: FrameSink,
    onRoom: () => void,
    _onLink?: (isUp: boolean) => void,
    deliverPacket: PacketSink = packet => deliver(packet.subarray(NET_HEADER_SIZE)),
  ): void {
    this.#deliver = deliverPacket
    this.#onRoom = onRoom
    this.resume()
  }

  send(frame: Uint8Array): boolean {
    if (this.#poller.closed) return true // a cable that leads nowhere
    if (this.#isFull) return false
    putLength(this.#rest, 0, frame.length)
    this.#rest.set(frame, FRAME_PREFIX_SIZE)
    this.#restFrom = 0
    this.#restEnd = FRAME_PREFIX_SIZE + frame.length
    this.#sendRest()
    return true
  }

  packetHead(_pair: number, chain: DescriptorChain): Uint8Array | undefined {
    const isFull = this.#isFull && !this.#poller.closed
    return isFull || !this.#sending.fits(chain) ? undefined : this.#sending.head
  }

  sendPacket(_pair: number, length: number, chain: DescriptorChain): boolean {
    if (this.#poller.closed) return false
    const sending = this.#sending
    const { head, rows } = sending
    const frameLength = chain.readableLength - NET_HEADER_SIZE
    putLength(head, PREFIX_AT, frameLength)
    this.#lengths[rows] = FRAME_PREFIX_SIZE + frameLength
    this.#firsts[rows] = sending.segments
    sending.next(sending.fill(PREFIX_AT, length, chain))
    return true
  }

  flushPackets(): number {
    const { io, regions, rows, segments } = this.#sending
    if (rows === 0) return 0
    io.setOp(0, IO_SEND, this.#fd, 0, 0, segments)
    this.#firsts[rows] = segments
    const sent = this.#poller.closed ? 0 : this.#run(io, regions)
    // A cable that leads nowhere, as it has turned out to be.
    const done = this.#poller.closed ? rows : this.#countSent(sent, rows)
    this.#sending.clear()
    return rows - done
  }

  resume(): void {
    if (!this.#isGuestFull || this.#poller.closed) return
    this.#isGuestFull = false
    this.#deliverAll()
    this.#listen()
  }

  close(): void {
    if (this.#poller.closed) return
    this.#poller.close()
    closeSync(this.#fd)
  }

  #polled(happened: number): void {
    if ((happened & POLL_ERROR) !== 0) {
      this.#finish(undefined)
      return
    }
    if ((happened & POLL_WRITABLE) !== 0 && this.#isFull) this.#goOn()
    if ((happened & POLL_READABLE) !== 0 && !this.#isGuestFull) this.#receive()
  }

  #listen(): void {
    if (this.#poller.closed) return
    const reads = !this.#isGuestFull
    if (this.#isFull) this.#poller.setInterest(reads ? "both" : "writable")
    else this.#poller.setInterest(reads ? "readable" : "none")
  }

  // Out.

  /** Runs row 0 of a send. @returns bytes that the socket took; what else goes wrong ends the port */
  #run(io: IoBatch, regions: readonly ArrayBuffer[]): number {
    io.runSync(regions, 1)
    const result = io.results[0] as number
    if (result >= 0) return result
    if (result !== -EAGAIN) this.#finish(new Error(`the network's socket: ${errnoName(-result)}`))
    return 0
  }

  /** Keeps what is left of a row of which the socket took a part. @returns rows that are done with */
  #countSent(bytes: number, rows: number): number {
    let left = bytes
    for (let row = 0; row < rows; row++) {
      const length = this.#lengths[row] as number
      if (left < length) {
        if (left > 0) this.#keepRest(row, left)
        this.#setFull(true)
        return left > 0 ? row + 1 : row
      }
      left -= length
    }
    return rows
  }

  /** Behind the head it is what the guest has made of it meanwhile. */
  #keepRest(row: number, skip: number): void {
    const { io, regions } = this.#sending
    let left = skip
    this.#restFrom = this.#restEnd = 0
    for (let at = 3 * (this.#firsts[row] as number); at < 3 * (this.#firsts[row + 1] as number); at += 3) {
      const length = io.segments[at + 2] as number
      const passed = Math.min(left, length)
      left -= passed
      const region = regions[io.segments[at] as number] as ArrayBuffer
      const piece = new Uint8Array(region, (io.segments[at + 1] as number) + passed, length - passed)
      this.#rest.set(piece, this.#restEnd)
      this.#restEnd += piece.length
    }
  }

  #goOn(): void {
    this.#sendRest()
    if (this.#restFrom < this.#restEnd || this.#poller.closed) return
    this.#setFull(false)
    this.#onRoom()
  }

  #sendRest(): void {
    if (this.#restFrom === this.#restEnd) return
    this.#restSending.setSegment(0, 0, this.#restFrom, this.#restEnd - this.#restFrom)
    this.#restFrom += this.#run(this.#restSending, [this.#rest.buffer])
    if (this.#restFrom < this.#restEnd) this.#setFull(true)
  }

  #setFull(isFull: boolean): void {
    if (isFull === this.#isFull) return
    this.#isFull = isFull
    this.#listen()
  }

  // In.

  /** What is left in the socket after a few calls wakes the poller again. */
  #receive(): void {
    for (let call = 0; call < TURN_CALLS && !this.#isGuestFull && !this.#poller.closed; call++) {
      const room = this.#received.length - this.#end
      this.#receiving.setSegment(0, 0, this.#end, room)
      this.#receiving.runSync([this.#received.buffer], 1)
      const result = this.#receiving.results[0] as number
      if (result === -EAGAIN) return
      if (result <= 0) {
        this.#finish(result === 0 ? undefined : new Error(`the network's socket: ${errnoName(-result)}`))
        return
      }
      this.#end += result
      this.#deliverAll()
      if (this.#isGuestFull) this.#listen()
      if (result < room) return
    }
  }

  #deliverAll(): void {
    while (this.#end - this.#next >= FRAME_PREFIX_SIZE) {
      const length = this.#prefixes.getUint32(this.#next)
      if (length > MAX_STREAM_FRAME_SIZE) {
        this.#finish(frameLengthError(length))
        return
      }
      const end = this.#next + FRAME_PREFIX_SIZE + length
      if (end > this.#end) break
      if (length > 0 && !this.#hand(this.#next, end)) {
        this.#isGuestFull = true
        return
      }
      if (this.#poller.closed) return
      this.#next = end
    }
    this.#moveUp()
  }

  /** Its header lies where its length and the end of the frame before were, which has been delivered. */
  #hand(at: number, end: number): boolean {
    const length = this.#prefixes.getUint32(at)
    const packet = this.#received.subarray(at - PREFIX_AT, end)
    packet.fill(0, 0, NET_HEADER_SIZE)
    if (this.#deliver(packet, 0)) return true
    this.#prefixes.setUint32(at, length)
    return false
  }

  /** There is room for a whole frame behind what is there. */
  #moveUp(): void {
    if (this.#next < this.#end && this.#received.length - this.#end >= FRAME_ROOM) return
    this.#received.copyWithin(PREFIX_AT, this.#next, this.#end)
    this.#end -= this.#next - PREFIX_AT
    this.#next = PREFIX_AT
  }

  #finish(error: Error | undefined): void {
    if (this.#poller.closed) return
    this.close()
    this.#onEnd?.(error)
    // What waits for room is lost, as all that follows.
    queueMicrotask(this.#onRoom)
  }
}

function putLength(bytes: Uint8Array, at: number, length: number): void {
  bytes[at] = length >>> 24
  bytes[at + 1] = length >>> 16
  bytes[at + 2] = length >>> 8
  bytes[at + 3] = length
}
