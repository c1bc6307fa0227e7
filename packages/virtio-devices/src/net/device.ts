import type { DeviceContext, VirtioDevice } from "../device.js"
import { hasFeature } from "../features.js"
import { VIRTIO_ID } from "../ids.js"
import type { DescriptorChain } from "../queue/chain.js"
import * as defs from "./defs.js"
import type { NetPort } from "./port.js"

/** Options of {@link NetDevice}. */
export interface NetDeviceOptions {
  /** `02:00:00:00:00:01`; unicast. Default: a random, locally administered address. */
  readonly mac?: string
  /** Largest packet in bytes, 68 to 65,535, without the Ethernet header. Default 1500. */
  readonly mtu?: number
}

/** What went through a device. */
export interface NetCounters {
  framesSent: number
  bytesSent: number
  framesReceived: number
  bytesReceived: number
  /** Frames of the guest that were none: too short, too long, or with an offload that was not offered. */
  dropped: number
}

const QUEUE_SIZE = 256
/** Frames of the guest in one turn of the event loop; the rest wait for the next. */
const MAX_TURN_FRAMES = 256
/** Most buffers of the guest for one frame: 65,549 bytes in pieces of 1 KiB. */
const MAX_BUFFERS = 64

/**
 * A virtio network device: moves Ethernet frames between the guest and a {@link NetPort}. No offloads are offered, so
 * every frame is whole and has its checksums; receive buffers are merged, so a large MTU needs no large buffers.
 *
 * @see virtio 1.3, section 5.1
 *
 * @example
 * ```ts
 * const device = new NetDevice(new StreamPort(socket), { mtu: 65_520 })
 * const server = serveVhostUser(device, { socketPath: "net.sock" })
 * ```
 */
export class NetDevice implements VirtioDevice {
  readonly type = VIRTIO_ID.net
  readonly queueSizes = [QUEUE_SIZE, QUEUE_SIZE]
  readonly features =
    defs.VIRTIO_NET_F_MTU | defs.VIRTIO_NET_F_MAC | defs.VIRTIO_NET_F_MRG_RXBUF | defs.VIRTIO_NET_F_STATUS
  readonly counters: NetCounters = {
    framesSent: 0,
    bytesSent: 0,
    framesReceived: 0,
    bytesReceived: 0,
    dropped: 0,
  }
  /** As `02:00:00:00:00:01`. */
  readonly mac: string
  readonly #port: NetPort
  readonly #config = new DataView(new ArrayBuffer(defs.CONFIG_SIZE))
  readonly #maxFrame: number
  /** A frame of the guest, copied once. */
  readonly #frame: Uint8Array
  readonly #header = new Uint8Array(defs.NET_HEADER_SIZE)
  readonly #chains: DescriptorChain[] = []
  #ctx: DeviceContext | undefined
  #merges = false
  #waiting = false

  /** @throws RangeError for an option out of its range */
  constructor(port: NetPort, options: NetDeviceOptions = {}) {
    const { mac = randomMac(), mtu = 1500 } = options
    if (!(Number.isInteger(mtu) && mtu >= defs.MIN_MTU && mtu <= defs.MAX_MTU))
      throw new RangeError(`mtu must be an integer from ${defs.MIN_MTU} to ${defs.MAX_MTU}`)
    this.mac = mac
    this.#port = port
    this.#maxFrame = mtu + defs.ETHERNET_HEADER_SIZE
    this.#frame = new Uint8Array(this.#maxFrame)
    new Uint8Array(this.#config.buffer).set(parseMac(mac))
    this.#config.setUint16(defs.CONFIG.status, defs.VIRTIO_NET_S_LINK_UP, true)
    this.#config.setUint16(defs.CONFIG.mtu, mtu, true)
    port.attach(
      frame => this.#receive(frame),
      () => this.notify(defs.TRANSMIT_QUEUE),
    )
  }

  readConfig(offset: number, into: Uint8Array): void {
    const config = new Uint8Array(this.#config.buffer).subarray(offset)
    into.fill(0)
    into.set(config.subarray(0, into.length))
  }

  /** Takes the cable out, or puts it in; the guest is told. */
  setLink(isUp: boolean): void {
    this.#config.setUint16(defs.CONFIG.status, isUp ? defs.VIRTIO_NET_S_LINK_UP : 0, true)
    this.#ctx?.configChanged()
  }

  activate(ctx: DeviceContext): void {
    this.#ctx = ctx
    this.#merges = hasFeature(ctx.features, defs.VIRTIO_NET_F_MRG_RXBUF)
  }

  reset(): void {
    this.#ctx = undefined
    this.#waiting = false
  }

  notify(index: number): void {
    if (index === defs.RECEIVE_QUEUE) this.#port.resume()
    else if (this.#ctx && !this.#waiting) this.#transmit(this.#ctx)
  }

  #transmit(ctx: DeviceContext): void {
    let turn = 0
    ctx.drain(defs.TRANSMIT_QUEUE, chain => {
      const isOver = turn++ >= MAX_TURN_FRAMES
      if (!isOver && this.#send(chain)) return 0
      ctx.unpop(defs.TRANSMIT_QUEUE, chain)
      // Otherwise the port says when it has room.
      if (isOver) this.#goOnLater(ctx)
      return undefined
    })
  }

  /** @returns false when the port has no room */
  #send(chain: DescriptorChain): boolean {
    const length = chain.readableLength - defs.NET_HEADER_SIZE
    // Nothing was offered that would fill the header's fields: what does is not a frame.
    const isFrame =
      length >= defs.ETHERNET_HEADER_SIZE &&
      length <= this.#maxFrame &&
      chain.read(0, this.#header) === defs.NET_HEADER_SIZE &&
      this.#header[0] === 0 &&
      this.#header[1] === 0
    if (!isFrame) {
      this.counters.dropped++
      return true
    }
    const frame = this.#frame.subarray(0, length)
    chain.read(defs.NET_HEADER_SIZE, frame)
    if (!this.#port.send(frame)) return false
    this.counters.framesSent++
    this.counters.bytesSent += length
    return true
  }

  #goOnLater(ctx: DeviceContext): void {
    this.#waiting = true
    setImmediate(() => {
      if (ctx.signal.aborted) return
      this.#waiting = false
      this.notify(defs.TRANSMIT_QUEUE)
    })
  }

  /** @returns false while the guest has no buffers; without a guest frames are lost, as on a cable */
  #receive(frame: Uint8Array): boolean {
    const ctx = this.#ctx
    if (!ctx || frame.length > this.#maxFrame) return true
    const chains = this.#chains
    const most = this.#merges ? MAX_BUFFERS : 1
    const needed = frame.length + defs.NET_HEADER_SIZE
    let room = 0
    while (room < needed && chains.length < most) {
      const chain = ctx.pop(defs.RECEIVE_QUEUE)
      if (!chain) break
      chains.push(chain)
      room += chain.writableLength
    }
    const isDone = room >= needed || chains.length === most
    if (room >= needed) this.#fill(ctx, frame)
    else if (isDone) this.#drop(ctx)
    else for (const chain of chains.reverse()) ctx.unpop(defs.RECEIVE_QUEUE, chain)
    chains.length = 0
    return isDone
  }

  /** Buffers so small that as many as may be do not hold a frame are the driver's fault: they come back empty. */
  #drop(ctx: DeviceContext): void {
    this.counters.dropped++
    for (const chain of this.#chains) ctx.complete(defs.RECEIVE_QUEUE, chain, 0)
  }

  /** The header says over how many buffers the frame is spread. */
  #fill(ctx: DeviceContext, frame: Uint8Array): void {
    const header = this.#header
    header.fill(0)
    header[defs.NUM_BUFFERS_OFFSET] = this.#chains.length
    let done = 0
    for (const [index, chain] of this.#chains.entries()) {
      const skip = index === 0 ? chain.write(0, header) : 0
      const part = chain.write(skip, done === 0 ? frame : frame.subarray(done))
      done += part
      ctx.complete(defs.RECEIVE_QUEUE, chain, skip + part)
    }
    this.counters.framesReceived++
    this.counters.bytesReceived += frame.length
  }
}

/** A random, locally administered, unicast MAC address. */
export function randomMac(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(6))
  bytes[0] = ((bytes[0] as number) & 0xfc) | 2 // locally administered, unicast
  return [...bytes].map(byte => byte.toString(16).padStart(2, "0")).join(":")
}

function parseMac(mac: string): Uint8Array {
  if (!/^([0-9a-f]{2}:){5}[0-9a-f]{2}$/i.test(mac)) throw new RangeError(`mac "${mac}" is no MAC address`)
  const bytes = Uint8Array.from(mac.split(":"), part => Number.parseInt(part, 16))
  if (((bytes[0] as number) & 1) === 1) throw new RangeError(`mac "${mac}" is a group's address`)
  return bytes
}
