import { setImmediate } from "node:timers/promises"
import type { GuestMemory } from "@ts-vmm/vm-memory"
import type { VirtioDevice } from "../device.js"
import * as defs from "../mmio/defs.js"
import { MmioTransport, type MmioTransportOptions } from "../mmio/transport.js"
import type { QueueConfig } from "../queue/virt-queue.js"
import {
  VIRTIO_CONFIG_S_ACKNOWLEDGE,
  VIRTIO_CONFIG_S_DRIVER,
  VIRTIO_CONFIG_S_DRIVER_OK,
  VIRTIO_CONFIG_S_FEATURES_OK,
  VIRTIO_CONFIG_S_NEEDS_RESET,
} from "../transport/negotiation.js"
import type { DriverPort } from "./front-door.js"

/** Attempts at a consistent look at config space. */
const MAX_CONFIG_READS = 10

/**
 * The driver's end of `overMmio`: a vCPU that does nothing but register accesses, in the order in which Linux does
 * them. Public so that tests can reach the registers, the transport and its counters.
 */
export class MmioPort implements DriverPort {
  readonly memory: GuestMemory
  readonly transport: MmioTransport
  /** Asynchronous I/O on guest memory, as far as this thread has heard of its end. */
  readonly inFlight: () => number
  /** Edges of the interrupt line. */
  edges = 0
  readonly #close: () => void
  readonly #register = new Uint8Array(4)
  readonly #registerView = new DataView(this.#register.buffer)
  #interrupt: (() => void) | undefined
  #configInterrupt: (() => void) | undefined

  /** @param memory guest RAM, closed with the port */
  constructor(
    device: VirtioDevice,
    memory: GuestMemory & { close(): void },
    options: Partial<MmioTransportOptions> = {},
  ) {
    this.memory = memory
    this.inFlight = options.inFlight ?? (() => 0)
    this.#close = () => memory.close()
    this.transport = new MmioTransport(device, {
      memory,
      interrupt: () => this.interrupted(),
      ...options,
    })
  }

  /** A register as the guest reads it. */
  read32(offset: number): number {
    this.transport.read(offset, this.#register)
    return this.#registerView.getUint32(0, true)
  }

  /** Writes a register. The promise is the transport's: the vCPU stands still until then. */
  write32(offset: number, value: number): void | Promise<void> {
    this.#registerView.setUint32(0, value, true)
    return this.transport.write(offset, this.#register)
  }

  async offeredFeatures(): Promise<bigint> {
    return this.#featureWord(0) | (this.#featureWord(1) << 32n)
  }

  async acknowledge(features: bigint): Promise<boolean> {
    this.#addStatus(VIRTIO_CONFIG_S_ACKNOWLEDGE)
    this.#addStatus(VIRTIO_CONFIG_S_DRIVER)
    for (const word of [1, 0]) {
      this.write32(defs.VIRTIO_MMIO_DRIVER_FEATURES_SEL, word)
      this.write32(defs.VIRTIO_MMIO_DRIVER_FEATURES, Number((features >> BigInt(32 * word)) & 0xffff_ffffn))
    }
    this.#addStatus(VIRTIO_CONFIG_S_FEATURES_OK)
    return (this.read32(defs.VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_FEATURES_OK) !== 0
  }

  async queueCount(): Promise<number> {
    let count = 0
    for (; count < 0x10000; count++) {
      this.write32(defs.VIRTIO_MMIO_QUEUE_SEL, count)
      if (this.read32(defs.VIRTIO_MMIO_QUEUE_NUM_MAX) === 0) break
    }
    return count
  }

  async setUpQueue(index: number, config: QueueConfig): Promise<void> {
    this.write32(defs.VIRTIO_MMIO_QUEUE_SEL, index)
    this.write32(defs.VIRTIO_MMIO_QUEUE_NUM, config.size)
    this.#writeAddress(defs.VIRTIO_MMIO_QUEUE_DESC_LOW, config.desc)
    this.#writeAddress(defs.VIRTIO_MMIO_QUEUE_AVAIL_LOW, config.driver)
    this.#writeAddress(defs.VIRTIO_MMIO_QUEUE_USED_LOW, config.device)
    this.write32(defs.VIRTIO_MMIO_QUEUE_READY, 1)
  }

  async driverOk(): Promise<void> {
    this.#addStatus(VIRTIO_CONFIG_S_DRIVER_OK)
  }

  kick(index: number): void {
    this.write32(defs.VIRTIO_MMIO_QUEUE_NOTIFY, index)
  }

  onInterrupt(listener: () => void): void {
    this.#interrupt = listener
  }

  onConfigInterrupt(listener: () => void): void {
    this.#configInterrupt = listener
  }

  async needsReset(): Promise<boolean> {
    return (this.read32(defs.VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_NEEDS_RESET) !== 0
  }

  async readConfig(offset: number, length: number): Promise<Uint8Array> {
    for (let i = 0; i < MAX_CONFIG_READS; i++) {
      const before = this.read32(defs.VIRTIO_MMIO_CONFIG_GENERATION)
      const bytes = this.#readConfigOnce(offset, length)
      if (this.read32(defs.VIRTIO_MMIO_CONFIG_GENERATION) === before) return bytes
    }
    throw new Error("config space never stands still")
  }

  async writeConfig(offset: number, bytes: Uint8Array): Promise<void> {
    forEachAccess(offset, bytes.length, (at, width) => {
      this.transport.write(defs.VIRTIO_MMIO_CONFIG + at, bytes.subarray(at - offset, at - offset + width))
    })
  }

  async reset(): Promise<void> {
    await this.write32(defs.VIRTIO_MMIO_STATUS, 0)
    if (this.read32(defs.VIRTIO_MMIO_STATUS) !== 0) throw new Error("status is not 0 after a reset")
  }

  async settle(): Promise<void> {
    // One turn lets microtasks and a drain that ran out of budget go on; devices may need a second one.
    await setImmediate()
    await setImmediate()
  }

  async close(): Promise<void> {
    await this.transport.close()
    this.#close()
  }

  /** An edge of the interrupt line, as the driver's handler sees it. */
  interrupted(): void {
    this.edges++
    const status = this.read32(defs.VIRTIO_MMIO_INTERRUPT_STATUS)
    this.write32(defs.VIRTIO_MMIO_INTERRUPT_ACK, status)
    if ((status & defs.VIRTIO_MMIO_INT_CONFIG) !== 0) this.#configInterrupt?.()
    if ((status & defs.VIRTIO_MMIO_INT_VRING) !== 0) this.#interrupt?.()
  }

  #addStatus(bit: number): void {
    this.write32(defs.VIRTIO_MMIO_STATUS, this.read32(defs.VIRTIO_MMIO_STATUS) | bit)
  }

  #featureWord(word: number): bigint {
    this.write32(defs.VIRTIO_MMIO_DEVICE_FEATURES_SEL, word)
    return BigInt(this.read32(defs.VIRTIO_MMIO_DEVICE_FEATURES))
  }

  #writeAddress(lowHalf: number, address: number): void {
    this.write32(lowHalf, address % 2 ** 32)
    this.write32(lowHalf + 4, Math.floor(address / 2 ** 32))
  }

  #readConfigOnce(offset: number, length: number): Uint8Array {
    const bytes = new Uint8Array(length)
    forEachAccess(offset, length, (at, width) => {
      this.transport.read(defs.VIRTIO_MMIO_CONFIG + at, bytes.subarray(at - offset, at - offset + width))
    })
    return bytes
  }
}

/** Naturally aligned accesses of 4, 2 and 1 bytes that make up a range. */
function forEachAccess(offset: number, length: number, access: (at: number, width: number) => void): void {
  for (let at = offset; at < offset + length; ) {
    const width = [4, 2, 1].find(one => at % one === 0 && at + one <= offset + length)!
    access(at, width)
    at += width
  }
}
