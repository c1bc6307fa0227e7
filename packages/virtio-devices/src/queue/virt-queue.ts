import type { GuestAddress } from "@ts-vmm/vm-memory"
import type { DescriptorChain } from "./chain.js"

/** Where a ring lies and how it is laid out; frozen when the queue is made. */
export interface QueueConfig {
  /** Queue size in descriptors; a power of two for split rings. */
  readonly size: number
  /** Descriptor table (split) or descriptor ring (packed). */
  readonly desc: GuestAddress
  /** Driver area: available ring, or driver event suppression. */
  readonly driver: GuestAddress
  /** Device area: used ring, or device event suppression. */
  readonly device: GuestAddress
  /** Where to go on; undefined for a fresh ring. */
  readonly state?: QueueState
  /** Told about every chain taken and returned (vhost-user's inflight region). */
  readonly inflight?: InflightTracker
  /** Split heads taken before a reconnect and never returned, in the order they were taken: popped again first. */
  readonly resubmit?: readonly number[]
}

/** Ring position, as a transport saves and restores it. Split: both wrap counters are true and of no use. */
export interface QueueState {
  /** Next available entry to look at: a 16-bit counter (split) or a slot number (packed). */
  readonly availIndex: number
  /** Next used entry to write, likewise. */
  readonly usedIndex: number
  /** Packed: driver wrap counter. */
  readonly availWrap: boolean
  /** Packed: device wrap counter. */
  readonly usedWrap: boolean
}

/** Sees chains come and go, for in-flight logs. */
export interface InflightTracker {
  /** `head` was taken from the ring. */
  popped(head: number): void
  /** `head` was given back unused. */
  unpopped(head: number): void
  /** `head` is about to be put on the used ring. */
  completing(head: number): void
  /** Everything put on the used ring up to index `usedIndex` is visible to the driver. */
  published(usedIndex: number): void
}

/**
 * The device's side of one ring, split or packed. Everything the driver writes is read once and checked;
 * what the device itself wrote (used ring, avail_event) is never read back.
 *
 * Guest faults throw `QueueError`; the transport turns them into DEVICE_NEEDS_RESET. After one the queue
 * must not be used again.
 */
export interface VirtQueue {
  /** Descriptors, as frozen at set-up. */
  readonly size: number
  /** Chains taken and not yet returned, unpopped ones excluded. */
  readonly inFlight: number
  /** Takes the next available chain. */
  pop(): DescriptorChain | undefined
  /** Gives a chain back unused; the last one given back is popped first. */
  unpop(chain: DescriptorChain): void
  /** Puts `chain` on the used ring; the driver sees it at the next `publish`, and on a packed ring at once. */
  push(chain: DescriptorChain, written: number): void
  /** Shows the driver what was pushed. @returns true when it asks for an interrupt */
  publish(): boolean
  /** The driver made something available that was not taken yet; chains given back do not count. */
  hasAvailable(): boolean
  /** Asks the driver not to notify. A hint. */
  disableNotifications(): void
  /** Asks for a notification for the next chain. @returns true when one is available already: look again */
  enableNotifications(): boolean
  /** Position to resume from: chains given back with `unpop` count as not taken. */
  state(): QueueState
  /** Ends the queue: every chain it handed out loses its segments. */
  stop(): void
}
