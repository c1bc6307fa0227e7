import { setTimeout as setTimeoutPromise } from "node:timers/promises"
import type { VirtioDevice } from "../device.js"
import { hasFeature, VIRTIO_F_RING_PACKED } from "../features.js"
import { availRingSize, EVENT_SUPPRESS_SIZE, usedRingSize, VIRTQ_DESC_SIZE } from "../queue/defs.js"
import type { QueueConfig, QueueState, VirtQueue } from "../queue/virt-queue.js"
import { AdaptivePoll } from "../transport/adaptive-poll.js"
import type { TransportCounters } from "../transport/counters.js"
import { DeviceRuntime } from "../transport/device-runtime.js"
import type { BackendOptions } from "./backend.js"
import {
  VHOST_F_LOG_ALL,
  VHOST_USER_F_PROTOCOL_FEATURES,
  VHOST_USER_MAX_RAM_SLOTS,
  VHOST_VRING_F_LOG,
} from "./defs.js"
import { LoggedQueue } from "./dirty-log.js"
import { VhostUserError } from "./errors.js"
import { InflightMemory } from "./inflight-area.js"
import { DirtyLogMemory } from "./log-area.js"
import { MemoryTable } from "./memory-table.js"
import type { InflightArea, LogArea, VringAddr, WireRegion } from "./message.js"
import type { SessionRings } from "./session-rings.js"
import { type RingAddresses, Vring } from "./vring.js"

/** What a device does that its front end should hear of. */
export interface HostEvents {
  configChanged(): void
  failed(error: Error): void
  /** The device failed, and its rings cannot be given back: the session cannot go on. */
  lost?(error: VhostUserError): void
}

/** How a front end is treated. */
export type HostOptions = Pick<BackendOptions, "files" | "quiesceTimeoutMs">

const LOG_ALL = 1n << BigInt(VHOST_F_LOG_ALL)
const PROTOCOL_FEATURES = 1n << BigInt(VHOST_USER_F_PROTOCOL_FEATURES)
const NO_QUEUE_STATE: QueueState = { availIndex: 0, usedIndex: 0, availWrap: true, usedWrap: true }

/**
 * Brings a device, its rings and the guest memory of one front end together: rings start when all that they
 * need has been said, and stop with nothing lost.
 */
export class DeviceHost implements SessionRings {
  readonly rings: readonly Vring[]
  readonly #runtime: DeviceRuntime
  readonly #options: HostOptions
  #features = 0n
  #table: MemoryTable | undefined
  #inflight: InflightMemory | undefined
  #log: DirtyLogMemory | undefined
  #failed = false

  /** @param closeFd lets fds of rings go; by default they are closed */
  constructor(
    device: VirtioDevice,
    options: HostOptions,
    events: HostEvents,
    counters: TransportCounters,
    closeFd?: (fd: number) => void,
  ) {
    this.#options = options
    this.#runtime = new DeviceRuntime(
      device,
      {
        interrupt: index => this.rings[index]!.interrupt(),
        configInterrupt: () => events.configChanged(),
        needsReset: reason => {
          this.#failed = true
          for (const ring of this.rings) ring.raiseError()
          events.failed(reason)
        },
        wrapQueue: (index, queue) => this.#wrapQueue(index, queue),
      },
      counters,
    )
    const poll = new AdaptivePoll()
    this.rings = device.queueSizes.map(
      (_, index) => new Vring(index, () => poll.kicked(this.#runtime, index), closeFd),
    )
  }

  /** The device is in DEVICE_NEEDS_RESET. */
  get failed(): boolean {
    return this.#failed
  }

  /** @throws VhostUserError `protocol` when there is no such ring */
  ring(index: number): Vring {
    const ring = this.rings[index]
    if (!ring) throw new VhostUserError("protocol", `ring ${index} of ${this.rings.length}`, { queue: index })
    return ring
  }

  /**
   * Features as negotiated. While rings run only logging can be switched; else a device that was active
   * starts afresh, as a driver that negotiates again expects.
   */
  async setFeatures(features: bigint): Promise<void> {
    if (!this.#anyRunning) {
      this.#resetDevice()
      this.#features = features
      return
    }
    const changed = features ^ this.#features
    if ((changed & ~LOG_ALL) !== 0n) throw new VhostUserError("protocol", "features changed while rings run")
    if (changed !== 0n) {
      await this.#whileStopped(() => {
        this.#features = features
      })
    }
  }

  async mapTable(regions: readonly WireRegion[], fds: readonly number[]): Promise<void> {
    await this.#setTable(MemoryTable.map(regions, fds, this.#options))
  }

  async addRegion(region: WireRegion, fd: number): Promise<void> {
    const table = this.#table
    if (table && table.regionCount >= VHOST_USER_MAX_RAM_SLOTS) {
      throw new VhostUserError("memory-region", "every memory slot is in use", { value: table.regionCount })
    }
    await this.#setTable(
      table ? table.with(region, fd, this.#options) : MemoryTable.map([region], [fd], this.#options),
    )
  }

  async removeRegion(region: WireRegion): Promise<void> {
    if (!this.#table) throw new VhostUserError("memory-region", "no region to remove")
    await this.#setTable(this.#table.without(region))
  }

  /** Takes over `table`, which replaces and closes the one before; rings that run are moved to it. */
  async #setTable(table: MemoryTable | undefined): Promise<void> {
    await this.#whileStopped(() => {
      const before = this.#table
      // What devices keep of the memory goes with an activation.
      if (before) this.#resetDevice()
      this.#table = table
      before?.closeExcept(table)
    })
  }

  setSize(index: number, size: number): void {
    const ring = this.#idle(index)
    const max = this.#runtime.device.queueSizes[index]!
    if (size === 0 || size > max) {
      throw new VhostUserError("refused", `ring ${index} of ${size} descriptors, at most ${max}`, {
        queue: index,
        value: size,
      })
    }
    ring.size = size
  }

  setBase(index: number, base: number): void {
    this.#idle(index).base = base
  }

  setAddress(addr: VringAddr): void {
    const ring = this.ring(addr.index)
    if (this.#runtime.hasQueue(addr.index)) {
      // Logging is switched on a ring that runs by sending its addresses once more.
      const { desc, avail, used } = ring.addr!
      if (desc !== addr.desc || avail !== addr.avail || used !== addr.used) {
        throw new VhostUserError("protocol", `ring ${addr.index} moved while it runs`, { queue: addr.index })
      }
    } else {
      if (ring.size === 0)
        throw new VhostUserError("protocol", `ring ${addr.index} has no size yet`, { queue: addr.index })
      this.#locate(ring, addr)
    }
    ring.addr = addr
  }

  setKick(index: number, fd: number): void {
    const ring = this.ring(index)
    const early = !ring.callKnown || !ring.addr
    ring.setKick(fd)
    if (early)
      throw new VhostUserError("protocol", `ring ${index} is kicked before it is set up`, { queue: index })
    // Without protocol features there is no ENABLE.
    if (!hasFeature(this.#features, PROTOCOL_FEATURES)) ring.enabled = true
    this.#start(ring)
  }

  setCall(index: number, fd: number): void {
    this.ring(index).setCall(fd)
  }

  setErr(index: number, fd: number): void {
    this.ring(index).setErr(fd)
  }

  async setEnabled(index: number, on: number): Promise<void> {
    const ring = this.ring(index)
    if (on > 1)
      throw new VhostUserError("protocol", `ring ${index} enabled with ${on}`, { queue: index, value: on })
    // QEMU enables every ring, also those its guest did not set up: that is remembered and starts nothing.
    ring.enabled = on === 1
    if (ring.enabled) this.#start(ring)
    else await this.#stop([ring])
  }

  async stop(index: number): Promise<number> {
    const ring = this.ring(index)
    await this.#stop([ring])
    // From here a new kick fd is what starts it again.
    ring.forgetKick()
    if (!this.#anyRunning) this.#resetDevice()
    return ring.base
  }

  /** Another part of the device broke: nothing more is taken from rings until they all are stopped. */
  halt(): void {
    this.#failed = true
    for (const ring of this.rings) {
      ring.unlisten()
      ring.raiseError()
      void this.#runtime.suspend(ring.index)
    }
  }

  setInflight(area: InflightArea, fd: number): void {
    const memory = InflightMemory.map(area, fd)
    if (this.#anyRunning) {
      memory.close()
      throw new VhostUserError("protocol", "in-flight area changed while rings run")
    }
    this.#inflight?.close()
    this.#inflight = memory
  }

  setLog(area: LogArea, fd: number): void {
    const log = DirtyLogMemory.map(area, fd)
    this.#log?.close()
    this.#log = log
  }

  async reset(): Promise<void> {
    await this.#stop(this.rings)
    for (const ring of this.rings) ring.close()
    this.#resetDevice()
  }

  close(): void {
    for (const ring of this.rings) ring.close()
    this.#resetDevice()
    this.#table?.close()
    this.#inflight?.close()
    this.#log?.close()
    this.#table = undefined
    this.#inflight = undefined
    this.#log = undefined
  }

  get #anyRunning(): boolean {
    return this.rings.some(ring => this.#runtime.hasQueue(ring.index))
  }

  get #packed(): boolean {
    return hasFeature(this.#features, VIRTIO_F_RING_PACKED)
  }

  #resetDevice(): void {
    this.#failed = false
    if (this.#runtime.active) this.#runtime.reset()
  }

  /** The ring, which must not run. */
  #idle(index: number): Vring {
    const ring = this.ring(index)
    if (this.#runtime.hasQueue(index)) {
      throw new VhostUserError("protocol", `ring ${index} is changed while it runs`, { queue: index })
    }
    return ring
  }

  #start(ring: Vring): void {
    const { index, addr } = ring
    if (!ring.enabled || !ring.complete || !addr || this.#failed || this.#runtime.hasQueue(index)) return
    const config = this.#queueConfig(ring, addr)
    if (!this.#runtime.active) this.#runtime.activate(this.#table!.memory, this.#features)
    if (this.#runtime.startQueue(index, config)) ring.listen()
  }

  #queueConfig(ring: Vring, addr: VringAddr): QueueConfig {
    const config = { size: ring.size, ...this.#locate(ring, addr) }
    if (this.#packed) return { ...config, state: decodePackedBase(ring.base) }
    const usedIndex = this.#table!.memory.loadU16(config.device + 2)
    if (!this.#inflight)
      return { ...config, state: { ...NO_QUEUE_STATE, availIndex: ring.base & 0xffff, usedIndex } }
    const inflight = this.#inflight.queueLog(ring.index, ring.size)
    const { resubmit } = inflight.recover(usedIndex)
    // After a crash the front end knows only what was used; what was taken since is in the log.
    const availIndex = resubmit.length > 0 ? usedIndex + resubmit.length : ring.base
    return {
      ...config,
      inflight,
      resubmit,
      state: { ...NO_QUEUE_STATE, availIndex: availIndex & 0xffff, usedIndex },
    }
  }

  /** Addresses of the front end's own as guest addresses. */
  #locate(ring: Vring, addr: VringAddr): RingAddresses {
    if (!this.#table) {
      throw new VhostUserError("protocol", `ring ${ring.index} before a memory table`, { queue: ring.index })
    }
    const { size } = ring
    const desc = this.#table.toGuest(addr.desc, size * VIRTQ_DESC_SIZE)
    const driver = this.#table.toGuest(addr.avail, this.#packed ? EVENT_SUPPRESS_SIZE : availRingSize(size))
    const device = this.#table.toGuest(addr.used, this.#packed ? EVENT_SUPPRESS_SIZE : usedRingSize(size))
    if (desc === undefined || driver === undefined || device === undefined || device % 2 !== 0) {
      throw new VhostUserError("refused", `ring ${ring.index} lies outside the memory table`, {
        queue: ring.index,
      })
    }
    return { desc, driver, device }
  }

  /** Stops rings once what is in flight has completed, or the time for that is over. */
  async #stop(rings: readonly Vring[]): Promise<void> {
    const running = rings.filter(ring => this.#runtime.hasQueue(ring.index))
    if (running.length === 0) return
    for (const ring of running) ring.unlisten()
    await (this.#failed ? this.#untilIdle() : this.#quiesce(running))
    for (const ring of running) {
      const state = this.#runtime.stopQueue(ring.index)
      if (state) ring.base = this.#packed ? encodePackedBase(state) : state.availIndex
    }
  }

  async #quiesce(rings: readonly Vring[]): Promise<void> {
    let timer: NodeJS.Timeout | undefined
    const late = new Promise<void>(resolve => {
      timer = setTimeout(resolve, this.#options.quiesceTimeoutMs)
    })
    await Promise.race([Promise.all(rings.map(ring => this.#runtime.suspend(ring.index))), late])
    clearTimeout(timer)
  }

  /** A broken device completes nothing any more, but what it began still works on guest memory. */
  async #untilIdle(): Promise<void> {
    const deadline = performance.now() + this.#options.quiesceTimeoutMs
    while ((this.#table?.inFlight ?? 0) > 0 && performance.now() < deadline) await setTimeoutPromise(1)
  }

  /** Stops the rings that run, does `change`, and starts them where they were. */
  async #whileStopped(change: () => void): Promise<void> {
    const running = this.rings.filter(ring => this.#runtime.hasQueue(ring.index))
    await this.#stop(running)
    change()
    for (const ring of running) this.#start(ring)
  }

  /** Logging is looked for when a ring starts: without it nothing stands before the queue. */
  #wrapQueue(index: number, queue: VirtQueue): VirtQueue {
    if (!hasFeature(this.#features, LOG_ALL)) return queue
    const ring = this.rings[index]!
    return new LoggedQueue(queue, () => {
      if (!this.#log) return undefined
      const { log } = this.#log
      if (!ring.addr || (ring.addr.flags & VHOST_VRING_F_LOG) === 0) return { log }
      return { log, used: { address: Number(ring.addr.log), length: usedRingSize(ring.size) } }
    })
  }
}

const WRAP_BIT = 15
const INDEX_MASK = 0x7fff

/** Packed base: both indexes and wrap counters in one u32 (vhost-user.rst, "VHOST_USER_SET_VRING_BASE"). */
function encodePackedBase({ availIndex, availWrap, usedIndex, usedWrap }: QueueState): number {
  const half = (index: number, wrap: boolean) => (index & INDEX_MASK) | (Number(wrap) << WRAP_BIT)
  return (half(availIndex, availWrap) | (half(usedIndex, usedWrap) << 16)) >>> 0
}

function decodePackedBase(base: number): QueueState {
  const used = base >>> 16
  return {
    availIndex: base & INDEX_MASK,
    availWrap: (base & (1 << WRAP_BIT)) !== 0,
    usedIndex: used & INDEX_MASK,
    usedWrap: (used & (1 << WRAP_BIT)) !== 0,
  }
}
