import type { GuestMemory } from "@ts-vmm/vm-memory"
import { hasFeature, VIRTIO_F_RING_PACKED } from "../features.js"
import { PackedQueue } from "./packed-queue.js"
import { SplitQueue } from "./split-queue.js"
import type { QueueConfig, VirtQueue } from "./virt-queue.js"

/**
 * The queue for a negotiated feature set: packed with VIRTIO_F_RING_PACKED, split without.
 * @throws QueueError `queue-size`, `ring-alignment`, `ring-address`, `ring-overlap`
 *
 * @example
 * ```ts
 * const queue = createQueue(memory, { size: 256, desc: 0x1000, driver: 0x2000, device: 0x3000 }, features)
 * for (let chain = queue.pop(); chain; chain = queue.pop()) queue.push(chain, 0)
 * if (queue.publish()) interrupt()
 * ```
 */
export function createQueue(memory: GuestMemory, config: QueueConfig, features: bigint): VirtQueue {
  return hasFeature(features, VIRTIO_F_RING_PACKED)
    ? new PackedQueue(memory, config, features)
    : new SplitQueue(memory, config, features)
}
