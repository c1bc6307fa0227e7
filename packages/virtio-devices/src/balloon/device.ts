import type { DeviceContext, VirtioDevice } from "../device.js"
import { hasFeature } from "../features.js"
import { VIRTIO_ID } from "../ids.js"
import type { DescriptorChain } from "../queue/chain.js"
import * as defs from "./defs.js"
import { BalloonError } from "./errors.js"
import { type BalloonCounters, freePages } from "./guest-pages.js"
import { Hinting, type HintOptions } from "./hinting.js"
import { PageQueue, type PageWork } from "./page-queue.js"
import { BufferRuns, PfnRuns } from "./page-runs.js"
import { type BalloonRole, queueRoles } from "./queue-roles.js"
import { type BalloonStatistics, StatisticsPoll } from "./statistics.js"

/** What a {@link BalloonDevice} offers its driver; everything but inflating, deflating and statistics is off by default. */
export interface BalloonOptions {
  /** The guest may take pages back before it kills programs for want of memory. */
  readonly deflateOnOom?: boolean
  /** The guest reports free pages by itself, a few times a minute, and they go back to the host at once. */
  readonly reporting?: boolean
  /** {@link BalloonDevice.hintFreePages} can be used. */
  readonly hinting?: boolean
  /** The driver said how much is in the balloon: {@link BalloonDevice.actual} may be new. Must not throw. */
  readonly onActual?: () => void
}

/** How a question to the guest is asked. */
export interface StatisticsOptions {
  /** How long the guest may take, milliseconds. Default 1000. */
  readonly timeoutMs?: number
}

/** User Mode Linux takes this size for every queue, without asking. */
const QUEUE_SIZE = 256
const QUEUE_COUNT = 5
const MAX_TARGET_BYTES = 0xffff_ffff * defs.BALLOON_PAGE_SIZE

/** What lives from `activate` to `reset`. */
interface Session {
  readonly ctx: DeviceContext
  readonly statistics: StatisticsPoll
  /** By queue index; a role that was not negotiated has none. */
  readonly queues: readonly ((() => void) | undefined)[]
}

/**
 * The memory balloon: takes memory from a running guest and gives it back. Pages in the balloon, and pages that the
 * guest reports as free, go back to the host; the guest gets zeroes when it touches them again.
 *
 * It works as far as the guest plays along. What must hold is held by limits of the host (cgroups), not by a balloon.
 *
 * @see virtio 1.3, section 5.5
 *
 * @example
 * ```ts
 * const balloon = new BalloonDevice({ deflateOnOom: true, reporting: true })
 * balloon.setTarget(64 * 2 ** 20)
 * const { availableBytes } = await balloon.statistics({ timeoutMs: 500 })
 * ```
 */
export class BalloonDevice implements VirtioDevice {
  readonly type = VIRTIO_ID.balloon
  readonly queueSizes: readonly number[] = new Array<number>(QUEUE_COUNT).fill(QUEUE_SIZE)
  readonly features: bigint
  readonly counters: BalloonCounters = { freedBytes: 0, deflatedBytes: 0, ignoredBytes: 0, failures: 0 }
  readonly #config = new DataView(new ArrayBuffer(defs.CONFIG_SIZE))
  readonly #hinting = new Hinting(command => this.#setConfig(defs.CONFIG.freePageHintCmdId, command))
  readonly #onActual: (() => void) | undefined
  #session: Session | undefined

  constructor(options: BalloonOptions = {}) {
    this.features = featuresOf(options)
    this.#onActual = options.onActual
  }

  /** Bytes that the host wants the balloon to have. */
  get target(): number {
    return this.#config.getUint32(defs.CONFIG.numPages, true) * defs.BALLOON_PAGE_SIZE
  }

  /** Bytes in the balloon, as the driver says it; 0 without one. */
  get actual(): number {
    return this.#config.getUint32(defs.CONFIG.actual, true) * defs.BALLOON_PAGE_SIZE
  }

  /**
   * Asks the guest to give away, or take back, memory until the balloon has `bytes`, rounded down to whole pages of
   * 4096. It does so when, and if, it likes: watch {@link actual}. The target outlives resets.
   *
   * @throws RangeError for what is not a number from 0 to 2^44 - 4096
   */
  setTarget(bytes: number): void {
    if (!(bytes >= 0 && bytes <= MAX_TARGET_BYTES)) throw new RangeError(`no size of a balloon: ${bytes}`)
    this.#setConfig(defs.CONFIG.numPages, Math.floor(bytes / defs.BALLOON_PAGE_SIZE))
  }

  /**
   * Asks the guest for the state of its memory. Questions that are asked while one is on its way share its answer.
   *
   * @throws BalloonError (as a rejection) `inactive`, `unsupported`, `timeout`, `reset`
   * @see virtio 1.3, section 5.5.6.3
   *
   * @example
   * ```ts
   * const { freeBytes = 0 } = await balloon.statistics({ timeoutMs: 500 })
   * ```
   */
  async statistics({ timeoutMs = 1000 }: StatisticsOptions = {}): Promise<BalloonStatistics> {
    return await this.#require(defs.VIRTIO_BALLOON_F_STATS_VQ).statistics.ask(timeoutMs)
  }

  /**
   * One round of hints: the guest names the pages it does not need, which may be all its free memory, and holds
   * them until {@link releaseHints}. Whoever copies the guest's memory (a snapshot, a migration) can pass over a
   * hinted page as long as the guest has not written to it since the round began, which takes a log of dirty
   * pages to know: under pressure a guest may use the page again at any time. So hinted pages are not freed here,
   * other than those in the balloon and reported ones, which the guest does not touch before it is answered.
   *
   * @returns bytes hinted
   * @throws BalloonError (as a rejection) `inactive`, `unsupported`, `busy`, `timeout`, `reset`, and what `onPages` throws;
   *   the guest has its pages back then
   * @see virtio 1.3, section 5.5.6.5
   *
   * @example
   * ```ts
   * await balloon.hintFreePages({ onPages: (start, size) => skip.add(start, size) })
   * await saveMemory(skip)
   * balloon.releaseHints()
   * ```
   */
  async hintFreePages(options: HintOptions): Promise<number> {
    this.#require(defs.VIRTIO_BALLOON_F_FREE_PAGE_HINT)
    return await this.#hinting.start(options)
  }

  /**
   * The guest may use the pages it hinted again. It lets go of them a moment later, and a round that begins before it
   * has done so finds nothing. Ends a round that is under way with `reset`.
   */
  releaseHints(): void {
    if (this.#session) this.#hinting.release()
  }

  readConfig(offset: number, into: Uint8Array): void {
    into.fill(0)
    into.set(new Uint8Array(this.#config.buffer).subarray(offset, offset + into.length))
  }

  writeConfig(offset: number, from: Uint8Array): void {
    from.forEach((byte, i) => {
      const at = offset + i
      if (isWritable(at)) this.#config.setUint8(at, byte)
    })
    this.#onActual?.()
  }

  activate(ctx: DeviceContext): void {
    const statistics = new StatisticsPoll(ctx)
    const queues = queueRoles(ctx.features).map(
      (role, index) => role && this.#handler(ctx, role, index, statistics),
    )
    this.#session = { ctx, statistics, queues }
  }

  notify(index: number): void {
    this.#session?.queues[index]?.()
  }

  reset(): void {
    this.#session?.statistics.end()
    this.#session = undefined
    this.#hinting.end()
    // What the driver wrote, and a command to it, belong to what it was; the target is the host's.
    for (const field of [defs.CONFIG.actual, defs.CONFIG.freePageHintCmdId, defs.CONFIG.poisonVal]) {
      this.#config.setUint32(field, 0, true)
    }
  }

  #handler(ctx: DeviceContext, role: BalloonRole, index: number, statistics: StatisticsPoll): () => void {
    switch (role) {
      case "statistics":
        return () => statistics.notify()
      case "deflate":
        return () => this.#deflate(ctx, index)
      default: {
        const queue = new PageQueue(ctx, index, this.#pageWork(ctx, role))
        return () => queue.notify()
      }
    }
  }

  #pageWork({ memory, features }: DeviceContext, role: "inflate" | "hinting" | "reporting"): PageWork {
    const free = (start: number, size: number) => freePages(memory, start, size, this.counters)
    switch (role) {
      case "inflate":
        return { runs: new PfnRuns(), wants: () => true, use: free }
      case "reporting":
        return { runs: new BufferRuns(), wants: chain => this.#mayFree(chain, features), use: free }
      case "hinting":
        return {
          runs: new BufferRuns(),
          wants: chain => this.#hinting.accept(chain),
          use: (start, size) => this.#hinting.pages(memory, start, size),
        }
    }
  }

  /** Pages come back as they are touched, so there is nothing to do but to say yes. */
  #deflate(ctx: DeviceContext, index: number): void {
    ctx.drain(index, chain => {
      this.counters.deflatedBytes += Math.floor(chain.readableLength / 4) * defs.BALLOON_PAGE_SIZE
      return 0
    })
  }

  /** A guest that fills free pages with something else than zeroes must find that there again (5.5.6.7). */
  #mayFree(chain: DescriptorChain, features: bigint): boolean {
    const poisoned =
      hasFeature(features, defs.VIRTIO_BALLOON_F_PAGE_POISON) &&
      this.#config.getUint32(defs.CONFIG.poisonVal, true) !== 0
    if (poisoned) this.counters.ignoredBytes += chain.writableLength
    return !poisoned
  }

  /** @throws BalloonError `inactive`, `unsupported` */
  #require(feature: bigint): Session {
    const session = this.#session
    if (!session) throw new BalloonError("inactive", "no driver works the balloon")
    if (!hasFeature(session.ctx.features, feature)) {
      throw new BalloonError("unsupported", "the driver did not take the feature")
    }
    return session
  }

  #setConfig(field: number, value: number): void {
    if (this.#config.getUint32(field, true) === value) return
    this.#config.setUint32(field, value, true)
    this.#session?.ctx.configChanged()
  }
}

/** `actual` and `poison_val` are the driver's; the rest is ours. */
function isWritable(at: number): boolean {
  const field = at - (at % 4)
  return field === defs.CONFIG.actual || field === defs.CONFIG.poisonVal
}

function featuresOf({ deflateOnOom, reporting, hinting }: BalloonOptions): bigint {
  let features = defs.VIRTIO_BALLOON_F_STATS_VQ
  if (deflateOnOom) features |= defs.VIRTIO_BALLOON_F_DEFLATE_ON_OOM
  if (hinting) features |= defs.VIRTIO_BALLOON_F_FREE_PAGE_HINT
  // A guest that initialises free pages reports none to a device that does not know of it.
  if (reporting) features |= defs.VIRTIO_BALLOON_F_PAGE_REPORTING | defs.VIRTIO_BALLOON_F_PAGE_POISON
  return features
}
