import { Connection } from "./connection.js"
import type { ConnectionCarrier } from "./connection-roles.js"
import {
  CLOSE_TIMEOUT_MS,
  FIRST_EPHEMERAL_PORT,
  MAX_QUEUED_RESETS,
  VIRTIO_VSOCK_MAX_PKT_BUF_SIZE,
  VIRTIO_VSOCK_OP_REQUEST,
  VIRTIO_VSOCK_OP_RST,
  VIRTIO_VSOCK_OP_RW,
  VIRTIO_VSOCK_TYPE_STREAM,
  VMADDR_CID_HOST,
  VMADDR_PORT_ANY,
} from "./defs.js"
import { VsockError, type VsockErrorCode } from "./errors.js"
import type { PacketSource, PacketTarget, VsockHeader } from "./packet.js"
import { PortMap } from "./port-map.js"
import { VsockStats } from "./stats.js"

/** Packets one connection may send before the next one has its turn. */
const BURST = 16

/** Takes connections the guest asks for. Runs inside the queue's drain loop, so it calls no user code. */
export interface Acceptor {
  /** Keeps `connection`, sets its consumer, and accepts or resets it, now or later. */
  incoming(connection: Connection): void
}

/** Limits and addresses of a muxer. */
export interface MuxerOptions {
  readonly guestCid: number
  readonly maxConnections: number
  /** Receive buffer per connection, in bytes. */
  readonly bufAlloc: number
}

/** An RST that belongs to no connection (any more). */
interface OwedReset {
  readonly srcCid: number
  readonly type: number
  readonly hostPort: number
  readonly guestPort: number
}

/**
 * All connections of one guest: gives each received packet to its connection, and picks the next packet to
 * send, resets first, then connections in turn.
 *
 * Knows packets and ports, not virtio: the device feeds it and calls `notifyConsumers` when the queues are
 * left alone.
 */
export class Muxer implements ConnectionCarrier {
  readonly stats: VsockStats = new VsockStats()
  /** Takes requests to ports that nobody listens on; without it they are refused. */
  fallback: Acceptor | undefined
  readonly #options: MuxerOptions
  readonly #wake: () => void
  readonly #connections = new PortMap<Connection>()
  readonly #acceptors = new Map<number, Acceptor>()
  /** Closed with unread bytes, oldest first: they count, or a guest could fill the host's memory with them. */
  readonly #unread = new Set<Connection>()
  readonly #closingTimers = new Map<Connection, NodeJS.Timeout>()
  #guestCid: number
  #senders: Connection[] = []
  #burst = 0
  #resets: OwedReset[] = []
  #notifications: Connection[] = []
  #nextPort = FIRST_EPHEMERAL_PORT

  /** `wake` is called whenever there is something to send or to notify; it returns at once. */
  constructor(options: MuxerOptions, wake: () => void) {
    this.#options = options
    this.#guestCid = options.guestCid
    this.#wake = wake
  }

  /** Connections that ended with bytes nobody has read yet. */
  get unreadSize(): number {
    return this.#unread.size
  }

  /** Connections that hold a port pair, closing ones included. */
  get size(): number {
    return this.#connections.size
  }

  get guestCid(): number {
    return this.#guestCid
  }

  set guestCid(cid: number) {
    this.#guestCid = cid
  }

  // --- the host's side ---

  /** Gives `port` to `acceptor`. Errors: `address-in-use`. */
  bind(port: number, acceptor: Acceptor): void {
    if (this.#acceptors.has(port)) throw new VsockError("address-in-use", port)
    this.#acceptors.set(port, acceptor)
  }

  /** Frees `port`. */
  unbind(port: number): void {
    this.#acceptors.delete(port)
  }

  /** A new connection to a guest port. Errors: `too-many-connections`. */
  connect(guestPort: number): Connection {
    if (!this.#hasRoom()) throw new VsockError("too-many-connections", guestPort)
    const hostPort = this.freePort()
    const connection = Connection.outbound(this, hostPort, guestPort, this.#options.bufAlloc)
    this.#connections.add(hostPort, guestPort, connection)
    return connection
  }

  /** A host port that is neither connected nor listened on. */
  freePort(): number {
    for (;;) {
      const port = this.#nextPort
      this.#nextPort = port + 1 === VMADDR_PORT_ANY ? FIRST_EPHEMERAL_PORT : port + 1
      if (!this.#connections.hasHostPort(port) && !this.#acceptors.has(port)) return port
    }
  }

  /** Ends every connection without a word to the guest, which is gone or was told otherwise. */
  dropAll(reason: VsockErrorCode): void {
    for (const connection of this.#connections.values()) connection.drop(reason)
    this.#senders = []
    this.#resets = []
  }

  /** Resets every connection. */
  closeAll(): void {
    for (const connection of this.#connections.values()) connection.reset("closed")
  }

  /** Tells consumers what happened. May throw what a consumer throws; the rest is told next time. */
  notifyConsumers(): void {
    const list = this.#notifications
    this.#notifications = []
    let told = 0
    try {
      for (; told < list.length; told++) {
        const connection = list[told]!
        const events = connection.events
        connection.events = 0
        connection.consumer?.onEvents(events)
      }
    } finally {
      if (told < list.length) this.#notifications = [...list.slice(told + 1), ...this.#notifications]
    }
  }

  /** True while there is something to tell consumers. */
  get hasNotifications(): boolean {
    return this.#notifications.length > 0
  }

  // --- from the guest ---

  /** True when so many RSTs wait that no more packets should be received until some were sent. */
  get congested(): boolean {
    return this.#resets.length >= MAX_QUEUED_RESETS
  }

  /**
   * Takes one packet. `header` is the private copy; `available` says how many payload bytes `payload` has
   * behind its 44 header bytes.
   */
  receive(header: VsockHeader, payload: PacketSource, available: number): void {
    this.stats.packetsFromGuest++
    if (header.srcCid !== this.#guestCid) {
      // Answering a forged address would reach nobody.
      this.stats.dropped++
      return
    }
    if (header.dstCid !== VMADDR_CID_HOST || header.type !== VIRTIO_VSOCK_TYPE_STREAM) {
      this.#refuse(header)
      return
    }
    const connection = this.#connections.get(header.dstPort, header.srcPort)
    if (!isWellFormed(header, available)) {
      this.stats.malformed++
      if (connection !== undefined) connection.reset("protocol-violation")
      else this.#refuse(header)
    } else if (header.op === VIRTIO_VSOCK_OP_REQUEST) this.#request(header, connection)
    else if (connection === undefined) this.#refuse(header)
    else {
      this.stats.bytesFromGuest += header.len
      connection.receive(header, payload)
    }
  }

  #request(header: VsockHeader, existing: Connection | undefined): void {
    if (existing !== undefined && existing.state !== "closing") {
      existing.reset("protocol-violation")
      return
    }
    existing?.drop("connection-reset")
    const acceptor = this.#acceptors.get(header.dstPort) ?? this.fallback
    if (acceptor === undefined || !this.#hasRoom()) {
      this.#refuse(header)
      return
    }
    const connection = Connection.inbound(this, header, this.#options.bufAlloc)
    this.#connections.add(connection.hostPort, connection.guestPort, connection)
    this.stats.accepted++
    acceptor.incoming(connection)
  }

  #refuse(header: VsockHeader): void {
    this.stats.refused++
    // An RST is never answered, or two ends could keep each other busy.
    if (header.op === VIRTIO_VSOCK_OP_RST || header.dstCid > 0xffff_ffff) return
    this.#queueReset(header.dstCid, header.type, header.dstPort, header.srcPort)
  }

  #hasRoom(): boolean {
    if (this.#connections.size + this.#unread.size < this.#options.maxConnections) return true
    const closing = this.#closingTimers.keys().next().value
    if (closing !== undefined) {
      closing.reset()
      return true
    }
    const unread = this.#unread.values().next().value
    if (unread === undefined) return false
    this.#unread.delete(unread)
    unread.abandon()
    return true
  }

  // --- to the guest ---

  /** True when `next` has a packet. */
  get hasOutput(): boolean {
    if (this.#resets.length > 0) return true
    for (let sender = this.#senders[0]; sender !== undefined; sender = this.#senders[0]) {
      if (sender.wantsToSend()) return true
      this.#removeSender()
    }
    return false
  }

  /**
   * Produces the next packet: fills in all of `header` and writes `header.len` payload bytes, at most
   * `room` (one or more), to `target` behind the header.
   * @returns false when there is none
   */
  next(header: VsockHeader, target: PacketTarget, room: number): boolean {
    header.dstCid = this.#guestCid
    if (!this.#nextReset(header) && !this.#nextOfSenders(header, target, room)) return false
    this.stats.packetsToGuest++
    this.stats.bytesToGuest += header.len
    return true
  }

  #nextReset(header: VsockHeader): boolean {
    const reset = this.#resets.shift()
    if (reset === undefined) return false
    header.srcCid = reset.srcCid
    header.srcPort = reset.hostPort
    header.dstPort = reset.guestPort
    header.type = reset.type
    header.op = VIRTIO_VSOCK_OP_RST
    header.len = 0
    header.flags = 0
    header.bufAlloc = 0
    header.fwdCnt = 0
    this.stats.resetsSent++
    return true
  }

  #nextOfSenders(header: VsockHeader, target: PacketTarget, room: number): boolean {
    for (let sender = this.#senders[0]; sender !== undefined; sender = this.#senders[0]) {
      if (sender.next(header, target, room)) {
        header.srcCid = VMADDR_CID_HOST
        header.srcPort = sender.hostPort
        header.dstPort = sender.guestPort
        header.type = VIRTIO_VSOCK_TYPE_STREAM
        if (!sender.wantsToSend()) this.#removeSender()
        else if (++this.#burst >= BURST && this.#senders.length > 1) this.#rotateSenders()
        return true
      }
      this.#removeSender()
    }
    return false
  }

  #removeSender(): void {
    this.#burst = 0
    const sender = this.#senders.shift()
    if (sender !== undefined) sender.queuedToSend = false
  }

  #rotateSenders(): void {
    this.#burst = 0
    this.#senders.push(this.#senders.shift()!)
  }

  #queueReset(srcCid: number, type: number, hostPort: number, guestPort: number): void {
    this.#resets.push({ srcCid, type, hostPort, guestPort })
    this.#wake()
  }

  // --- ConnectionCarrier ---

  sendSoon(connection: Connection): void {
    connection.queuedToSend = true
    this.#senders.push(connection)
    this.#wake()
  }

  notifySoon(connection: Connection): void {
    this.#notifications.push(connection)
    this.#wake()
  }

  sendReset(connection: Connection): void {
    this.#queueReset(VMADDR_CID_HOST, VIRTIO_VSOCK_TYPE_STREAM, connection.hostPort, connection.guestPort)
  }

  closing(connection: Connection): void {
    const timer = setTimeout(() => connection.reset(), CLOSE_TIMEOUT_MS)
    timer.unref()
    this.#closingTimers.set(connection, timer)
  }

  closed(connection: Connection): void {
    clearTimeout(this.#closingTimers.get(connection))
    this.#closingTimers.delete(connection)
    this.#connections.delete(connection.hostPort, connection.guestPort)
    if (connection.unread > 0) this.#unread.add(connection)
  }

  released(connection: Connection): void {
    this.#unread.delete(connection)
  }
}

/** What no state of a connection can make right. */
function isWellFormed(header: VsockHeader, available: number): boolean {
  if (header.len > available || header.len > VIRTIO_VSOCK_MAX_PKT_BUF_SIZE) return false
  return header.len === 0 || header.op === VIRTIO_VSOCK_OP_RW
}
