import type { GuestMemory } from "@ts-vmm/vm-memory"
import type { VirtioDevice } from "../device.js"
import type { QueueConfig } from "../queue/virt-queue.js"

/** A region of guest RAM that a front door makes for its driver. */
export interface MemoryRequest {
  readonly start: number
  readonly size: number
}

/** What a front door is asked for. */
export interface FrontDoorOptions {
  /** Guest RAM, as the driver will see it. */
  readonly regions: readonly MemoryRequest[]
}

/**
 * A way for a driver to reach a device: direct calls, vhost-user messages, MMIO registers. Injected into
 * `MockDriver.attach`, so that one test body runs over all of them.
 */
export interface FrontDoor {
  /** Shown in test names. */
  readonly name: string
  /** Connects a driver to `device`, which is inactive. */
  open(device: VirtioDevice, options: FrontDoorOptions): Promise<DriverPort>
}

/**
 * The driver's end of one front door, at the level of the specification's initialisation sequence. Nothing
 * here checks what a driver does: a hostile driver uses the same calls.
 */
export interface DriverPort {
  /** The driver's view of guest RAM: the same bytes the device sees. */
  readonly memory: GuestMemory
  /** Features the device offers, ring and transport features included. */
  offeredFeatures(): Promise<bigint>
  /** Acknowledges features. @returns false when the device refused them */
  acknowledge(features: bigint): Promise<boolean>
  /** Number of queues the device has. */
  queueCount(): Promise<number>
  /** Sets one queue up and enables it. A refused set-up shows as `needsReset` at the latest after `driverOk`. */
  setUpQueue(index: number, config: QueueConfig): Promise<void>
  /** The last step: the device may work from here on. */
  driverOk(): Promise<void>
  /** Makes the device look at queue `index`; any number, also of a queue that is not there. */
  kick(index: number): void
  /**
   * Is called at each used-buffer interrupt: with the queue's index, or without one when all queues share an
   * interrupt and the driver has to look. One listener.
   */
  onInterrupt(listener: (index?: number) => void): void
  /** Is called at each configuration interrupt. One listener. */
  onConfigInterrupt(listener: () => void): void
  /** True once the device says DEVICE_NEEDS_RESET, or what the transport has in its place. */
  needsReset(): Promise<boolean>
  readConfig(offset: number, length: number): Promise<Uint8Array>
  writeConfig(offset: number, bytes: Uint8Array): Promise<void>
  /** Device reset: afterwards the initialisation sequence can be run again. */
  reset(): Promise<void>
  /** Lets the device run until what was kicked has been handled as far as it will be without waiting. */
  settle(): Promise<void>
  /** Disconnects and frees everything the door made. */
  close(): Promise<void>
}
