import { advance, distance } from "../credit.js"
import {
  VIRTIO_VSOCK_MAX_PKT_BUF_SIZE,
  VIRTIO_VSOCK_OP_CREDIT_REQUEST,
  VIRTIO_VSOCK_OP_CREDIT_UPDATE,
  VIRTIO_VSOCK_OP_REQUEST,
  VIRTIO_VSOCK_OP_RESPONSE,
  VIRTIO_VSOCK_OP_RST,
  VIRTIO_VSOCK_OP_RW,
  VIRTIO_VSOCK_OP_SHUTDOWN,
  VIRTIO_VSOCK_SHUTDOWN_MASK,
  VIRTIO_VSOCK_SHUTDOWN_SEND,
  VIRTIO_VSOCK_TYPE_STREAM,
  VMADDR_CID_HOST,
} from "../defs.js"
import { emptyHeader, HeaderBuffer, type VsockHeader } from "../packet.js"
import { PortMap } from "../port-map.js"

const FIRST_PORT = 10_000
const GUEST_BUF_ALLOC = 256 * 1024
const NOTHING = new Uint8Array()

/** How packets of a simulated guest travel. */
export interface GuestWire {
  /** Sends one packet: a 44-byte header, valid during the call, and its payload. */
  send(header: Uint8Array, payload: Uint8Array): void
}

/** What a guest's program does with a connection. */
export interface GuestHandlers {
  /**
   * Bytes arrived, valid during the call; they count as read when it returns, unless `GuestSocket.autoRead`
   * is off.
   */
  onData?(bytes: Uint8Array, socket: GuestSocket): void
  /** The host will send no more. */
  onEnd?(socket: GuestSocket): void
  /** The connection is gone. */
  onClose?(socket: GuestSocket): void
}

/**
 * The guest's half of vsock, as simple as it can be and still correct: for tests, benchmarks and examples
 * that have no Linux at hand. Hostile packets are sent with `raw`.
 *
 * @example
 * ```ts
 * const guest = new GuestVsock(3, { send: (header, payload) => driver.transmit(header, payload) })
 * const socket = await guest.connect(1024)
 * socket.write(new TextEncoder().encode("hello"))
 * ```
 */
export class GuestVsock {
  readonly cid: number
  /** Headers of packets that belonged to no socket, oldest first. */
  readonly stray: VsockHeader[] = []
  readonly #wire: GuestWire
  readonly #sockets = new PortMap<GuestSocket>()
  readonly #listeners = new Map<number, GuestHandlers>()
  readonly #buffer = new HeaderBuffer()
  readonly #received = emptyHeader()
  readonly #sent = emptyHeader()
  #nextPort = FIRST_PORT

  constructor(cid: number, wire: GuestWire) {
    this.cid = cid
    this.#wire = wire
  }

  /** Sockets in use. */
  get size(): number {
    return this.#sockets.size
  }

  /** Accepts the host's connections to `port`. */
  listen(port: number, handlers: GuestHandlers = {}): void {
    this.#listeners.set(port, handlers)
  }

  /** Opens a connection to a host port; rejects when it is refused. */
  connect(
    hostPort: number,
    handlers: GuestHandlers = {},
    port: number = this.#nextPort++,
  ): Promise<GuestSocket> {
    const socket = this.#add(port, hostPort, handlers)
    this.sendFrom(socket, VIRTIO_VSOCK_OP_REQUEST)
    return socket.connected
  }

  /** Sends a packet as given, from this guest's CID unless told otherwise. */
  raw(header: Partial<VsockHeader>, payload: Uint8Array = NOTHING): void {
    const full = {
      ...emptyHeader(),
      srcCid: this.cid,
      dstCid: VMADDR_CID_HOST,
      type: VIRTIO_VSOCK_TYPE_STREAM,
    }
    this.#buffer.encode({ ...full, len: payload.length, bufAlloc: GUEST_BUF_ALLOC, ...header })
    this.#wire.send(this.#buffer.bytes, payload)
  }

  /** Sends a packet of `socket`, with its credit fields. */
  sendFrom(socket: GuestSocket, op: number, flags = 0, payload: Uint8Array = NOTHING): void {
    const header = this.#sent
    header.srcCid = this.cid
    header.dstCid = VMADDR_CID_HOST
    header.srcPort = socket.port
    header.dstPort = socket.hostPort
    header.len = payload.length
    header.type = VIRTIO_VSOCK_TYPE_STREAM
    header.op = op
    header.flags = flags
    header.bufAlloc = socket.bufAlloc
    header.fwdCnt = socket.fwdCnt
    this.#buffer.encode(header)
    this.#wire.send(this.#buffer.bytes, payload)
  }

  /** Takes one packet of the host: a header and its payload, which is looked at during the call only. */
  receive(headerBytes: Uint8Array, payload: Uint8Array): void {
    const header = this.#received
    this.#buffer.bytes.set(headerBytes)
    this.#buffer.decode(header)
    if (header.op === VIRTIO_VSOCK_OP_REQUEST) {
      this.#request(header)
      return
    }
    const socket = this.#sockets.get(header.srcPort, header.dstPort)
    if (socket !== undefined) socket.receive(header, payload)
    else this.stray.push({ ...header })
  }

  /** Forgets a socket. */
  remove(socket: GuestSocket): void {
    this.#sockets.delete(socket.hostPort, socket.port)
  }

  #request(header: VsockHeader): void {
    const handlers = this.#listeners.get(header.dstPort)
    if (handlers === undefined) {
      this.raw({ srcPort: header.dstPort, dstPort: header.srcPort, op: VIRTIO_VSOCK_OP_RST })
      return
    }
    const socket = this.#add(header.dstPort, header.srcPort, handlers)
    socket.receive({ ...header, op: VIRTIO_VSOCK_OP_RESPONSE }, NOTHING)
    this.sendFrom(socket, VIRTIO_VSOCK_OP_RESPONSE)
  }

  #add(port: number, hostPort: number, handlers: GuestHandlers): GuestSocket {
    const socket = new GuestSocket(this, port, hostPort, handlers)
    this.#sockets.add(hostPort, port, socket)
    return socket
  }
}

/** A socket in a simulated guest. */
export class GuestSocket {
  readonly port: number
  readonly hostPort: number
  /** Settles once the host has answered. */
  readonly connected: Promise<GuestSocket>
  readonly bufAlloc = GUEST_BUF_ALLOC
  /** Bytes that arrived and were not read; only with `autoRead` off. */
  readonly unread: Uint8Array[] = []
  /** Reads whatever arrives at once. */
  autoRead = true
  /** `VIRTIO_VSOCK_SHUTDOWN_*` bits of the host. */
  peerShutdown = 0
  closed = false
  fwdCnt = 0
  readonly #guest: GuestVsock
  readonly #handlers: GuestHandlers
  readonly #pending: Uint8Array[] = []
  #announced = 0
  #txCnt = 0
  #peerFwdCnt = 0
  #peerBufAlloc = 0
  #ownShutdown = 0
  #settle: { resolve(socket: GuestSocket): void; reject(error: Error): void } | undefined

  constructor(guest: GuestVsock, port: number, hostPort: number, handlers: GuestHandlers) {
    this.#guest = guest
    this.port = port
    this.hostPort = hostPort
    this.#handlers = handlers
    this.connected = new Promise((resolve, reject) => {
      this.#settle = { resolve, reject }
    })
  }

  /** Bytes accepted by `write` and not yet sent for want of credit. */
  get queued(): number {
    return this.#pending.reduce((sum, part) => sum + part.length, 0)
  }

  /** Sends bytes, waiting for credit as needed. */
  write(bytes: Uint8Array): void {
    this.#pending.push(bytes)
    this.#flush()
  }

  /** Reads everything that arrived (with `autoRead` off). */
  readAll(): Buffer {
    const bytes = Buffer.concat(this.unread.splice(0))
    this.#consumed(bytes.length)
    return bytes
  }

  /** Shuts down ways of the connection once everything was sent. */
  shutdown(flags: number = VIRTIO_VSOCK_SHUTDOWN_SEND): void {
    this.#ownShutdown |= flags
    this.#flush()
  }

  /** As `close(2)`: sends what is queued, then shuts both ways down. */
  close(): void {
    this.shutdown(VIRTIO_VSOCK_SHUTDOWN_MASK)
  }

  /** Aborts. */
  reset(): void {
    this.#guest.sendFrom(this, VIRTIO_VSOCK_OP_RST)
    this.#gone()
  }

  /** Takes a packet of the host; called by `GuestVsock`. */
  receive(header: VsockHeader, payload: Uint8Array): void {
    this.#peerBufAlloc = header.bufAlloc
    this.#peerFwdCnt = header.fwdCnt
    if (header.op === VIRTIO_VSOCK_OP_RESPONSE) this.#settle?.resolve(this)
    else if (header.op === VIRTIO_VSOCK_OP_RW) this.#data(payload)
    else if (header.op === VIRTIO_VSOCK_OP_SHUTDOWN) this.#shutDownByHost(header.flags)
    else if (header.op === VIRTIO_VSOCK_OP_CREDIT_REQUEST) this.#announce()
    if (header.op === VIRTIO_VSOCK_OP_RST) this.#gone()
    else this.#flush()
  }

  #data(payload: Uint8Array): void {
    this.#handlers.onData?.(payload, this)
    if (this.autoRead) this.#consumed(payload.length)
    else this.unread.push(payload.slice())
  }

  #consumed(length: number): void {
    this.fwdCnt = advance(this.fwdCnt, length)
    if (distance(this.fwdCnt, this.#announced) * 2 >= this.bufAlloc) this.#announce()
  }

  #announce(): void {
    this.#announced = this.fwdCnt
    this.#guest.sendFrom(this, VIRTIO_VSOCK_OP_CREDIT_UPDATE)
  }

  #shutDownByHost(flags: number): void {
    const before = this.peerShutdown
    this.peerShutdown |= flags
    if (this.peerShutdown & ~before & VIRTIO_VSOCK_SHUTDOWN_SEND) this.#handlers.onEnd?.(this)
    if (this.peerShutdown === VIRTIO_VSOCK_SHUTDOWN_MASK && !this.closed) this.reset()
  }

  #flush(): void {
    for (let part = this.#pending[0]; part !== undefined; part = this.#pending[0]) {
      const free = this.#peerBufAlloc - distance(this.#txCnt, this.#peerFwdCnt)
      const length = Math.min(part.length, free, VIRTIO_VSOCK_MAX_PKT_BUF_SIZE)
      if (length <= 0) return
      this.#announced = this.fwdCnt
      this.#guest.sendFrom(this, VIRTIO_VSOCK_OP_RW, 0, part.subarray(0, length))
      this.#txCnt = advance(this.#txCnt, length)
      if (length === part.length) this.#pending.shift()
      else this.#pending[0] = part.subarray(length)
    }
    if (this.#ownShutdown === 0) return
    this.#guest.sendFrom(this, VIRTIO_VSOCK_OP_SHUTDOWN, this.#ownShutdown)
    this.#ownShutdown = 0
  }

  #gone(): void {
    this.closed = true
    this.#guest.remove(this)
    this.#settle?.reject(new Error("connection refused"))
    this.connected.catch(() => undefined)
    this.#handlers.onClose?.(this)
  }
}
