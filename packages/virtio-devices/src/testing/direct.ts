import { setImmediate } from "node:timers/promises"
import { type ArrayBufferMemory, arrayBufferMemory } from "@ts-vmm/vm-memory"
import type { VirtioDevice } from "../device.js"
import { RING_FEATURES } from "../features.js"
import type { QueueConfig } from "../queue/virt-queue.js"
import { DeviceRuntime } from "../transport/device-runtime.js"
import {
  Negotiation,
  VIRTIO_CONFIG_S_DRIVER_OK,
  VIRTIO_CONFIG_S_NEEDS_RESET,
} from "../transport/negotiation.js"
import type { DriverPort, FrontDoor, FrontDoorOptions } from "./front-door.js"

/** Driver and device in one process, joined by function calls: nothing but the queues in between. */
export const direct: FrontDoor = {
  name: "direct",
  open: async (device, options) => new DirectPort(device, options),
}

/** The driver's end of `direct`. Public so that tests can reach the runtime and its counters. */
export class DirectPort implements DriverPort {
  readonly memory: ArrayBufferMemory
  readonly negotiation: Negotiation
  readonly runtime: DeviceRuntime
  #interrupt: ((index: number) => void) | undefined
  #configInterrupt: (() => void) | undefined

  constructor(device: VirtioDevice, options: FrontDoorOptions) {
    this.memory = arrayBufferMemory(options.regions)
    this.negotiation = new Negotiation({
      features: device.features | RING_FEATURES,
      queueSizes: device.queueSizes,
    })
    this.runtime = new DeviceRuntime(device, {
      interrupt: index => this.#interrupt?.(index),
      configInterrupt: () => this.#configInterrupt?.(),
      needsReset: () => this.negotiation.needsReset(),
    })
  }

  async offeredFeatures(): Promise<bigint> {
    return this.negotiation.offered
  }

  async acknowledge(features: bigint): Promise<boolean> {
    return this.negotiation.acknowledge(features)
  }

  async queueCount(): Promise<number> {
    return this.negotiation.queueCount
  }

  async setUpQueue(index: number, config: QueueConfig): Promise<void> {
    const { negotiation } = this
    const taken =
      negotiation.setQueueSize(index, config.size) &&
      negotiation.setQueueAddresses(index, config) &&
      negotiation.setQueueReady(index)
    if (!taken) this.runtime.counters.refusals++
  }

  async driverOk(): Promise<void> {
    const action = this.negotiation.writeStatus(this.negotiation.status | VIRTIO_CONFIG_S_DRIVER_OK)
    if (action !== "activate") return
    this.runtime.activate(this.memory, this.negotiation.features, this.negotiation.readyQueues())
  }

  kick(index: number): void {
    this.runtime.notify(index)
  }

  onInterrupt(listener: (index: number) => void): void {
    this.#interrupt = listener
  }

  onConfigInterrupt(listener: () => void): void {
    this.#configInterrupt = listener
  }

  async needsReset(): Promise<boolean> {
    return (this.negotiation.status & VIRTIO_CONFIG_S_NEEDS_RESET) !== 0
  }

  async readConfig(offset: number, length: number): Promise<Uint8Array> {
    const bytes = new Uint8Array(length)
    this.runtime.device.readConfig?.(offset, bytes)
    return bytes
  }

  async writeConfig(offset: number, bytes: Uint8Array): Promise<void> {
    this.runtime.device.writeConfig?.(offset, bytes)
  }

  async reset(): Promise<void> {
    this.negotiation.writeStatus(0)
    this.runtime.reset()
  }

  async settle(): Promise<void> {
    // One turn lets microtasks and a drain that ran out of budget go on; devices may need a second one.
    await setImmediate()
    await setImmediate()
  }

  async close(): Promise<void> {
    this.runtime.reset()
    this.memory.close()
  }
}
