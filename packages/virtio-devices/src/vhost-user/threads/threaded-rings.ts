import { closeFd } from "@ts-vmm/native"
import type { DeviceThreads } from "../../device.js"
import type { SharedCounters } from "../../shared-counters.js"
import type { TransportCounters } from "../../transport/counters.js"
import type { HostEvents, HostOptions } from "../device-host.js"
import { VhostUserError } from "../errors.js"
import type { InflightArea, LogArea, VringAddr, WireRegion } from "../message.js"
import type { SessionRings } from "../session-rings.js"
import type { OrderArguments, OrderName } from "./orders.js"
import { QueueThread, type RingFdOrder, threadScript } from "./queue-thread.js"

/**
 * The rings of one session, served by threads: ring `i` by thread `i % count`, and by no other. Each has guest memory
 * mapped for itself and runs what a session without threads runs; here requests are handed on and answers put together.
 *
 * ```
 *   connection (here) --request of one ring--> its thread   DeviceHost: kick --> device --> call
 *                     --memory, features-----> every thread
 * ```
 *
 * Threads start with the first request that concerns them and end with the session. One that dies ends the session: as
 * with a back end that dies, the front end comes back, and the next threads go on where the log of requests in flight
 * says. To a front end that does not come back the device has failed.
 */
export class ThreadedRings implements SessionRings {
  readonly #threads: DeviceThreads
  readonly #options: HostOptions
  readonly #events: HostEvents
  readonly #counters: SharedCounters<TransportCounters>
  readonly #stopListening: () => void
  readonly #running: QueueThread[] = []
  readonly #ends: Promise<void>[] = []
  #closed = false

  constructor(
    threads: DeviceThreads,
    options: HostOptions,
    events: HostEvents,
    counters: SharedCounters<TransportCounters>,
  ) {
    this.#threads = threads
    // Plain data: what else callers have in their options does not go to threads.
    this.#options = { files: options.files, quiesceTimeoutMs: options.quiesceTimeoutMs }
    this.#events = events
    this.#counters = counters
    this.#stopListening = threads.onChange(() => void this.#changed())
  }

  get failed(): boolean {
    return this.#running.some(thread => thread.failed)
  }

  /** Settles when every thread has ended that was started, after `close`. */
  async ended(): Promise<void> {
    await Promise.all(this.#ends)
  }

  async setFeatures(features: bigint): Promise<void> {
    await this.#all("setFeatures", features)
  }

  mapTable(regions: readonly WireRegion[], fds: readonly number[]): Promise<void> {
    return this.#all("mapTable", regions, fds)
  }

  addRegion(region: WireRegion, fd: number): Promise<void> {
    return this.#all("addRegion", region, fd)
  }

  removeRegion(region: WireRegion): Promise<void> {
    return this.#all("removeRegion", region)
  }

  async setSize(index: number, size: number): Promise<void> {
    await this.#of(index).ask("setSize", index, size)
  }

  async setBase(index: number, base: number): Promise<void> {
    await this.#of(index).ask("setBase", index, base)
  }

  async setAddress(addr: VringAddr): Promise<void> {
    await this.#of(addr.index).ask("setAddress", addr)
  }

  setKick(index: number, fd: number): Promise<void> {
    return this.#setFd("setKick", index, fd)
  }

  setCall(index: number, fd: number): Promise<void> {
    return this.#setFd("setCall", index, fd)
  }

  setErr(index: number, fd: number): Promise<void> {
    return this.#setFd("setErr", index, fd)
  }

  async setEnabled(index: number, on: number): Promise<void> {
    await this.#of(index).ask("setEnabled", index, on)
  }

  async stop(index: number): Promise<number> {
    return this.#of(index).stop(index)
  }

  setInflight(area: InflightArea, fd: number): Promise<void> {
    return this.#all("setInflight", area, fd)
  }

  setLog(area: LogArea, fd: number): Promise<void> {
    return this.#all("setLog", area, fd)
  }

  async reset(): Promise<void> {
    await together(this.#start().map(thread => thread.reset()))
  }

  close(): void {
    this.#closed = true
    this.#stopListening()
    for (const thread of this.#running) thread.close()
  }

  async #setFd(order: RingFdOrder, index: number, fd: number): Promise<void> {
    let thread: QueueThread
    try {
      thread = this.#of(index)
    } catch (error) {
      if (fd >= 0) closeFd(fd)
      throw error
    }
    await thread.setFd(order, index, fd)
  }

  #of(index: number): QueueThread {
    const threads = this.#start()
    return threads[index % threads.length]!
  }

  #all<Name extends OrderName>(order: Name, ...args: OrderArguments<Name>): Promise<void> {
    return together(this.#start().map(thread => thread.ask(order, ...args)))
  }

  /** The threads, which start when they are first needed. */
  #start(): readonly QueueThread[] {
    if (this.#closed) throw new VhostUserError("closed", "session was closed")
    try {
      while (this.#running.length < this.#threads.count) this.#running.push(this.#startOne())
    } catch (error) {
      this.close()
      throw error
    }
    return this.#running
  }

  #startOne(): QueueThread {
    const script = threadScript()
    const part = this.#threads.open()
    const counters = this.#counters.grow()
    const start = { options: this.#options, counters }
    const thread: QueueThread = new QueueThread(script, part, start, {
      broke: reason => this.#broke(thread, reason),
      died: error => this.#died(thread, error),
    })
    this.#ends.push(thread.ended.then(() => this.#counters.fold(counters)))
    return thread
  }

  #broke(broken: QueueThread, reason: Error): void {
    if (this.#closed) return
    const others = this.#running.filter(thread => thread !== broken)
    // The device is one: who broke first says why, and stops the rest.
    if (others.some(thread => thread.failed)) return
    for (const thread of others) thread.halt()
    this.#events.failed(reason)
    this.#configChanged()
  }

  /** Nobody can say where its rings were: the front end has to find that out, from the log or the used rings. */
  #died(dead: QueueThread, error: VhostUserError): void {
    this.#broke(dead, error)
    if (!this.#closed) this.#events.lost?.(error)
  }

  /** The driver is told once every thread knows. */
  async #changed(): Promise<void> {
    await Promise.allSettled(this.#running.map(thread => thread.ask("changed")))
    if (!this.#closed) this.#configChanged()
  }

  #configChanged(): void {
    this.#counters.counters.configInterrupts++
    this.#events.configChanged()
  }
}

/** All threads have to do the same: when only some can, the session cannot go on. */
async function together(answers: readonly Promise<unknown>[]): Promise<void> {
  const results = await Promise.allSettled(answers)
  const failures = results
    .filter(result => result.status === "rejected")
    .map(result => result.reason as Error)
  if (failures.length === 0) return
  if (failures.length === results.length) throw failures[0]
  throw new VhostUserError("internal", `only some threads could: ${failures[0]!.message}`, {
    cause: failures[0],
  })
}
