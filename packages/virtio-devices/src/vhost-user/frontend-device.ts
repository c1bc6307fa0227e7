import { setTimeout } from "node:timers/promises"
import { SysError, signal } from "@ts-vmm/native"
import type { DeviceContext, ExternalDevice, RingHost } from "../device.js"
import type { QueueConfig } from "../queue/virt-queue.js"
import { VhostUserError } from "./errors.js"
import { kindType, type OfferedDevice, offerBackend, type VhostUserKind } from "./frontend-kind.js"
import { BackendSession, type InflightLog } from "./frontend-session.js"

/** Which back end a {@link VhostUserDevice} connects to, and how. */
export interface VhostUserDeviceOptions {
  readonly kind: VhostUserKind
  /** Where the back end listens. */
  readonly socketPath: string
  /** What the guest mounts a file system by, up to 36 bytes; for `fs` only, and needed there. */
  readonly tag?: string
  /**
   * Connect again when the back end went away, and go on where it was. Default true but for `fs`: what a back end of
   * that kind knows of open files is gone with it.
   */
  readonly reconnect?: boolean
  /** How long one answer of the back end may take. Default 10,000. */
  readonly timeoutMs?: number
  /** The back end went away; undefined when it closed in good order. With `reconnect` the guest waits. */
  readonly onLost?: (error: VhostUserError | undefined) => void
  /** A back end is there again, and serves. */
  readonly onBack?: () => void
}

const QUEUE_SIZE = 256
const FIRST_PAUSE_MS = 20
const LONGEST_PAUSE_MS = 1000
/** Failures of a connection that may be another one's success. */
const PASSING: ReadonlySet<unknown> = new Set(["disconnected", "timeout", "peer-stalled"])

/**
 * A virtio device that another process serves, for a machine of ours: a disk of qemu-storage-daemon, a file system of
 * virtiofsd, or whatever `serveVhostUser` serves elsewhere.
 *
 * ```
 *             connect()          activate                 back end goes away
 *   back end ----------> ready ----------> serving <---------------------------> waiting (reconnect)
 *                          ^     reset       |                 comes back           |
 *                          '-----------------'                                      '--> failed: DEVICE_NEEDS_RESET
 * ```
 *
 * The back end has all of the guest's memory, so it can do to the guest what it likes, and nothing to this process:
 * what it says is bounded, checked and timed, its kicks and calls are eventfds that go past it.
 *
 * A back end that keeps a log of requests in flight (INFLIGHT_SHMFD) loses none when it is replaced. With another, the
 * next one goes on at the used index, as with QEMU: requests that were in flight are done again, which is right for one
 * that completes in order.
 *
 * @example
 * ```ts
 * import { VhostUserDevice } from "@ts-vmm/virtio-devices/vhost-user"
 *
 * const disk = await VhostUserDevice.connect({ kind: "blk", socketPath: "disk.sock" })
 * const machine = await MicroVm.create({ kernel: "vmlinux", memoryMiB: 256, devices: [disk] })
 * ```
 *
 * @see https://qemu-project.gitlab.io/qemu/interop/vhost-user.html
 */
export class VhostUserDevice implements ExternalDevice {
  readonly type: number
  readonly servedBy = "process"
  readonly queueSizes: readonly number[]
  readonly features: bigint
  readonly ringFeatures: bigint
  readonly #options: VhostUserDeviceOptions
  #config: Uint8Array
  #session: BackendSession | undefined
  #host: RingHost | undefined
  #ctx: DeviceContext | undefined
  #inflight: InflightLog | undefined
  /** Why there will be no back end again. */
  #failure: Error | undefined
  /** Rings start and stop one after the other. */
  #work: Promise<void> | undefined
  #closed = false

  private constructor(options: VhostUserDeviceOptions, offered: OfferedDevice) {
    this.#options = options
    this.type = kindType(options.kind)
    this.queueSizes = new Array<number>(offered.queueCount).fill(QUEUE_SIZE)
    this.features = offered.features
    this.ringFeatures = offered.ringFeatures
    this.#config = offered.config
  }

  /**
   * Connects to a back end and makes the device that it is.
   *
   * @throws VhostUserError `protocol`, `timeout`, `disconnected`, `refused`, `unsuitable`; SysError when nobody listens
   */
  static async connect(options: VhostUserDeviceOptions): Promise<VhostUserDevice> {
    const { session, events } = await openSession(options)
    try {
      const device = new VhostUserDevice(
        options,
        offerBackend(options.kind, session.facts, options.tag ?? ""),
      )
      device.#take(session, events)
      return device
    } catch (error) {
      session.close()
      throw error
    }
  }

  /** A back end is connected. */
  get connected(): boolean {
    return this.#session !== undefined
  }

  attachHost(host: RingHost): void {
    this.#host = host
  }

  readConfig(offset: number, into: Uint8Array): void {
    into.set(this.#config.subarray(offset, offset + into.length))
  }

  writeConfig(offset: number, from: Uint8Array): void {
    if (offset + from.length > this.#config.length) return
    this.#config.set(from, offset)
    // What a back end refuses, or one that is gone misses, is the driver's to find out.
    this.#session?.writeConfig(offset, from.slice()).catch(() => undefined)
  }

  activate(ctx: DeviceContext): void {
    this.#ctx = ctx
    if (this.#failure) ctx.fail(this.#failure)
    else this.#do(() => this.#start(ctx))
  }

  /** Only what came without an eventfd: an access of an odd width. */
  notify(index: number): void {
    const kick = this.#host?.kicks[index]
    if (kick !== undefined) signal(kick, "eventfd")
  }

  reset(): void {
    this.#ctx = undefined
    this.#do(() => this.#stop())
  }

  idle(): Promise<void> | undefined {
    return this.#work
  }

  /** Ends the session; the back end lets go of the guest's memory. Idempotent. */
  close(): void {
    this.#closed = true
    this.#session?.close()
    this.#session = undefined
    this.#dropInflight()
  }

  /** After what is under way. Errors of the session are told by its end. */
  #do(step: () => Promise<void>): void {
    const work = (this.#work ?? Promise.resolve()).then(step).finally(() => {
      if (this.#work === work) this.#work = undefined
    })
    this.#work = work
  }

  async #start(ctx: DeviceContext, resumed = false): Promise<void> {
    const session = this.#session
    if (!session || this.#ctx !== ctx || !this.#host) return
    const queues = this.#queues(ctx)
    if (queues.size === 0) return
    try {
      const inflight = await session.start({
        features: ctx.features,
        host: this.#host,
        queues,
        ...(resumed ? { bases: usedIndexes(ctx, queues) } : {}),
        ...(this.#inflight ? { inflight: this.#inflight } : {}),
      })
      if (inflight) this.#inflight = inflight
      if (resumed) this.#wakeBoth(queues)
    } catch (error) {
      // Its end is told elsewhere.
      if (this.#session === session && !PASSING.has((error as VhostUserError).code))
        this.#fail(error as Error)
    }
  }

  async #stop(): Promise<void> {
    try {
      await this.#session?.stop()
    } catch {
      // It may have the rings yet: only the end of the session takes them away.
      const session = this.#session
      session?.close()
      if (session) this.#lost(undefined)
    }
    this.#dropInflight()
  }

  #take(session: BackendSession, events: SessionEvents): void {
    this.#session = session
    events.deliver({
      onConfig: config => this.#session === session && this.#configured(session, config),
      onEnded: error => this.#session === session && this.#lost(error),
    })
  }

  /** The back end changed its configuration space. The number of rings stays what the driver found. */
  #configured(session: BackendSession, config: Uint8Array): void {
    const { kind, tag = "" } = this.#options
    const facts = { ...session.facts, queueCount: this.queueSizes.length, config }
    const now = offerBackend(kind, facts, tag).config
    if (now.every((byte, i) => byte === this.#config[i])) return
    this.#config = now
    this.#ctx?.configChanged()
  }

  /** Nothing can be expected of this back end any more. */
  #fail(error: Error): void {
    this.#failure = error
    this.#ctx?.fail(error)
  }

  /** Whatever happened between the back ends: each side looks at the rings once. */
  #wakeBoth(queues: ReadonlyMap<number, QueueConfig>): void {
    for (const index of queues.keys()) this.notify(index)
    if (this.#host) signal(this.#host.call, "eventfd")
  }

  #queues(ctx: DeviceContext): Map<number, QueueConfig> {
    const queues = new Map<number, QueueConfig>()
    for (const index of this.queueSizes.keys()) {
      const config = ctx.queueConfig(index)
      if (config) queues.set(index, config)
    }
    return queues
  }

  #lost(error: VhostUserError | undefined): void {
    this.#session = undefined
    if (this.#closed) return
    this.#options.onLost?.(error)
    const { reconnect = this.#options.kind !== "fs" } = this.#options
    if (!reconnect || error?.code === "protocol") {
      this.#fail(error ?? new VhostUserError("disconnected", "the back end closed the connection"))
      return
    }
    void this.#reconnect()
  }

  async #reconnect(): Promise<void> {
    for (let pause = FIRST_PAUSE_MS; !this.#closed; pause = Math.min(2 * pause, LONGEST_PAUSE_MS)) {
      await setTimeout(pause, undefined, { ref: false })
      if (this.#closed) return
      try {
        if (await this.#openAgain()) return
      } catch (error) {
        if (error instanceof SysError || PASSING.has((error as VhostUserError).code)) continue
        this.#fail(error as Error)
        return
      }
    }
  }

  /** @returns false when the device was closed meanwhile. @throws VhostUserError, SysError */
  async #openAgain(): Promise<boolean> {
    const { session, events } = await openSession(this.#options)
    try {
      this.#checkSame(session)
    } catch (error) {
      session.close()
      throw error
    }
    if (this.#closed) {
      session.close()
      return false
    }
    this.#take(session, events)
    if (session.facts.config) this.#configured(session, session.facts.config)
    const ctx = this.#ctx
    if (ctx) this.#do(() => this.#start(ctx, true))
    this.#options.onBack?.()
    return true
  }

  /** The driver was promised something. @throws VhostUserError `unsuitable` */
  #checkSame(session: BackendSession): void {
    const { kind, tag = "" } = this.#options
    const offered = offerBackend(kind, session.facts, tag)
    const missing =
      ((this.features & ~offered.features) | (this.ringFeatures & ~offered.ringFeatures)) !== 0n ||
      offered.queueCount < this.queueSizes.length ||
      (this.#inflight !== undefined && !session.keepsInflight)
    if (missing)
      throw new VhostUserError("unsuitable", "the back end that came back can do less than the one before it")
  }

  #dropInflight(): void {
    this.#inflight?.close()
    this.#inflight = undefined
  }
}

type EventHandlers = {
  onConfig(config: Uint8Array): unknown
  onEnded(error: VhostUserError | undefined): unknown
}

/** What a session tells before there is somebody to tell: that it ended. */
class SessionEvents implements EventHandlers {
  #handlers: EventHandlers | undefined
  #ended: { error: VhostUserError | undefined } | undefined

  deliver(handlers: EventHandlers): void {
    this.#handlers = handlers
    if (this.#ended) handlers.onEnded(this.#ended.error)
  }

  onConfig(config: Uint8Array): void {
    this.#handlers?.onConfig(config)
  }

  onEnded(error: VhostUserError | undefined): void {
    this.#ended = { error }
    this.#handlers?.onEnded(error)
  }
}

/** @throws VhostUserError, SysError */
async function openSession(options: VhostUserDeviceOptions) {
  const events = new SessionEvents()
  const session = await BackendSession.open({
    ...options,
    onConfig: config => events.onConfig(config),
    onEnded: error => events.onEnded(error),
  })
  return { session, events }
}

/** Where the rings were when the back end died, as far as a front end can see. */
function usedIndexes(ctx: DeviceContext, queues: ReadonlyMap<number, QueueConfig>): Map<number, number> {
  const indexes = new Map<number, number>()
  // struct virtq_used: flags, idx (virtio 1.3, 2.7.8).
  for (const [index, { device }] of queues) indexes.set(index, ctx.memory.loadU16(device + 2))
  return indexes
}
