import { closeFd } from "@ts-vmm/native"
import type { VirtioDevice } from "../device.js"
import { hasFeature, RING_FEATURES, VIRTIO_F_RING_PACKED, VIRTIO_F_VERSION_1 } from "../features.js"
import { SharedCounters } from "../shared-counters.js"
import type { TransportCounters } from "../transport/counters.js"
import { VIRTIO_CONFIG_S_NEEDS_RESET } from "../transport/negotiation.js"
import { BackendChannel } from "./backend-channel.js"
import { Connection, type MessageFds } from "./connection.js"
import * as defs from "./defs.js"
import { DeviceHost, type HostEvents } from "./device-host.js"
import { VhostUserError } from "./errors.js"
import { InflightMemory } from "./inflight-area.js"
import type { MemoryPolicy } from "./memory-table.js"
import * as message from "./message.js"
import type { Done, SessionRings } from "./session-rings.js"
import { ThreadedRings } from "./threads/threaded-rings.js"

/** How a back end treats its front end. */
export interface BackendOptions extends MemoryPolicy {
  /** How long a message may take from its first byte to its last. */
  readonly messageTimeoutMs: number
  /** How long requests in flight may take to end before a ring is stopped without them. */
  readonly quiesceTimeoutMs: number
  /** Offer packed rings. */
  readonly packed: boolean
}

/** What a back end tells its server. */
export interface BackendEvents {
  /** Once, unless `close` ended it; undefined when the front end simply left. */
  ended(error: VhostUserError | undefined): void
  /** The guest broke the protocol of a ring, or the device gave up. */
  deviceFailed(error: Error): void
}

const bit = (n: number) => 1n << BigInt(n)
const VHOST_FEATURES = bit(defs.VHOST_F_LOG_ALL) | bit(defs.VHOST_USER_F_PROTOCOL_FEATURES)
const PROTOCOL_FEATURES =
  bit(defs.VHOST_USER_PROTOCOL_F_MQ) |
  bit(defs.VHOST_USER_PROTOCOL_F_LOG_SHMFD) |
  bit(defs.VHOST_USER_PROTOCOL_F_REPLY_ACK) |
  bit(defs.VHOST_USER_PROTOCOL_F_BACKEND_REQ) |
  bit(defs.VHOST_USER_PROTOCOL_F_CONFIG) |
  bit(defs.VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD) |
  bit(defs.VHOST_USER_PROTOCOL_F_RESET_DEVICE) |
  bit(defs.VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS) |
  bit(defs.VHOST_USER_PROTOCOL_F_STATUS)

/** Requests that exist only with a protocol feature. */
const NEEDS_FEATURE: ReadonlyMap<number, number> = new Map([
  [defs.VHOST_USER_SET_LOG_BASE, defs.VHOST_USER_PROTOCOL_F_LOG_SHMFD],
  [defs.VHOST_USER_SET_BACKEND_REQ_FD, defs.VHOST_USER_PROTOCOL_F_BACKEND_REQ],
  [defs.VHOST_USER_GET_CONFIG, defs.VHOST_USER_PROTOCOL_F_CONFIG],
  [defs.VHOST_USER_SET_CONFIG, defs.VHOST_USER_PROTOCOL_F_CONFIG],
  [defs.VHOST_USER_GET_INFLIGHT_FD, defs.VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD],
  [defs.VHOST_USER_SET_INFLIGHT_FD, defs.VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD],
  [defs.VHOST_USER_RESET_DEVICE, defs.VHOST_USER_PROTOCOL_F_RESET_DEVICE],
  [defs.VHOST_USER_GET_MAX_MEM_SLOTS, defs.VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS],
  [defs.VHOST_USER_ADD_MEM_REG, defs.VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS],
  [defs.VHOST_USER_REM_MEM_REG, defs.VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS],
  [defs.VHOST_USER_SET_STATUS, defs.VHOST_USER_PROTOCOL_F_STATUS],
  [defs.VHOST_USER_GET_STATUS, defs.VHOST_USER_PROTOCOL_F_STATUS],
])

/** Requests that a front end may send before it owns the device: they change nothing of it. */
const BEFORE_OWNER: ReadonlySet<number> = new Set([
  defs.VHOST_USER_GET_FEATURES,
  defs.VHOST_USER_SET_OWNER,
  defs.VHOST_USER_GET_PROTOCOL_FEATURES,
  defs.VHOST_USER_SET_PROTOCOL_FEATURES,
  defs.VHOST_USER_GET_QUEUE_NUM,
  defs.VHOST_USER_GET_CONFIG,
  defs.VHOST_USER_GET_MAX_MEM_SLOTS,
  defs.VHOST_USER_SET_BACKEND_REQ_FD,
])

/** A reply's payload, or one with an fd that is closed once it was sent. */
type Answer = Uint8Array | { readonly payload: Uint8Array; readonly fd: number }
/** Handlers return the answer of a request that has one, undefined (or nothing worth looking at) otherwise. */
type Handler = (payload: Uint8Array, fds: MessageFds) => unknown

/**
 * One front end's session with a device: takes its messages, one handler each, and answers. All that the
 * session made ends with `close` or with the connection; the device is inactive again then.
 *
 * A message that breaks the protocol ends the session. One that cannot be carried out (memory that cannot be
 * mapped, features that were not offered) is refused with REPLY_ACK when asked for, and ends it otherwise.
 */
export class VhostUserBackend {
  readonly #device: VirtioDevice
  readonly #options: BackendOptions
  readonly #connection: Connection
  readonly #host: SessionRings
  readonly #channel = new BackendChannel()
  readonly #handlers: ReadonlyMap<number, Handler>
  #owned = false
  #protocolFeatures = 0n
  #status = 0

  /**
   * @param fd a connected stream socket; owned from here on
   * @param counters shared ones for a device with threads
   */
  constructor(
    device: VirtioDevice,
    fd: number,
    options: BackendOptions,
    events: BackendEvents,
    counters: TransportCounters | SharedCounters<TransportCounters>,
  ) {
    this.#device = device
    this.#options = options
    const hostEvents: HostEvents = {
      configChanged: () => this.#channel.configChanged(),
      failed: events.deviceFailed,
      lost: error => this.#connection.fail(error),
    }
    this.#host =
      counters instanceof SharedCounters
        ? new ThreadedRings(device.threads!, options, hostEvents, counters)
        : new DeviceHost(device, options, hostEvents, counters)
    this.#handlers = this.#makeHandlers()
    this.#connection = new Connection(
      fd,
      {
        header: header => {
          message.checkRequest(header)
        },
        message: (header, payload, fds) => this.#message(header, payload, fds),
        ended: error => {
          this.#release()
          events.ended(error)
        },
      },
      options.messageTimeoutMs,
    )
  }

  /** Ends the session. Idempotent. */
  close(): void {
    this.#connection.close()
    this.#release()
  }

  /** Settles when threads of the device have ended, after the session has. */
  async ended(): Promise<void> {
    if (this.#host instanceof ThreadedRings) await this.#host.ended()
  }

  #release(): void {
    this.#host.close()
    this.#channel.close()
  }

  get #offered(): bigint {
    const rings = this.#options.packed ? RING_FEATURES : RING_FEATURES & ~VIRTIO_F_RING_PACKED
    return this.#device.features | rings | VHOST_FEATURES
  }

  get #offeredProtocol(): bigint {
    // The in-flight log is kept for split rings only.
    return this.#options.packed
      ? PROTOCOL_FEATURES & ~bit(defs.VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD)
      : PROTOCOL_FEATURES
  }

  #message(header: message.MessageHeader, payload: Uint8Array, fds: MessageFds): Promise<void> | void {
    const { request } = header
    const rule = message.checkRequest(header)
    if (fds.length < rule.minFds || fds.length > rule.maxFds) {
      throw new VhostUserError("protocol", `${rule.name} with ${fds.length} fds`, {
        request,
        value: fds.length,
      })
    }
    this.#checkOrder(request)
    let answer: unknown
    try {
      answer = this.#handlers.get(request)!(payload, fds)
    } catch (error) {
      this.#refuse(header, rule, error)
      return
    }
    if (!(answer instanceof Promise)) {
      this.#answer(header, rule, answer)
      return
    }
    return answer.then(
      value => this.#answer(header, rule, value),
      (error: unknown) => this.#refuse(header, rule, error),
    )
  }

  /** What may come when: ownership before set-up, a protocol feature before what it adds. */
  #checkOrder(request: number): void {
    const feature = NEEDS_FEATURE.get(request)
    if (feature !== undefined && !this.#has(feature)) {
      throw new VhostUserError("protocol", `${message.requestName(request)} without its protocol feature`, {
        request,
      })
    }
    if (!this.#owned && !BEFORE_OWNER.has(request)) {
      throw new VhostUserError("protocol", `${message.requestName(request)} before SET_OWNER`, { request })
    }
  }

  #has(feature: number): boolean {
    return (this.#protocolFeatures & bit(feature)) !== 0n
  }

  #answer(header: message.MessageHeader, rule: message.MessageRule, answer: unknown): void {
    if (this.#connection.closed) return
    if (rule.reply) this.#reply(header.request, answer as Answer)
    else if (this.#wantsAck(header)) this.#reply(header.request, message.encodeU64(0n))
  }

  #refuse(header: message.MessageHeader, rule: message.MessageRule, error: unknown): void {
    const refusable =
      error instanceof VhostUserError && (error.code === "memory-region" || error.code === "refused")
    if (!refusable || rule.reply || !this.#wantsAck(header)) throw error
    this.#reply(header.request, message.encodeU64(1n))
  }

  #wantsAck(header: message.MessageHeader): boolean {
    return (
      (header.flags & defs.VHOST_USER_NEED_REPLY_MASK) !== 0 &&
      this.#has(defs.VHOST_USER_PROTOCOL_F_REPLY_ACK)
    )
  }

  #reply(request: number, answer: Answer): void {
    const { payload, fd } = answer instanceof Uint8Array ? { payload: answer, fd: undefined } : answer
    try {
      const bytes = message.encodeMessage(request, defs.VHOST_USER_REPLY_MASK, payload)
      this.#connection.send(bytes, fd === undefined ? [] : [fd])
    } finally {
      if (fd !== undefined) closeFd(fd)
    }
  }

  #makeHandlers(): ReadonlyMap<number, Handler> {
    const host = this.#host
    const state = (handle: (state: message.VringState) => unknown): Handler => {
      return payload => handle(message.decodeVringState(payload))
    }
    return new Map<number, Handler>([
      [defs.VHOST_USER_GET_FEATURES, () => message.encodeU64(this.#offered)],
      [defs.VHOST_USER_SET_FEATURES, payload => this.#setFeatures(message.decodeU64(payload))],
      [defs.VHOST_USER_GET_PROTOCOL_FEATURES, () => message.encodeU64(this.#offeredProtocol)],
      [
        defs.VHOST_USER_SET_PROTOCOL_FEATURES,
        payload => this.#setProtocolFeatures(message.decodeU64(payload)),
      ],
      [defs.VHOST_USER_SET_OWNER, () => this.#setOwner()],
      [defs.VHOST_USER_RESET_OWNER, () => this.#reset()],
      [defs.VHOST_USER_RESET_DEVICE, () => this.#reset()],
      [defs.VHOST_USER_GET_QUEUE_NUM, () => message.encodeU64(BigInt(this.#device.queueSizes.length))],
      [
        defs.VHOST_USER_SET_MEM_TABLE,
        (payload, fds) => host.mapTable(message.decodeMemoryTable(payload), fds.borrowed),
      ],
      [defs.VHOST_USER_GET_MAX_MEM_SLOTS, () => message.encodeU64(BigInt(defs.VHOST_USER_MAX_RAM_SLOTS))],
      [
        defs.VHOST_USER_ADD_MEM_REG,
        (payload, fds) => host.addRegion(message.decodeMemoryRegion(payload), fds.borrowed[0]!),
      ],
      [defs.VHOST_USER_REM_MEM_REG, payload => host.removeRegion(message.decodeMemoryRegion(payload))],
      [defs.VHOST_USER_SET_VRING_NUM, state(({ index, num }) => host.setSize(index, num))],
      [defs.VHOST_USER_SET_VRING_BASE, state(({ index, num }) => host.setBase(index, num))],
      [defs.VHOST_USER_SET_VRING_ADDR, payload => host.setAddress(message.decodeVringAddr(payload))],
      [defs.VHOST_USER_SET_VRING_ENABLE, state(({ index, num }) => host.setEnabled(index, num))],
      [
        defs.VHOST_USER_GET_VRING_BASE,
        state(async ({ index }) => message.encodeVringState({ index, num: await host.stop(index) })),
      ],
      [
        defs.VHOST_USER_SET_VRING_KICK,
        (payload, fds) => this.#setRingFd(payload, fds, (i, fd) => host.setKick(i, fd)),
      ],
      [
        defs.VHOST_USER_SET_VRING_CALL,
        (payload, fds) => this.#setRingFd(payload, fds, (i, fd) => host.setCall(i, fd)),
      ],
      [
        defs.VHOST_USER_SET_VRING_ERR,
        (payload, fds) => this.#setRingFd(payload, fds, (i, fd) => host.setErr(i, fd)),
      ],
      [defs.VHOST_USER_GET_CONFIG, payload => this.#getConfig(message.decodeConfig(payload))],
      [defs.VHOST_USER_SET_CONFIG, payload => this.#setConfig(message.decodeConfig(payload))],
      [defs.VHOST_USER_SET_BACKEND_REQ_FD, (_, fds) => this.#channel.open(fds.take(0)!)],
      [defs.VHOST_USER_SET_LOG_BASE, (payload, fds) => this.#setLog(payload, fds)],
      // Only tells that the log changed, and front ends look at it whenever they like.
      [defs.VHOST_USER_SET_LOG_FD, () => undefined],
      [defs.VHOST_USER_GET_INFLIGHT_FD, payload => this.#getInflight(message.decodeInflight(payload))],
      [
        defs.VHOST_USER_SET_INFLIGHT_FD,
        (payload, fds) => this.#setInflight(message.decodeInflight(payload), fds),
      ],
      [defs.VHOST_USER_SET_STATUS, payload => this.#setStatus(message.decodeU64(payload))],
      [
        defs.VHOST_USER_GET_STATUS,
        () => message.encodeU64(BigInt(this.#status | (host.failed ? VIRTIO_CONFIG_S_NEEDS_RESET : 0))),
      ],
    ])
  }

  #setOwner(): undefined {
    this.#owned = true
  }

  async #setFeatures(features: bigint): Promise<undefined> {
    if (!hasFeature(this.#offered, features)) {
      throw new VhostUserError("refused", `features 0x${features.toString(16)} were not all offered`)
    }
    if (!hasFeature(features, VIRTIO_F_VERSION_1)) {
      throw new VhostUserError("refused", "driver does not follow virtio 1.0 (VIRTIO_F_VERSION_1)")
    }
    await this.#host.setFeatures(features)
  }

  #setProtocolFeatures(features: bigint): undefined {
    if (!hasFeature(this.#offeredProtocol, features)) {
      throw new VhostUserError(
        "protocol",
        `protocol features 0x${features.toString(16)} were not all offered`,
      )
    }
    this.#protocolFeatures = features
  }

  async #reset(): Promise<undefined> {
    this.#status = 0
    await this.#host.reset()
  }

  async #setStatus(value: bigint): Promise<undefined> {
    if (value > 0xffn) throw new VhostUserError("protocol", `device status 0x${value.toString(16)}`)
    if (value === 0n) await this.#reset()
    this.#status = Number(value)
  }

  #setRingFd(payload: Uint8Array, fds: MessageFds, set: (index: number, fd: number) => Done): Done {
    const value = message.decodeU64(payload)
    const index = Number(value & BigInt(defs.VHOST_USER_VRING_IDX_MASK))
    const noFd = (value & BigInt(defs.VHOST_USER_VRING_NOFD_MASK)) !== 0n
    if (value >> 9n !== 0n || noFd !== (fds.length === 0)) {
      throw new VhostUserError("protocol", `ring 0x${value.toString(16)} with ${fds.length} fds`, {
        queue: index,
      })
    }
    const rings = this.#device.queueSizes.length
    if (index >= rings) throw new VhostUserError("protocol", `ring ${index} of ${rings}`, { queue: index })
    return set(index, fds.take(0) ?? -1)
  }

  #getConfig({ offset, flags, data }: message.ConfigAccess): Uint8Array {
    data.fill(0)
    this.#device.readConfig?.(offset, data)
    return message.encodeConfig({ offset, flags, data })
  }

  #setConfig({ offset, data }: message.ConfigAccess): undefined {
    this.#device.writeConfig?.(offset, data)
  }

  async #setLog(payload: Uint8Array, fds: MessageFds): Promise<Uint8Array> {
    await this.#host.setLog(message.decodeLogArea(payload), fds.borrowed[0]!)
    return message.encodeU64(0n)
  }

  #getInflight({ numQueues, queueSize }: message.InflightArea): Answer {
    const { area, fd } = InflightMemory.create(numQueues, queueSize)
    return { payload: message.encodeInflight(area), fd }
  }

  #setInflight(area: message.InflightArea, fds: MessageFds): Done {
    return this.#host.setInflight(area, fds.borrowed[0]!)
  }
}
