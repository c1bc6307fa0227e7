import { closeFd } from "@ts-vmm/native"
import type { RingHost, SharedRegion } from "../device.js"
import { hostAddress } from "../host-address.js"
import type { QueueConfig } from "../queue/virt-queue.js"
import * as defs from "./defs.js"
import { VhostUserError } from "./errors.js"
import { VhostUserFrontend } from "./frontend.js"
import { type BackendFacts, kindConfigSize, type VhostUserKind } from "./frontend-kind.js"
import type { InflightArea } from "./message.js"

/** What a session needs to know of its device. */
export interface SessionOptions {
  readonly kind: VhostUserKind
  readonly socketPath: string
  readonly timeoutMs?: number
  /** The configuration space was changed by the back end: it has been read again. */
  readonly onConfig: (config: Uint8Array) => void
  /** The session ended; not called after `close`. */
  readonly onEnded: (error: VhostUserError | undefined) => void
}

/** Rings as the driver set them up. */
export interface RingPlan {
  readonly features: bigint
  readonly host: RingHost
  readonly queues: ReadonlyMap<number, QueueConfig>
  /** Where each ring goes on; undefined for fresh ones. */
  readonly bases?: ReadonlyMap<number, number>
  /** What the back end before this one kept of requests in flight. */
  readonly inflight?: InflightLog
}

/** The log of requests in flight: the front end keeps it, so that it outlives a back end. */
export class InflightLog {
  readonly area: InflightArea
  readonly fd: number

  constructor(area: InflightArea, fd: number) {
    this.area = area
    this.fd = fd
  }

  close(): void {
    closeFd(this.fd)
  }
}

const has = (frontend: VhostUserFrontend, feature: number) =>
  (frontend.protocolFeatures & (1n << BigInt(feature))) !== 0n

/**
 * One connection of a device to its back end. A device has one after the other when its back end comes and goes.
 */
export class BackendSession {
  readonly facts: BackendFacts
  readonly #frontend: VhostUserFrontend
  #rings: readonly number[] = []
  #shared = false

  private constructor(frontend: VhostUserFrontend, facts: BackendFacts) {
    this.#frontend = frontend
    this.facts = facts
  }

  /**
   * Connects and asks the back end what it is.
   *
   * @throws VhostUserError, SysError as `VhostUserFrontend.connect`
   */
  static async open(options: SessionOptions): Promise<BackendSession> {
    const { kind, socketPath, timeoutMs, onEnded } = options
    const configSize = kindConfigSize(kind)
    const readConfig = () => frontend.readConfig(0, configSize)
    // A refusal says nothing new, and the end of the session is told elsewhere.
    const refresh = oneAtATime(() => readConfig().then(options.onConfig, () => undefined))
    const frontend = await VhostUserFrontend.connect(
      { socketPath },
      {
        onEnded,
        ...(timeoutMs === undefined ? {} : { timeoutMs }),
        onConfigChanged: () => configSize > 0 && refresh(),
      },
    )
    try {
      const hasConfig = configSize > 0 && has(frontend, defs.VHOST_USER_PROTOCOL_F_CONFIG)
      return new BackendSession(frontend, {
        features: frontend.offeredFeatures,
        queueCount: has(frontend, defs.VHOST_USER_PROTOCOL_F_MQ) ? await frontend.queueCount() : undefined,
        config: hasConfig ? await readConfig() : undefined,
      })
    } catch (error) {
      frontend.close()
      throw error
    }
  }

  /** Requests in flight can be told to a back end that comes after this one. */
  get keepsInflight(): boolean {
    return has(this.#frontend, defs.VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD)
  }

  /**
   * Hands the rings to the back end.
   *
   * @returns the log of requests in flight, to be given to the next back end; undefined when this one keeps none
   * @throws VhostUserError
   */
  async start(plan: RingPlan): Promise<InflightLog | undefined> {
    const { host, queues, bases, features } = plan
    const frontend = this.#frontend
    const regions = host.regions()
    await frontend.setFeatures(features)
    await this.#shareMemory(regions)
    const inflight = await this.#giveInflight(plan)
    this.#rings = [...queues.keys()]
    // The rings were checked to lie in guest RAM.
    const at = (address: number) => hostAddress(regions, address, 1) ?? 0n
    try {
      for (const [index, { size, desc, driver, device }] of queues) {
        await frontend.startRing(index, {
          size,
          desc: at(desc),
          avail: at(driver),
          used: at(device),
          base: bases?.get(index) ?? 0,
          kickFd: host.kicks[index]!,
          callFd: host.call,
        })
      }
      return inflight
    } catch (error) {
      if (inflight !== plan.inflight) inflight?.close()
      throw error
    }
  }

  /** Takes the rings back: resolves when the back end has ended what was in flight. @throws VhostUserError */
  async stop(): Promise<void> {
    for (const index of this.#rings) await this.#frontend.stopRing(index)
    this.#rings = []
    if (has(this.#frontend, defs.VHOST_USER_PROTOCOL_F_RESET_DEVICE)) await this.#frontend.resetDevice()
  }

  /** The driver wrote configuration space. @throws VhostUserError `refused` */
  async writeConfig(offset: number, bytes: Uint8Array): Promise<void> {
    if (has(this.#frontend, defs.VHOST_USER_PROTOCOL_F_CONFIG))
      await this.#frontend.writeConfig(offset, bytes)
  }

  close(): void {
    this.#frontend.close()
  }

  async #shareMemory(regions: readonly SharedRegion[]): Promise<void> {
    const frontend = this.#frontend
    if (regions.length <= defs.VHOST_MEMORY_MAX_NREGIONS) return frontend.setMemoryTable(regions)
    if (!has(frontend, defs.VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS))
      throw new VhostUserError("unsuitable", `the back end cannot take ${regions.length} pieces of memory`)
    // Before the first one the table is empty, or has them all already.
    if (!this.#shared) for (const region of regions) await frontend.addMemoryRegion(region)
    this.#shared = true
  }

  async #giveInflight({ queues, inflight }: RingPlan): Promise<InflightLog | undefined> {
    if (!this.keepsInflight) return inflight
    if (inflight) {
      await this.#frontend.setInflight(inflight.area, inflight.fd)
      return inflight
    }
    const count = Math.max(...queues.keys()) + 1
    const size = Math.max(...[...queues.values()].map(queue => queue.size))
    const { area, fd } = await this.#frontend.createInflight(count, size)
    const log = new InflightLog(area, fd)
    try {
      await this.#frontend.setInflight(area, fd)
      return log
    } catch (error) {
      log.close()
      throw error
    }
  }
}

/** Runs `work` whenever it is asked for, but never twice at once: a back end may ask without end. */
function oneAtATime(work: () => Promise<void>): () => void {
  let running = false
  let again = false
  const run = async () => {
    running = true
    do {
      again = false
      await work()
    } while (again)
    running = false
  }
  return () => {
    if (running) again = true
    else void run()
  }
}
