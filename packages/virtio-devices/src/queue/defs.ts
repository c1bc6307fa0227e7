/**
 * Layout of split and packed rings. Values from virtio 1.3, section 2.7 (split) and 2.8 (packed).
 */

/** Bytes of one descriptor in either layout. */
export const VIRTQ_DESC_SIZE = 16
/** The buffer continues in the descriptor `next` (split) or the following one (packed). */
export const VIRTQ_DESC_F_NEXT = 1
/** The buffer is device-writable. */
export const VIRTQ_DESC_F_WRITE = 2
/** The buffer holds a table of descriptors. */
export const VIRTQ_DESC_F_INDIRECT = 4
/** Packed: driver's availability bit (2.8.1). */
export const VIRTQ_DESC_F_AVAIL = 1 << 7
/** Packed: device's used bit (2.8.1). */
export const VIRTQ_DESC_F_USED = 1 << 15

/** Split, available ring `flags`: the driver wants no interrupts (2.7.7). */
export const VIRTQ_AVAIL_F_NO_INTERRUPT = 1
/** Split, used ring `flags`: the device wants no notifications (2.7.10). */
export const VIRTQ_USED_F_NO_NOTIFY = 1

/** Packed event suppression: events on (2.8.14). */
export const RING_EVENT_FLAGS_ENABLE = 0
/** Packed event suppression: events off. */
export const RING_EVENT_FLAGS_DISABLE = 1
/** Packed event suppression: an event at one descriptor, with VIRTIO_F_EVENT_IDX. */
export const RING_EVENT_FLAGS_DESC = 2
/** Bytes of one packed event suppression structure. */
export const EVENT_SUPPRESS_SIZE = 4

/** Alignment of the descriptor area, driver area and device area of a split ring (2.7). */
export const SPLIT_ALIGN = { desc: 16, driver: 2, device: 4 } as const
/** The same for a packed ring (2.8.10.1). */
export const PACKED_ALIGN = { desc: 16, driver: 4, device: 4 } as const

/** Largest queue in either layout (2.7: a power of two; 2.8: any number). */
export const MAX_QUEUE_SIZE = 32768
/**
 * Most segments in one chain, and so most entries used of an indirect table. The specification bounds a
 * chain by the queue size; Linux makes longer indirect tables on small queues, and 1024 is what a readv
 * takes (UIO_MAXIOV) and what QEMU refuses above.
 */
export const MAX_CHAIN_SEGMENTS = 1024
/** Most bytes in one chain (2.7.5). */
export const MAX_CHAIN_BYTES = 2 ** 32

/** Bytes of a split ring's driver area (available ring with `used_event`). */
export function availRingSize(queueSize: number): number {
  return 6 + 2 * queueSize
}

/** Bytes of a split ring's device area (used ring with `avail_event`). */
export function usedRingSize(queueSize: number): number {
  return 6 + 8 * queueSize
}
