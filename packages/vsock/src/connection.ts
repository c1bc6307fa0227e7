import {
  CONNECTION_ABANDONED,
  CONNECTION_CLOSED,
  CONNECTION_DATA,
  CONNECTION_OPEN,
  CONNECTION_SENT,
  CONNECTION_SHUTDOWN,
  type ConnectionCarrier,
  type ConnectionConsumer,
} from "./connection-roles.js"
import { ReceiveWindow, SendWindow } from "./credit.js"
import {
  VIRTIO_VSOCK_OP_CREDIT_REQUEST,
  VIRTIO_VSOCK_OP_CREDIT_UPDATE,
  VIRTIO_VSOCK_OP_REQUEST,
  VIRTIO_VSOCK_OP_RESPONSE,
  VIRTIO_VSOCK_OP_RST,
  VIRTIO_VSOCK_OP_RW,
  VIRTIO_VSOCK_OP_SHUTDOWN,
  VIRTIO_VSOCK_SHUTDOWN_MASK,
  VIRTIO_VSOCK_SHUTDOWN_RCV,
  VIRTIO_VSOCK_SHUTDOWN_SEND,
  VSOCK_HEADER_SIZE,
} from "./defs.js"
import type { VsockErrorCode } from "./errors.js"
import type { PacketSource, PacketTarget, VsockHeader } from "./packet.js"
import { ReceiveQueue } from "./receive-queue.js"
import { SendQueue } from "./send-queue.js"

/**
 * Where a connection is.
 *
 * ```
 *  host connects            guest connects
 *  connecting               accepting
 *      | RESPONSE               | accept()
 *      '-------> established <--'
 *                  | close(): both ways shut down          | guest shut down both ways, any RST, a fault
 *                  v                                       v
 *               closing --- RST from the guest, time ---> closed
 * ```
 */
export type ConnectionState = "connecting" | "accepting" | "established" | "closing" | "closed"

// Control packets a connection owes the guest. Bits, not a queue: they cannot pile up.
const OWES_REQUEST = 1
const OWES_RESPONSE = 2
const OWES_SHUTDOWN = 4
const OWES_CREDIT_UPDATE = 8

/**
 * One stream between a host port and a guest port: the state machine of 5.10.6 with its flow control. It
 * does no I/O, knows no clock, and calls nobody but its carrier.
 *
 * @see virtio 1.3, sections 5.10.6.3 to 5.10.6.5
 */
export class Connection {
  readonly hostPort: number
  readonly guestPort: number
  /** Bytes from the guest that the consumer has not taken. */
  readonly incoming = new ReceiveQueue()
  /** Bytes for the guest. */
  readonly outgoing = new SendQueue()
  /** Set by whoever owns the host side before events can come. */
  consumer: ConnectionConsumer | undefined
  /** Bits of `CONNECTION_*` not yet reported; the carrier clears them. */
  events = 0
  /** True while the carrier has the connection in its list of senders. */
  queuedToSend = false
  readonly #carrier: ConnectionCarrier
  readonly #send = new SendWindow()
  readonly #receive: ReceiveWindow
  #state: ConnectionState
  #closeReason: VsockErrorCode | undefined
  #owes = 0
  #peerShutdown = 0
  #ownShutdown = 0
  #requestSent = false
  #creditAsked = false

  private constructor(
    carrier: ConnectionCarrier,
    state: ConnectionState,
    hostPort: number,
    guestPort: number,
    bufAlloc: number,
  ) {
    this.#carrier = carrier
    this.#state = state
    this.hostPort = hostPort
    this.guestPort = guestPort
    this.#receive = new ReceiveWindow(bufAlloc)
  }

  /** A connection the host wants: owes the guest a REQUEST. */
  static outbound(
    carrier: ConnectionCarrier,
    hostPort: number,
    guestPort: number,
    bufAlloc: number,
  ): Connection {
    const connection = new Connection(carrier, "connecting", hostPort, guestPort, bufAlloc)
    connection.#owe(OWES_REQUEST)
    return connection
  }

  /** A connection the guest wants; `request` is its REQUEST packet. Waits for `accept` or `reset`. */
  static inbound(carrier: ConnectionCarrier, request: VsockHeader, bufAlloc: number): Connection {
    const connection = new Connection(carrier, "accepting", request.dstPort, request.srcPort, bufAlloc)
    connection.#send.update(request.bufAlloc, request.fwdCnt)
    return connection
  }

  get state(): ConnectionState {
    return this.#state
  }

  /** Why the connection closed: undefined while it is open and after an orderly end. */
  get closeReason(): VsockErrorCode | undefined {
    return this.#closeReason
  }

  /** `VIRTIO_VSOCK_SHUTDOWN_*` bits the guest sent. */
  get peerShutdown(): number {
    return this.#peerShutdown
  }

  /** True when the guest can still be sent data. */
  get writable(): boolean {
    const shut =
      this.#ownShutdown & VIRTIO_VSOCK_SHUTDOWN_SEND || this.#peerShutdown & VIRTIO_VSOCK_SHUTDOWN_RCV
    return !shut && (this.#state === "established" || this.#state === "connecting")
  }

  /** True when no more bytes will come from the guest. */
  get ended(): boolean {
    return this.#state === "closed" || (this.#peerShutdown & VIRTIO_VSOCK_SHUTDOWN_SEND) !== 0
  }

  /** Bytes that arrived and were not read, wherever they are kept. */
  get unread(): number {
    return this.#receive.used
  }

  // --- the host's side ---

  /** Takes the guest's REQUEST. */
  accept(): void {
    if (this.#state !== "accepting") return
    this.#state = "established"
    this.#owe(OWES_RESPONSE)
  }

  /** Sends `chunk`, which must stay unchanged until `CONNECTION_SENT`. Ignored when not `writable`. */
  write(chunk: Uint8Array): void {
    if (!this.writable) return
    this.outgoing.push(chunk)
    this.#sendSoon()
  }

  /** The consumer has read all but `unread` bytes of what arrived. */
  readUpTo(unread: number): void {
    const worthTelling = this.#receive.readUpTo(unread)
    if (this.#state === "closed") {
      if (this.unread === 0) this.#carrier.released(this)
    } else if (worthTelling && this.#state === "established" && !this.ended) this.#owe(OWES_CREDIT_UPDATE)
  }

  /** No more data goes to the guest. `outgoing` must be empty. */
  shutdownSend(): void {
    this.#shutdown(VIRTIO_VSOCK_SHUTDOWN_SEND)
  }

  /** Orderly end: nothing more in either direction. What `outgoing` holds is lost. */
  close(): void {
    if (this.#state !== "established") {
      this.reset()
      return
    }
    this.outgoing.clear()
    this.#shutdown(VIRTIO_VSOCK_SHUTDOWN_MASK)
    this.#state = "closing"
    this.#carrier.closing(this)
  }

  /** Abrupt end: RST, unless the guest has never heard of the connection. */
  reset(reason?: VsockErrorCode): void {
    if (this.#state === "closed") return
    const known = this.#state !== "connecting" || this.#requestSent
    this.#end(reason)
    if (known) this.#carrier.sendReset(this)
  }

  /** The transport is gone: nothing can be sent any more. */
  drop(reason: VsockErrorCode): void {
    if (this.#state !== "closed") this.#end(reason)
  }

  /** Forgets what is unread of a closed connection. */
  abandon(): void {
    this.incoming.clear()
    this.#notify(CONNECTION_ABANDONED)
  }

  // --- the guest's side ---

  /**
   * Takes one packet of the guest: `header` is the checked copy (addresses, type, and `len` against the
   * chain), `payload` holds `header.len` bytes behind the header.
   */
  receive(header: VsockHeader, payload: PacketSource): void {
    if (this.#state === "closed") return
    if (header.op === VIRTIO_VSOCK_OP_RST) {
      this.#receiveReset()
      return
    }
    if (!this.#send.update(header.bufAlloc, header.fwdCnt)) {
      this.reset("protocol-violation")
      return
    }
    if (this.#send.free > 0) this.#creditAsked = false
    if (this.#state === "established") this.#receiveEstablished(header, payload)
    else if (this.#state === "connecting") this.#receiveConnecting(header)
    else if (this.#state === "closing") this.#receiveClosing(header)
    else if (this.#state === "accepting") this.reset("protocol-violation")
    if (this.outgoing.length > 0) this.#sendSoon()
  }

  #receiveConnecting(header: VsockHeader): void {
    if (header.op !== VIRTIO_VSOCK_OP_RESPONSE || !this.#requestSent) {
      this.reset("protocol-violation")
      return
    }
    this.#state = "established"
    this.#notify(CONNECTION_OPEN)
  }

  #receiveEstablished(header: VsockHeader, payload: PacketSource): void {
    if (header.op === VIRTIO_VSOCK_OP_RW) this.#receiveData(header, payload)
    else if (header.op === VIRTIO_VSOCK_OP_SHUTDOWN) this.#receiveShutdown(header.flags)
    else if (header.op === VIRTIO_VSOCK_OP_CREDIT_REQUEST) this.#owe(OWES_CREDIT_UPDATE)
    else if (header.op !== VIRTIO_VSOCK_OP_CREDIT_UPDATE) this.reset("protocol-violation")
  }

  /** The guest closed at the same time: it waits for an RST as we do, and what it sent before is not wanted. */
  #receiveClosing(header: VsockHeader): void {
    if (header.op === VIRTIO_VSOCK_OP_SHUTDOWN) this.#receiveShutdown(header.flags)
  }

  #receiveData(header: VsockHeader, payload: PacketSource): void {
    const allowed = header.flags === 0 && !this.ended && this.#receive.received(header.len)
    if (!allowed || !this.incoming.append(payload, VSOCK_HEADER_SIZE, header.len)) {
      this.reset("protocol-violation")
      return
    }
    if (header.len > 0) this.#notify(CONNECTION_DATA)
  }

  #receiveShutdown(flags: number): void {
    this.#peerShutdown |= flags & VIRTIO_VSOCK_SHUTDOWN_MASK
    if (this.#peerShutdown === VIRTIO_VSOCK_SHUTDOWN_MASK) {
      this.reset()
      return
    }
    if (this.#peerShutdown & VIRTIO_VSOCK_SHUTDOWN_RCV) this.outgoing.clear()
    this.#notify(CONNECTION_SHUTDOWN)
  }

  #receiveReset(): void {
    if (this.#state === "connecting") {
      this.#end("connection-refused")
      return
    }
    // After the guest's last byte an RST takes nothing away that was not over.
    const orderly = this.#state === "closing" || (this.#peerShutdown & VIRTIO_VSOCK_SHUTDOWN_SEND) !== 0
    this.#end(orderly ? undefined : "connection-reset")
  }

  // --- towards the guest ---

  /** True when `next` would produce a packet. */
  wantsToSend(): boolean {
    if (this.#owes !== 0) return true
    if (this.outgoing.length === 0 || this.#state !== "established") return false
    return this.#send.free > 0 || !this.#creditAsked
  }

  /**
   * Produces the next packet: fills in op, flags, len and the credit fields of `header`, and writes `len`
   * bytes of payload, at most `room`, to `target` behind the header.
   * @returns false when there is nothing to send (or no room for what there is)
   */
  next(header: VsockHeader, target: PacketTarget, room: number): boolean {
    header.len = 0
    header.flags = 0
    header.bufAlloc = this.#receive.bufAlloc
    header.fwdCnt = this.#receive.fwdCnt
    const found = this.#nextSetup(header) || this.#nextData(header, target, room) || this.#nextControl(header)
    if (found) this.#receive.announced()
    return found
  }

  #nextSetup(header: VsockHeader): boolean {
    if (this.#pay(OWES_REQUEST)) {
      this.#requestSent = true
      header.op = VIRTIO_VSOCK_OP_REQUEST
    } else if (this.#pay(OWES_RESPONSE)) header.op = VIRTIO_VSOCK_OP_RESPONSE
    else return false
    return true
  }

  #nextData(header: VsockHeader, target: PacketTarget, room: number): boolean {
    if (this.#state !== "established") return false
    const length = Math.min(this.outgoing.length, this.#send.free, room)
    if (length <= 0) return false
    this.outgoing.moveTo(target, VSOCK_HEADER_SIZE, length)
    this.#send.sent(length)
    header.op = VIRTIO_VSOCK_OP_RW
    header.len = length
    // The credit fields of a data packet are as good as a CREDIT_UPDATE.
    this.#owes &= ~OWES_CREDIT_UPDATE
    if (this.outgoing.length === 0) this.#notify(CONNECTION_SENT)
    return true
  }

  #nextControl(header: VsockHeader): boolean {
    if (this.#pay(OWES_SHUTDOWN)) {
      header.op = VIRTIO_VSOCK_OP_SHUTDOWN
      header.flags = this.#ownShutdown
    } else if (this.#pay(OWES_CREDIT_UPDATE)) header.op = VIRTIO_VSOCK_OP_CREDIT_UPDATE
    else if (this.#asksForCredit()) header.op = VIRTIO_VSOCK_OP_CREDIT_REQUEST
    else return false
    return true
  }

  /** Once per standstill: a guest that does not tell of free space by itself is asked. */
  #asksForCredit(): boolean {
    if (this.#creditAsked || this.outgoing.length === 0 || this.#send.free > 0) return false
    this.#creditAsked = true
    return true
  }

  // --- inner works ---

  #shutdown(flags: number): void {
    if (this.#state !== "established" || (this.#ownShutdown & flags) === flags) return
    this.#ownShutdown |= flags
    this.#owe(OWES_SHUTDOWN)
  }

  #end(reason: VsockErrorCode | undefined): void {
    this.#state = "closed"
    this.#closeReason = reason
    this.#owes = 0
    this.outgoing.clear()
    this.#notify(CONNECTION_CLOSED)
    this.#carrier.closed(this)
  }

  #owe(bit: number): void {
    this.#owes |= bit
    this.#sendSoon()
  }

  #pay(bit: number): boolean {
    if ((this.#owes & bit) === 0) return false
    this.#owes &= ~bit
    return true
  }

  #sendSoon(): void {
    if (!this.queuedToSend) this.#carrier.sendSoon(this)
  }

  #notify(event: number): void {
    const first = this.events === 0
    this.events |= event
    if (first) this.#carrier.notifySoon(this)
  }
}
