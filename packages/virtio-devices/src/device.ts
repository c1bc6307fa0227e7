import type { GuestMemory } from "@ts-vmm/vm-memory"
import type { DeviceMemory, SharedMemoryRegion } from "./device-memory.js"
import type { DescriptorChain } from "./queue/chain.js"
import type { QueueConfig } from "./queue/virt-queue.js"

/**
 * The contract a virtio device is written against, once, for every transport.
 *
 * ```
 *            construct            activate(ctx)                notify(queue) *
 *  (idle) ------------> inactive --------------> active ------------------------.
 *                          ^                       |  ^__________________________|
 *                          |        reset()        |
 *                          '-----------------------'   ctx.signal aborts first: late completions are dropped
 * ```
 *
 * The transport owns negotiation and rings. It moves the queues in at `activate`, takes them back at
 * `reset`, and turns every guest fault into DEVICE_NEEDS_RESET: nothing a guest does throws past it.
 *
 * @see virtio 1.3, section 2 and 3
 */
export interface VirtioDevice {
  /** Device type number (virtio 1.3, section 5), one of `VIRTIO_ID`. */
  readonly type: number
  /** Largest size of each queue, in descriptors; powers of two. Its length is the number of queues. */
  readonly queueSizes: readonly number[]
  /** Device-specific features offered (bits 0-23 and 50-127). Transports add the ring features. */
  readonly features: bigint
  /** Guest address space that it has beside guest RAM, for whoever runs the guest to place. */
  readonly deviceMemory?: DeviceMemory
  /** Guest address space that its driver finds by ids. Transports ask once, when the device is joined to the guest. */
  readonly sharedMemory?: readonly SharedMemoryRegion[]
  /**
   * Only for a device whose queues are served by threads of their own. Such a device is never activated itself: the
   * transport has each thread make its part of it, and activates that.
   */
  readonly threads?: DeviceThreads
  /** Reads `into.length` bytes of config space from `offset`; bytes past its end read as zero. */
  readConfig?(offset: number, into: Uint8Array): void
  /** The driver wrote config space. Bytes that are not writable are ignored. */
  writeConfig?(offset: number, from: Uint8Array): void
  /** DRIVER_OK: queues are ready. The device keeps `ctx` until `reset`. */
  activate(ctx: DeviceContext): void
  /** The driver made buffers available on queue `index`. Spurious calls are legal. */
  notify(index: number): void
  /** Back to inactive. Called after `ctx.signal` aborted; must not touch guest memory afterwards. */
  reset(): void
  /**
   * Settles when no I/O of this device works on guest memory any more; undefined when there is none. Transports ask
   * before they tell the driver that a reset, or the stop of a queue, is done and the memory its own again.
   *
   * For devices whose I/O goes on after a call returned and cannot be called back by `ctx.signal`
   * (`IoBatch.runAsync` on views of a chain). Without it a transport takes it that any I/O on guest memory may be on
   * the chains that this device holds.
   */
  idle?(): Promise<void> | undefined
}

/** How the queues of one device are shared out among threads of this process. */
export interface DeviceThreads {
  /** How many there are. Queue `i` belongs to thread `i % count`. */
  readonly count: number
  /** Opens the part of one thread. */
  open(): DevicePart
  /** Calls `changed` when the parts have to look at what they stand on again. @returns what ends that */
  onChange(changed: () => void): () => void
}

/** What one thread makes its part of a device from. */
export interface DevicePart {
  /** Plain data, which the thread gets a copy of, and fds in it, which stay open until `close`. */
  readonly data: unknown
  /** The part has something to say to its device. */
  heard(message: unknown): void
  /** The thread has ended. */
  close(): void
}

/** What an active device may do; made by the transport, dead after `reset`. */
export interface DeviceContext {
  readonly memory: GuestMemory
  /** Negotiated features, ring features included. */
  readonly features: bigint
  /** Aborts before `reset`: ends in-flight work. */
  readonly signal: AbortSignal
  /** Where queue `index` lies, for a device whose rings somebody else serves; undefined when it is not enabled. */
  queueConfig(index: number): QueueConfig | undefined
  /** Number of queues the driver enabled may be smaller than offered; true when `index` can be used. */
  hasQueue(index: number): boolean
  /**
   * The one drain loop: disables notifications, hands every available chain to `handler`, enables them
   * again, looks once more, and interrupts the driver at the end if something completed; a driver that works on another
   * CPU also in between (`isWorthShowing`). `handler` returns the bytes it wrote, which completes the chain, or
   * `undefined` when it keeps the chain and will call `complete` later.
   */
  drain(index: number, handler: (chain: DescriptorChain) => number | undefined): void
  /** Takes one available chain, for devices that send (console input, vsock receive), or undefined. */
  pop(index: number): DescriptorChain | undefined
  /** Gives `chain` back unused, to be popped again first (a receive buffer that was not needed). */
  unpop(index: number, chain: DescriptorChain): void
  /**
   * Puts `chain` on the used ring with `written` bytes: its memory is the driver's again, from this call on.
   * Exactly once per chain; after `signal` aborted a no-op. The interrupt follows at the end of the running
   * `drain`, or in a microtask outside of one, so that a batch of completions costs one interrupt.
   */
  complete(index: number, chain: DescriptorChain, written: number): void
  /**
   * Whether so much should be done, and shown (`show`), before more is begun: the driver runs on another CPU, as far as
   * could be seen, and can work on it meanwhile. Else that only makes the CPU change hands more often.
   *
   * @param requests - since something was shown last
   * @param bytes - that they move
   */
  isWorthShowing(requests: number, bytes: number): boolean
  /** Shows the driver what was completed so far, in the middle of a `drain`. */
  show(): void
  /** Config space changed: raises the configuration interrupt. */
  configChanged(): void
  /** The guest broke the protocol: queue stops, DEVICE_NEEDS_RESET, counter. */
  fail(reason: Error): void
}

/** A piece of guest RAM as another process, or the kernel, can have it. */
export interface SharedRegion {
  readonly guestAddress: number
  readonly size: number
  /** Any address that identifies the memory in this process's terms; ring addresses are given in it. */
  readonly userAddress: bigint
  /** A memfd or tmpfs file; stays the caller's. -1 for memory of this process alone, which only the kernel can be given. */
  readonly fd: number
  /** Where the region starts in the file; default 0. */
  readonly offset?: number
}

/** What the server of somebody's rings is given by the machine that they belong to. */
export interface RingHost {
  /** eventfds, one a queue: the driver's notification. They stay the machine's. */
  readonly kicks: readonly number[]
  /** eventfd: the device's interrupt. It stays the machine's. */
  readonly call: number
  /** All of guest RAM. Asked for at each activation. */
  regions(): readonly SharedRegion[]
}

/**
 * A device whose rings are served outside of this process: by another process, or by the kernel. Its notifications
 * and interrupts do not pass through here, so a machine gives it eventfds of its own, and the bits of the interrupt
 * status that say "used buffers" are always set.
 *
 * It never drains a queue; `reset` takes the rings back, and `idle` tells when that is done.
 */
export interface ExternalDevice extends VirtioDevice {
  /**
   * Another process can be given only guest RAM that lies in files; the kernel takes any, as it goes by the addresses of
   * this process.
   */
  readonly servedBy: "process" | "kernel"
  /** Ring features that the server knows; the transport offers no others. */
  readonly ringFeatures: bigint
  /** Once, before the driver finds the device. */
  attachHost(host: RingHost): void
  /** The machine ends, or the device was taken out of it: lets the server go. */
  close(): void
}

/** True for a device whose rings somebody else serves. */
export function isExternalDevice(device: VirtioDevice): device is ExternalDevice {
  return "attachHost" in device
}
