import {
  type DescriptorChain,
  type DeviceContext,
  VIRTIO_ID,
  type VirtioDevice,
} from "@ts-vmm/virtio-devices"
import { type ConnectOptions, connect } from "./connect.js"
import {
  DEFAULT_BACKLOG,
  DEFAULT_BUF_ALLOC,
  DEFAULT_MAX_CONNECTIONS,
  VIRTIO_VSOCK_EVENT_TRANSPORT_RESET,
  VIRTIO_VSOCK_F_STREAM,
  VMADDR_PORT_ANY,
  VSOCK_EVENT_QUEUE,
  VSOCK_EVENT_SIZE,
  VSOCK_FIRST_GUEST_CID,
  VSOCK_HEADER_SIZE,
  VSOCK_RX_QUEUE,
  VSOCK_TX_QUEUE,
} from "./defs.js"
import { VsockError } from "./errors.js"
import { type OnConnection, VsockListener } from "./listener.js"
import { type Acceptor, Muxer } from "./muxer.js"
import { Pace } from "./pace.js"
import { emptyHeader, HeaderBuffer } from "./packet.js"
import type { VsockStats } from "./stats.js"
import type { VsockStream } from "./streams.js"

/** Largest queue size; Linux uses it as offered. */
const QUEUE_SIZE = 256
/** Rounds of notify-and-send before other work of the process has its turn. */
const ROUNDS_PER_TURN = 32

/** What a vsock device is made of. */
export interface VsockDeviceOptions {
  /** Context id of the guest: 3 to 2^32 - 2. */
  readonly guestCid: number
  /** Connections at one time; default 1024. Further requests of the guest are refused. */
  readonly maxConnections?: number
  /** Bytes per connection that the guest may have under way to us; default 256 KiB. */
  readonly bufAlloc?: number
}

/** How a port is listened on. */
export interface ListenOptions {
  /** Without a callback: connections held until somebody takes them; further ones are refused. Default 128. */
  readonly backlog?: number
}

/**
 * The virtio socket device, with its host side.
 *
 * The host is CID 2. Connections can be asked for before the guest is up: they wait for its driver.
 *
 * @see virtio 1.3, section 5.10
 *
 * @example
 * ```ts
 * const vsock = new VsockDevice({ guestCid: 3 })
 * await serveVhostUser(vsock, { socketPath: "vsock.sock" })
 * vsock.listen(1024, stream => pipeline(stream, stream).catch(report))
 * const shell = await vsock.connect(22, { timeoutMs: 1000 })
 * ```
 */
export class VsockDevice implements VirtioDevice {
  readonly type = VIRTIO_ID.vsock
  readonly queueSizes = [QUEUE_SIZE, QUEUE_SIZE, QUEUE_SIZE]
  readonly features = VIRTIO_VSOCK_F_STREAM
  readonly #muxer: Muxer
  readonly #listeners = new Set<VsockListener>()
  readonly #header = emptyHeader()
  readonly #headerBuffer = new HeaderBuffer()
  #ctx: DeviceContext | undefined
  /** Packets of the guest wait until RSTs could be sent. */
  #transmitStalled = false
  /** Chains of packets without payload, taken by the running drain. */
  readonly #bare: DescriptorChain[] = []
  readonly #pace = new Pace()
  #turnPending = false
  /** Rounds since other work of the process had its turn. */
  #rounds = 0
  #resetEventPending = false

  /** Errors: `invalid-argument`. */
  constructor(options: VsockDeviceOptions) {
    const { guestCid, maxConnections = DEFAULT_MAX_CONNECTIONS, bufAlloc = DEFAULT_BUF_ALLOC } = options
    requireGuestCid(guestCid)
    requireInteger("maxConnections", maxConnections, 1, 2 ** 20)
    requireInteger("bufAlloc", bufAlloc, 1, 2 ** 31)
    this.#muxer = new Muxer({ guestCid, maxConnections, bufAlloc }, () => this.#wake())
  }

  /** Context id of the guest. */
  get guestCid(): number {
    return this.#muxer.guestCid
  }

  /** Counters. */
  get stats(): Readonly<VsockStats> {
    return this.#muxer.stats
  }

  /** Connections that hold a port pair now. */
  get connectionCount(): number {
    return this.#muxer.size
  }

  // --- the host's side ---

  /**
   * Connects to `port` in the guest. Errors: `connection-refused`, `timeout`, `aborted`, `device-reset`,
   * `too-many-connections`, `invalid-argument`.
   */
  async connect(port: number, options: ConnectOptions = {}): Promise<VsockStream> {
    requirePort(port)
    return await connect(this.#muxer, port, options)
  }

  /**
   * Takes the guest's connections to host port `port` (`VMADDR_PORT_ANY`: a free one). Without a callback
   * the listener is to be iterated. A listener outlives resets of the device. Errors: `address-in-use`,
   * `invalid-argument`.
   */
  listen(port: number, onConnection?: OnConnection, options: ListenOptions = {}): VsockListener {
    if (port !== VMADDR_PORT_ANY) requirePort(port)
    const actual = port === VMADDR_PORT_ANY ? this.#muxer.freePort() : port
    const listener = new VsockListener(this.#muxer, actual, options.backlog ?? DEFAULT_BACKLOG, onConnection)
    this.#listeners.add(listener)
    return listener
  }

  /** Sets who takes requests to ports that nobody listens on; undefined refuses them. */
  setFallback(acceptor: Acceptor | undefined): void {
    this.#muxer.fallback = acceptor
  }

  /**
   * The guest goes on after its other ends are gone (restored from a snapshot): drops every connection and
   * tells the driver so, which also makes it read its CID again.
   *
   * @see virtio 1.3, section 5.10.6.7
   */
  resetTransport(guestCid: number = this.guestCid): void {
    requireGuestCid(guestCid)
    this.#muxer.dropAll("device-reset")
    this.#muxer.guestCid = guestCid
    this.#resetEventPending = true
    this.#sendEvents()
  }

  /**
   * Closes all listeners and connections: the guest gets RSTs, streams close without an error, and pending
   * `connect` calls fail with `closed`. The device itself stays usable.
   */
  close(): void {
    for (const listener of this.#listeners) listener.close()
    this.#listeners.clear()
    this.#muxer.closeAll()
  }

  [Symbol.dispose](): void {
    this.close()
  }

  // --- VirtioDevice ---

  readConfig(offset: number, into: Uint8Array): void {
    const config = new Uint8Array(8)
    new DataView(config.buffer).setUint32(0, this.guestCid, true)
    into.fill(0)
    into.set(config.subarray(offset, offset + into.length))
  }

  activate(ctx: DeviceContext): void {
    this.#ctx = ctx
    this.#sendEvents()
    this.#wake()
  }

  notify(index: number): void {
    const ctx = this.#ctx
    if (ctx === undefined) return
    if (index === VSOCK_TX_QUEUE) this.#drainTransmit(ctx)
    else if (index === VSOCK_EVENT_QUEUE) this.#sendEvents()
    this.#wake()
  }

  reset(): void {
    if (this.#ctx === undefined) return
    this.#ctx = undefined
    // A driver that never stopped (another front end took over) has to learn that its sockets are gone.
    this.#resetEventPending = this.#muxer.size > 0
    this.#muxer.dropAll("device-reset")
  }

  // --- queues ---

  /**
   * Buffers of bare packets (credit, mostly) are given back behind the turn: what it sends thanks to that credit
   * wakes the guest, which finds them then, instead of being woken for them first and for the data after that.
   */
  #drainTransmit(ctx: DeviceContext): void {
    this.#transmitStalled = false
    // Ahead of the microtask that `complete` asks for.
    this.#wake()
    ctx.drain(VSOCK_TX_QUEUE, this.#onTransmit)
    for (const chain of this.#bare) ctx.complete(VSOCK_TX_QUEUE, chain, 0)
    this.#bare.length = 0
  }

  readonly #onTransmit = (chain: DescriptorChain): number | undefined => {
    if (this.#muxer.congested) {
      this.#transmitStalled = true
      this.#ctx?.unpop(VSOCK_TX_QUEUE, chain)
      return undefined
    }
    const bare = chain.readableLength === VSOCK_HEADER_SIZE
    this.#receive(chain)
    if (!bare) return 0
    this.#bare.push(chain)
    return undefined
  }

  #receive(chain: DescriptorChain): void {
    if (chain.read(0, this.#headerBuffer.bytes) < VSOCK_HEADER_SIZE) {
      this.#muxer.stats.malformed++
      return
    }
    this.#headerBuffer.decode(this.#header)
    this.#muxer.receive(this.#header, chain, chain.readableLength - VSOCK_HEADER_SIZE)
  }

  /**
   * Fills receive buffers while there are packets, until that many are sent.
   * @returns true when it stopped for that
   */
  #send(ctx: DeviceContext, until: number): boolean {
    while (this.#muxer.hasOutput) {
      if (this.stats.packetsToGuest >= until) return true
      const chain = ctx.pop(VSOCK_RX_QUEUE)
      if (chain === undefined) return false
      const room = chain.writableLength - VSOCK_HEADER_SIZE
      if (room <= 0) {
        // Given back, it would be offered again for ever.
        ctx.fail(new VsockError("protocol-violation", undefined, "receive buffer has no room for a packet"))
        return false
      }
      if (this.#muxer.next(this.#header, chain, room)) {
        this.#headerBuffer.encode(this.#header)
        chain.write(0, this.#headerBuffer.bytes)
        ctx.complete(VSOCK_RX_QUEUE, chain, VSOCK_HEADER_SIZE + this.#header.len)
      } else {
        ctx.unpop(VSOCK_RX_QUEUE, chain)
        return false
      }
    }
    return false
  }

  #sendEvents(): void {
    const ctx = this.#ctx
    if (!this.#resetEventPending || !ctx?.hasQueue(VSOCK_EVENT_QUEUE)) return
    const chain = ctx.pop(VSOCK_EVENT_QUEUE)
    if (chain === undefined) return
    const event = new Uint8Array(VSOCK_EVENT_SIZE)
    new DataView(event.buffer).setUint32(0, VIRTIO_VSOCK_EVENT_TRANSPORT_RESET, true)
    const written = chain.write(0, event)
    ctx.complete(VSOCK_EVENT_QUEUE, chain, written)
    this.#resetEventPending = written < VSOCK_EVENT_SIZE
  }

  // --- turns ---

  /**
   * Consumers run in a turn of their own, never inside a queue operation: what they throw is theirs, and
   * what they write goes out with everything else in one batch.
   */
  #wake(): void {
    if (this.#turnPending) return
    this.#turnPending = true
    queueMicrotask(this.#turn)
  }

  /** Ends after one share of packets: the transport shows it in a microtask, behind which the next turn queues. */
  readonly #turn = (): void => {
    const sent = this.stats.packetsToGuest
    const until = sent + this.#pace.share(performance.now(), sent)
    let again = true
    try {
      // Wakes meanwhile are seen by the loop, so the turn stays pending.
      while (again && this.#rounds < ROUNDS_PER_TURN && this.stats.packetsToGuest < until) {
        this.#rounds++
        again = this.#round(until)
      }
    } finally {
      this.#turnPending = false
      if (!again) this.#rounds = 0
      else if (this.#rounds < ROUNDS_PER_TURN) this.#wake()
      else this.#wakeLater()
    }
  }

  #wakeLater(): void {
    setImmediate(() => {
      this.#rounds = 0
      this.#wake()
    })
  }

  /** @returns true when another round would find work */
  #round(until: number): boolean {
    this.#muxer.notifyConsumers()
    const ctx = this.#ctx
    let more = false
    if (ctx !== undefined) {
      more = this.#send(ctx, until)
      if (this.#transmitStalled && !this.#muxer.congested) {
        this.#drainTransmit(ctx)
        return true
      }
    }
    return more || this.#muxer.hasNotifications
  }
}

function requirePort(port: number): void {
  requireInteger("port", port, 0, VMADDR_PORT_ANY - 1)
}

function requireGuestCid(cid: number): void {
  requireInteger("guestCid", cid, VSOCK_FIRST_GUEST_CID, VMADDR_PORT_ANY - 1)
}

function requireInteger(name: string, value: number, min: number, max: number): void {
  if (Number.isInteger(value) && value >= min && value <= max) return
  throw new VsockError(
    "invalid-argument",
    undefined,
    `${name} must be an integer from ${min} to ${max}, not ${value}`,
  )
}
