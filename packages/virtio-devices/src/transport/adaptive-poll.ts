import { performance } from "node:perf_hooks"

/** How long rings are looked at after something came. Waking a sleeping thread on another CPU costs up to as much. */
const WINDOW_MS = 0.1
/** How long what comes one after the other is served before other events have their turn. */
const TURN_MS = 0.2
/** A turn that takes longer, and in which a thread of this process had to give the CPU away, has lost it to somebody else. */
const CROWDED_MS = 1
/** How old the count of such losses may be that a turn is held against: to count costs a microsecond. */
const COUNTED_MS = 5
/** Such turns come now and then on any machine, this far apart and more; where they do not, they are its state. */
const SELDOM_MS = 50
/** Kicks that pass after one that came seldom. */
const SELDOM_SKIP = 16
/** Windows in which nothing came after which it is left for a while. */
const MAX_MISSES = 4
/** Most kicks that pass before it is tried again. */
const MAX_SKIP = 256

/** The rings of a device, which can be looked at instead of being told about: a `DeviceRuntime`, say. */
export interface WatchedRings {
  /** The driver's notification of one queue. */
  notify(queue: number): void
  /** Drained queues stay without notifications from here on. */
  watch(): void
  /** Serves what came without one. @returns false when nothing did */
  look(): boolean
  /** Drained queues ask for notifications again, and what came until then is served. */
  unwatch(): void
}

/**
 * Serves notifications, and looks for what follows a request by itself for a moment: a driver that answers at once is
 * spared the notification, and this side the sleep and the wake-up, which is most of what a request costs.
 *
 * Right behind a request its rings are looked at once more: a driver on this CPU, woken by the interrupt, has run by
 * then. After that the event loop turns without sleeping for up to 100 us, for a driver on another CPU; other events are
 * served as ever. Where nothing comes in that time (a slow guest, or one that shares this CPU and so cannot run
 * meanwhile) it is tried ever more rarely, down to one window in 256 kicks. Where somebody else had the CPU for longer than
 * a moment some kicks pass without it, and twice as many each time that this happens again soon. Without kicks it does
 * nothing.
 *
 * @example
 * ```ts
 * const poll = new AdaptivePoll()   // one for all queues of a guest
 * onKick(() => poll.kicked(runtime, queue))
 * ```
 */
export class AdaptivePoll {
  /** Those that are watched while the event loop turns. */
  readonly #rings = new Set<WatchedRings>()
  #until = 0
  /** When the last turn ended. */
  #last = 0
  #turning = false
  #hit = false
  #misses = 0
  #skip = 0
  #toSkip = 0
  /** When a turn took too long, last, and kicks that passed then. */
  #crowdedAt = Number.NEGATIVE_INFINITY
  #crowdedSkip = 0
  /** Involuntary context switches, and when they were counted. */
  #switches = 0
  #countedAt = Number.NEGATIVE_INFINITY
  readonly #turn = (): void => {
    let now = performance.now()
    const isCrowded = this.#isCrowded(now)
    for (const rings of this.#rings) {
      if (!rings.look()) continue
      this.#hit = true
      now = this.#serveMore(rings)
      this.#until = now + WINDOW_MS
    }
    this.#last = now
    if (isCrowded) this.#leaveToOthers(now)
    else if (now < this.#until) setImmediate(this.#turn)
    else this.#end()
  }

  /** To be called at each kick: has it served. */
  kicked(rings: WatchedRings, queue: number): void {
    rings.watch()
    rings.notify(queue)
    const now = this.#serveMore(rings)
    if (this.#turning) {
      this.#hit = true
      this.#until = now + WINDOW_MS
      this.#rings.add(rings)
      return
    }
    if (this.#toSkip > 0) {
      this.#toSkip--
      rings.unwatch()
      return
    }
    if (now - this.#countedAt > COUNTED_MS) this.#countSwitches(now)
    this.#rings.add(rings)
    this.#turning = true
    this.#hit = false
    this.#until = now + WINDOW_MS
    this.#last = now
    setImmediate(this.#turn)
  }

  /** @returns when there was nothing more, or it was enough for one turn */
  #serveMore(rings: WatchedRings): number {
    let now = performance.now()
    for (const end = now + TURN_MS; now < end && rings.look(); ) now = performance.now()
    return now
  }

  /** A turn is long, too, where this thread collects garbage or other events take their time: nobody waits for the CPU then. */
  #isCrowded(now: number): boolean {
    const isLong = now - this.#last > CROWDED_MS
    if (!isLong && now - this.#countedAt <= COUNTED_MS) return false
    return this.#countSwitches(now) && isLong
  }

  /** @returns there were some since they were counted last */
  #countSwitches(now: number): boolean {
    const before = this.#switches
    this.#switches = process.resourceUsage().involuntaryContextSwitches
    this.#countedAt = now
    return this.#switches > before
  }

  #rest(): void {
    this.#turning = false
    for (const rings of this.#rings) rings.unwatch()
    this.#rings.clear()
  }

  /** Who keeps a CPU that others want is made to wait for it; who sleeps has it as soon as it wakes up. */
  #leaveToOthers(now: number): void {
    this.#rest()
    const isSeldom = now - this.#crowdedAt > SELDOM_MS
    this.#crowdedAt = now
    this.#crowdedSkip = isSeldom ? SELDOM_SKIP : Math.min(MAX_SKIP, this.#crowdedSkip * 2)
    this.#toSkip = this.#crowdedSkip
  }

  #end(): void {
    this.#rest()
    if (this.#hit) {
      this.#misses = 0
      this.#skip = 0
      return
    }
    if (++this.#misses < MAX_MISSES) return
    this.#skip = Math.min(MAX_SKIP, Math.max(1, this.#skip * 2))
    this.#toSkip = this.#skip
  }
}
