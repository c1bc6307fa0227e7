import { closeFd, socketPair, unixConnect } from "@ts-vmm/native"
import type { SharedRegion } from "../device.js"
import { Connection } from "./connection.js"
import * as defs from "./defs.js"
import { VhostUserError } from "./errors.js"
import * as message from "./message.js"
import { RequestChannel } from "./request-channel.js"

/** How a front end behaves. */
export interface FrontendOptions {
  /** How long one answer may take; the session ends after it. Default 10,000. */
  readonly timeoutMs?: number
  /** Protocol features to use of those offered, as a bit mask. Default: all this front end knows. */
  readonly protocolFeatures?: bigint
  /** The back end says that the configuration space changed. */
  readonly onConfigChanged?: () => void
  /** The session ended; undefined when the back end closed it in good order. Not called after `close`. */
  readonly onEnded?: (error: VhostUserError | undefined) => void
}

/** A ring to start. */
export interface RingSetup {
  /** Descriptors. */
  readonly size: number
  /** Ring parts as user addresses. */
  readonly desc: bigint
  readonly avail: bigint
  readonly used: bigint
  /** Where to go on: what `stopRing` returned; default a fresh split ring. */
  readonly base?: number
  /** eventfd (or pipe) to kick with; stays the caller's. Undefined: the back end polls. */
  readonly kickFd?: number
  /** eventfd (or pipe) that the back end interrupts with; stays the caller's. */
  readonly callFd?: number
  /** Guest address for logging the used ring; undefined: not logged. */
  readonly logAddress?: number
}

/** Base of a packed ring nobody used yet: both wrap counters are 1. */
export const PACKED_INITIAL_BASE = 0x8000_8000

const bit = (n: number) => 1n << BigInt(n)
const KNOWN_PROTOCOL_FEATURES =
  bit(defs.VHOST_USER_PROTOCOL_F_MQ) |
  bit(defs.VHOST_USER_PROTOCOL_F_LOG_SHMFD) |
  bit(defs.VHOST_USER_PROTOCOL_F_REPLY_ACK) |
  bit(defs.VHOST_USER_PROTOCOL_F_BACKEND_REQ) |
  bit(defs.VHOST_USER_PROTOCOL_F_CONFIG) |
  bit(defs.VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD) |
  bit(defs.VHOST_USER_PROTOCOL_F_RESET_DEVICE) |
  bit(defs.VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS) |
  bit(defs.VHOST_USER_PROTOCOL_F_STATUS)
const DEFAULT_TIMEOUT_MS = 10_000
const NO_PAYLOAD = new Uint8Array(0)

/**
 * The front end of one vhost-user device: what a VMM needs to let a back end in another process serve it. Every
 * call is one request and resolves when the back end has carried it out (with REPLY_ACK, which this front end
 * uses whenever it is offered). Requests are sent in the order of the calls.
 *
 * A back end can do to the guest's memory what it likes, but nothing to this process: answers are bounded,
 * checked and timed, and rings are never looked at here.
 *
 * @example
 * ```ts
 * const frontend = await VhostUserFrontend.connect({ socketPath: "disk.sock" })
 * await frontend.setFeatures(frontend.offeredFeatures & wanted)
 * await frontend.setMemoryTable([{ guestAddress: 0, size, userAddress: 0n, fd: ram.fd }])
 * await frontend.startRing(0, { size: 256, desc, avail, used, kickFd, callFd })
 * ```
 */
export class VhostUserFrontend implements Disposable {
  readonly #requests: RequestChannel
  readonly #options: FrontendOptions
  #channel: Connection | undefined
  #offered = 0n
  #protocolFeatures = 0n

  private constructor(fd: number, options: FrontendOptions) {
    this.#options = options
    this.#requests = new RequestChannel(fd, options.timeoutMs ?? DEFAULT_TIMEOUT_MS, error => {
      this.#channel?.close()
      options.onEnded?.(error)
    })
  }

  /**
   * Connects, becomes the owner and negotiates protocol features.
   *
   * @param to a socket to connect to, or a connected one, owned from here on
   * @throws VhostUserError `protocol`, `timeout`, `disconnected`; SysError when nobody listens
   */
  static async connect(
    to: { readonly socketPath: string } | { readonly fd: number },
    options: FrontendOptions = {},
  ): Promise<VhostUserFrontend> {
    const frontend = new VhostUserFrontend("fd" in to ? to.fd : unixConnect(to.socketPath), options)
    try {
      await frontend.#negotiate()
      return frontend
    } catch (error) {
      frontend.close()
      throw error
    }
  }

  /** Features that the back end offers, without the bits that belong to vhost. */
  get offeredFeatures(): bigint {
    return this.#offered & ~(bit(defs.VHOST_USER_F_PROTOCOL_FEATURES) | bit(defs.VHOST_F_LOG_ALL))
  }

  /** Protocol features in use. */
  get protocolFeatures(): bigint {
    return this.#protocolFeatures
  }

  get closed(): boolean {
    return this.#requests.closed
  }

  /**
   * Features for the driver. @param logging mark dirty pages from now on
   * @throws VhostUserError `refused`
   */
  async setFeatures(features: bigint, logging = false): Promise<void> {
    const vhost = this.#offered & bit(defs.VHOST_USER_F_PROTOCOL_FEATURES)
    const log = logging ? bit(defs.VHOST_F_LOG_ALL) : 0n
    await this.#command(defs.VHOST_USER_SET_FEATURES, message.encodeU64(features | vhost | log))
  }

  /** Number of rings the back end has. */
  async queueCount(): Promise<number> {
    return Number(await this.#queryU64(defs.VHOST_USER_GET_QUEUE_NUM))
  }

  /** Shares guest memory, all of it at once. @throws VhostUserError `refused` */
  async setMemoryTable(regions: readonly SharedRegion[]): Promise<void> {
    const payload = message.encodeMemoryTable(regions.map(wireRegion))
    await this.#command(
      defs.VHOST_USER_SET_MEM_TABLE,
      payload,
      regions.map(region => region.fd),
    )
  }

  /** Shares one region more. @throws VhostUserError `refused` */
  async addMemoryRegion(region: SharedRegion): Promise<void> {
    await this.#command(defs.VHOST_USER_ADD_MEM_REG, message.encodeMemoryRegion(wireRegion(region)), [
      region.fd,
    ])
  }

  /** Takes one region back. @throws VhostUserError `refused` */
  async removeMemoryRegion(region: SharedRegion): Promise<void> {
    await this.#command(defs.VHOST_USER_REM_MEM_REG, message.encodeMemoryRegion(wireRegion(region)))
  }

  /** Sets ring `index` up, enabled. @throws VhostUserError `refused` */
  async startRing(index: number, ring: RingSetup): Promise<void> {
    await this.setCall(index, ring.callFd)
    await this.#ringState(defs.VHOST_USER_SET_VRING_NUM, index, ring.size)
    await this.#ringState(defs.VHOST_USER_SET_VRING_BASE, index, ring.base ?? 0)
    await this.setAddress(index, ring)
    await this.setKick(index, ring.kickFd)
    // Without protocol features a ring is enabled as soon as it has a kick.
    if ((this.#offered & bit(defs.VHOST_USER_F_PROTOCOL_FEATURES)) !== 0n) await this.setEnabled(index, true)
  }

  /** Addresses alone: switches logging on a ring that runs. */
  async setAddress(index: number, ring: RingSetup): Promise<void> {
    const { desc, avail, used, logAddress } = ring
    const flags = logAddress === undefined ? 0 : defs.VHOST_VRING_F_LOG
    const addr = { index, flags, desc, avail, used, log: BigInt(logAddress ?? 0) }
    await this.#command(defs.VHOST_USER_SET_VRING_ADDR, message.encodeVringAddr(addr))
  }

  /** Stops ring `index` with nothing in flight. @returns the base to go on from */
  async stopRing(index: number): Promise<number> {
    const { payload } = await this.#requests.ask(
      defs.VHOST_USER_GET_VRING_BASE,
      message.encodeVringState({ index, num: 0 }),
      [],
      8,
    )
    return message.decodeVringState(atLeast(payload, 8, defs.VHOST_USER_GET_VRING_BASE)).num
  }

  async setEnabled(index: number, enabled: boolean): Promise<void> {
    await this.#ringState(defs.VHOST_USER_SET_VRING_ENABLE, index, Number(enabled))
  }

  async setKick(index: number, fd: number | undefined): Promise<void> {
    await this.#ringFd(defs.VHOST_USER_SET_VRING_KICK, index, fd)
  }

  async setCall(index: number, fd: number | undefined): Promise<void> {
    await this.#ringFd(defs.VHOST_USER_SET_VRING_CALL, index, fd)
  }

  /** An eventfd to hear of a broken ring with. */
  async setErr(index: number, fd: number | undefined): Promise<void> {
    await this.#ringFd(defs.VHOST_USER_SET_VRING_ERR, index, fd)
  }

  /** Reads `length` bytes of the configuration space. */
  async readConfig(offset: number, length: number): Promise<Uint8Array> {
    const payload = message.encodeConfig({ offset, flags: 0, data: new Uint8Array(length) })
    const answer = await this.#requests.ask(defs.VHOST_USER_GET_CONFIG, payload, [], payload.length)
    const config = message.decodeConfig(
      atLeast(answer.payload, message.CONFIG_HEAD_SIZE, defs.VHOST_USER_GET_CONFIG),
    )
    if (config.data.length !== length) {
      throw new VhostUserError("refused", `${config.data.length} of ${length} bytes of configuration`, {
        value: length,
      })
    }
    return config.data
  }

  async writeConfig(offset: number, data: Uint8Array): Promise<void> {
    const flags = defs.VHOST_SET_CONFIG_TYPE_FRONTEND
    await this.#command(defs.VHOST_USER_SET_CONFIG, message.encodeConfig({ offset, flags, data }))
  }

  /** Device status bits as the back end has them; DEVICE_NEEDS_RESET is the one to look for. */
  async status(): Promise<number> {
    return Number(await this.#queryU64(defs.VHOST_USER_GET_STATUS))
  }

  async setStatus(status: number): Promise<void> {
    await this.#command(defs.VHOST_USER_SET_STATUS, message.encodeU64(BigInt(status)))
  }

  /** Stops every ring and resets the device. */
  async resetDevice(): Promise<void> {
    await this.#command(defs.VHOST_USER_RESET_DEVICE, NO_PAYLOAD)
  }

  /** Memory for the log of requests in flight. @returns its fd, the caller's to keep and close */
  async createInflight(
    numQueues: number,
    queueSize: number,
  ): Promise<{ area: message.InflightArea; fd: number }> {
    const wanted = { mmapSize: 0n, mmapOffset: 0n, numQueues, queueSize }
    const payload = message.encodeInflight(wanted)
    const answer = await this.#requests.ask(defs.VHOST_USER_GET_INFLIGHT_FD, payload, [], payload.length)
    const { fd } = answer
    if (fd === undefined) throw new VhostUserError("protocol", "in-flight area came without an fd")
    try {
      const whole = atLeast(answer.payload, payload.length, defs.VHOST_USER_GET_INFLIGHT_FD)
      return { area: message.decodeInflight(whole), fd }
    } catch (error) {
      closeFd(fd)
      throw error
    }
  }

  /** Gives a back end the log that one before it kept. */
  async setInflight(area: message.InflightArea, fd: number): Promise<void> {
    await this.#command(defs.VHOST_USER_SET_INFLIGHT_FD, message.encodeInflight(area), [fd])
  }

  /** Memory for the dirty page bitmap, 1 bit per 4 KiB from guest address 0. */
  async setLog(fd: number, size: number, offset = 0): Promise<void> {
    const payload = message.encodeLogArea({ size: BigInt(size), offset: BigInt(offset) })
    await this.#requests.ask(defs.VHOST_USER_SET_LOG_BASE, payload, [fd], 8)
  }

  /** Resolves when everything sent before has been handled. */
  async sync(): Promise<void> {
    await this.#queryU64(defs.VHOST_USER_GET_FEATURES)
  }

  /** Ends the session; the back end resets the device. Idempotent. */
  close(): void {
    this.#requests.close()
    this.#channel?.close()
  }

  [Symbol.dispose](): void {
    this.close()
  }

  async #negotiate(): Promise<void> {
    this.#offered = await this.#queryU64(defs.VHOST_USER_GET_FEATURES)
    if ((this.#offered & bit(defs.VHOST_USER_F_PROTOCOL_FEATURES)) !== 0n) {
      const offered = await this.#queryU64(defs.VHOST_USER_GET_PROTOCOL_FEATURES)
      const wanted = this.#options.protocolFeatures ?? KNOWN_PROTOCOL_FEATURES
      const chosen = offered & wanted & KNOWN_PROTOCOL_FEATURES
      await this.#command(defs.VHOST_USER_SET_PROTOCOL_FEATURES, message.encodeU64(chosen))
      this.#protocolFeatures = chosen
    }
    await this.#command(defs.VHOST_USER_SET_OWNER, NO_PAYLOAD)
    if (this.#has(defs.VHOST_USER_PROTOCOL_F_BACKEND_REQ)) await this.#openChannel()
  }

  #has(feature: number): boolean {
    return (this.#protocolFeatures & bit(feature)) !== 0n
  }

  async #openChannel(): Promise<void> {
    const [ours, theirs] = socketPair()
    this.#channel = new Connection(
      ours,
      {
        header: checkBackendRequest,
        message: ({ request, flags }) => {
          if (request === defs.VHOST_USER_BACKEND_CONFIG_CHANGE_MSG) this.#options.onConfigChanged?.()
          if ((flags & defs.VHOST_USER_NEED_REPLY_MASK) === 0) return
          const known = request === defs.VHOST_USER_BACKEND_CONFIG_CHANGE_MSG
          const result = message.encodeU64(known ? 0n : 1n)
          this.#channel?.send(message.encodeMessage(request, defs.VHOST_USER_REPLY_MASK, result))
        },
        ended: error => error && this.#requests.end(error),
      },
      this.#options.timeoutMs ?? DEFAULT_TIMEOUT_MS,
    )
    try {
      await this.#command(defs.VHOST_USER_SET_BACKEND_REQ_FD, NO_PAYLOAD, [theirs])
    } finally {
      closeFd(theirs)
    }
  }

  async #ringState(request: number, index: number, num: number): Promise<void> {
    await this.#command(request, message.encodeVringState({ index, num }))
  }

  async #ringFd(request: number, index: number, fd: number | undefined): Promise<void> {
    const value = fd === undefined ? index | defs.VHOST_USER_VRING_NOFD_MASK : index
    await this.#command(request, message.encodeU64(BigInt(value)), fd === undefined ? [] : [fd])
  }

  async #queryU64(request: number): Promise<bigint> {
    const { payload } = await this.#requests.ask(request, NO_PAYLOAD, [], 8)
    return message.decodeU64(payload)
  }

  /** A request without an answer of its own. */
  async #command(request: number, payload: Uint8Array, fds: readonly number[] = []): Promise<void> {
    if (!this.#has(defs.VHOST_USER_PROTOCOL_F_REPLY_ACK)) {
      this.#requests.send(message.encodeMessage(request, 0, payload), fds)
      return
    }
    const answer = await this.#requests.ask(request, payload, fds, 8, defs.VHOST_USER_NEED_REPLY_MASK)
    const result = message.decodeU64(answer.payload)
    if (result !== 0n) {
      throw new VhostUserError("refused", `back end refused ${message.requestName(request)}: ${result}`, {
        request,
      })
    }
  }
}

/** @throws VhostUserError `protocol` for an answer that is too short */
function atLeast(payload: Uint8Array, size: number, request: number): Uint8Array {
  if (payload.length >= size) return payload
  throw new VhostUserError(
    "protocol",
    `answer to ${message.requestName(request)} has ${payload.length} bytes`,
    {
      request,
      value: payload.length,
    },
  )
}

function wireRegion({ guestAddress, size, userAddress, offset = 0 }: SharedRegion): message.WireRegion {
  return { guestAddress: BigInt(guestAddress), size: BigInt(size), userAddress, mmapOffset: BigInt(offset) }
}

function checkBackendRequest({ request, flags, size }: message.MessageHeader): void {
  const known = defs.VHOST_USER_VERSION | defs.VHOST_USER_NEED_REPLY_MASK
  if ((flags & defs.VHOST_USER_VERSION_MASK) !== defs.VHOST_USER_VERSION || (flags & ~known) !== 0) {
    throw new VhostUserError("protocol", `request ${request} of the back end has flags ${flags}`, { request })
  }
  if (size > defs.VHOST_USER_MAX_PAYLOAD) {
    throw new VhostUserError("protocol", `request ${request} of the back end has ${size} bytes`, {
      value: size,
    })
  }
}
