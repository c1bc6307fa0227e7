import { setImmediate } from "node:timers/promises"
import { closeFd, drain, eventFd, Mapping, Poller, signal, socketPair } from "@ts-vmm/native"
import { RegionTable } from "@ts-vmm/vm-memory"
import type { VirtioDevice } from "../device.js"
import { hasFeature, VIRTIO_F_RING_PACKED } from "../features.js"
import type { QueueConfig } from "../queue/virt-queue.js"
import type { DriverPort, FrontDoor, FrontDoorOptions } from "../testing/front-door.js"
import { VIRTIO_CONFIG_S_NEEDS_RESET } from "../transport/negotiation.js"
import { VhostUserError } from "./errors.js"
import { PACKED_INITIAL_BASE, VhostUserFrontend } from "./frontend.js"
import { serveVhostUser, type VhostUserServer } from "./server.js"

/** Memory in the front end's own terms lies elsewhere than in the guest's, so that mixing them up shows. */
const USER_BASE = 0x7f00_0000_0000n

/** Driver and device in one process, joined by a socket pair and shared memory: the whole protocol between them. */
export const overVhostUser: FrontDoor = {
  name: "vhost-user",
  open: (device, options) => VhostUserPort.open(device, options),
}

interface RingFds {
  readonly kick: number
  readonly call: number
  readonly poller: Poller
}

/** The driver's end of `overVhostUser`. Public so that tests can reach the server and its counters. */
export class VhostUserPort implements DriverPort {
  readonly memory: RegionTable
  readonly server: VhostUserServer
  readonly #mappings: readonly Mapping[]
  readonly #options: FrontDoorOptions
  readonly #rings = new Map<number, RingFds>()
  #frontend!: VhostUserFrontend
  #features = 0n
  #refused = false
  #tableSent = false
  #interrupt: (index: number) => void = () => undefined
  #configInterrupt: () => void = () => undefined

  private constructor(device: VirtioDevice, options: FrontDoorOptions, fd: number) {
    this.#options = options
    this.#mappings = options.regions.map(({ start, size }) =>
      Mapping.create({ name: `guest-${start.toString(16)}`, size, guard: true }),
    )
    this.memory = new RegionTable(
      options.regions.map(({ start }, i) => ({ start, bytes: new Uint8Array(this.#mappings[i]!.buffer) })),
    )
    this.server = serveVhostUser(device, { fd, packed: true })
  }

  static async open(device: VirtioDevice, options: FrontDoorOptions): Promise<VhostUserPort> {
    const [ours, theirs] = socketPair()
    const port = new VhostUserPort(device, options, theirs)
    const onConfigChanged = () => port.#configInterrupt()
    port.#frontend = await VhostUserFrontend.connect({ fd: ours }, { onConfigChanged })
    return port
  }

  get frontend(): VhostUserFrontend {
    return this.#frontend
  }

  async offeredFeatures(): Promise<bigint> {
    return this.#frontend.offeredFeatures
  }

  async acknowledge(features: bigint): Promise<boolean> {
    this.#features = features
    return this.#try(() => this.#frontend.setFeatures(features))
  }

  queueCount(): Promise<number> {
    return this.#frontend.queueCount()
  }

  async setUpQueue(index: number, config: QueueConfig): Promise<void> {
    await this.#shareMemory()
    const fds = this.#openRing(index)
    const ring = {
      size: config.size,
      desc: USER_BASE + BigInt(config.desc),
      avail: USER_BASE + BigInt(config.driver),
      used: USER_BASE + BigInt(config.device),
      base: hasFeature(this.#features, VIRTIO_F_RING_PACKED)
        ? PACKED_INITIAL_BASE
        : (config.state?.availIndex ?? 0),
      kickFd: fds.kick,
      callFd: fds.call,
    }
    if (!(await this.#try(() => this.#frontend.startRing(index, ring)))) this.#refused = true
  }

  /** The protocol has no such step: a ring works as soon as it is enabled. */
  async driverOk(): Promise<void> {
    await this.#frontend.sync()
  }

  kick(index: number): void {
    const ring = this.#rings.get(index)
    if (ring) signal(ring.kick)
  }

  onInterrupt(listener: (index: number) => void): void {
    this.#interrupt = listener
  }

  onConfigInterrupt(listener: () => void): void {
    this.#configInterrupt = listener
  }

  async needsReset(): Promise<boolean> {
    return this.#refused || ((await this.#frontend.status()) & VIRTIO_CONFIG_S_NEEDS_RESET) !== 0
  }

  readConfig(offset: number, length: number): Promise<Uint8Array> {
    return this.#frontend.readConfig(offset, length)
  }

  writeConfig(offset: number, bytes: Uint8Array): Promise<void> {
    return this.#frontend.writeConfig(offset, bytes)
  }

  async reset(): Promise<void> {
    await this.#frontend.resetDevice()
    this.#closeRings()
    this.#refused = false
  }

  async settle(): Promise<void> {
    // Two round trips: a kick sent before the first has been polled by the end of the second.
    await this.#frontend.sync()
    await this.#frontend.sync()
    await setImmediate()
    await setImmediate()
  }

  async close(): Promise<void> {
    this.#frontend.close()
    this.server.close()
    this.#closeRings()
    for (const mapping of this.#mappings) mapping.close()
  }

  async #shareMemory(): Promise<void> {
    if (this.#tableSent) return
    this.#tableSent = true
    await this.#frontend.setMemoryTable(
      this.#options.regions.map(({ start, size }, i) => ({
        guestAddress: start,
        size,
        userAddress: USER_BASE + BigInt(start),
        fd: this.#mappings[i]!.fd,
      })),
    )
  }

  #openRing(index: number): RingFds {
    const kick = eventFd()
    const call = eventFd()
    const poller = new Poller(call, "readable", () => {
      if (drain(call) > 0) this.#interrupt(index)
    })
    const ring = { kick, call, poller }
    this.#closeRing(this.#rings.get(index))
    this.#rings.set(index, ring)
    return ring
  }

  #closeRing(ring: RingFds | undefined): void {
    if (!ring) return
    ring.poller.close()
    closeFd(ring.kick)
    closeFd(ring.call)
  }

  #closeRings(): void {
    for (const ring of this.#rings.values()) this.#closeRing(ring)
    this.#rings.clear()
  }

  /** @returns false when the back end refused */
  async #try(action: () => Promise<void>): Promise<boolean> {
    try {
      await action()
      return true
    } catch (error) {
      if (error instanceof VhostUserError && error.code === "refused") return false
      throw error
    }
  }
}
