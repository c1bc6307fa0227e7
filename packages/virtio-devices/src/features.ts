/**
 * Feature bits that belong to no device type, as masks of the 64-bit feature word.
 * @see virtio 1.3, section 6
 */

/** The device may be used with indirect descriptors. */
export const VIRTIO_F_INDIRECT_DESC = 1n << 28n
/** `used_event` and `avail_event` (split), or descriptor event suppression (packed). */
export const VIRTIO_F_EVENT_IDX = 1n << 29n
/** The device follows virtio 1.0 or later. A driver that does not acknowledge it is refused. */
export const VIRTIO_F_VERSION_1 = 1n << 32n
/** Memory accesses of the device may be limited or translated by the platform. */
export const VIRTIO_F_ACCESS_PLATFORM = 1n << 33n
/** Packed virtqueue layout. */
export const VIRTIO_F_RING_PACKED = 1n << 34n
/** Buffers are used in the order they were made available. */
export const VIRTIO_F_IN_ORDER = 1n << 35n
/** Memory accesses are ordered for a device outside the CPU's coherence. */
export const VIRTIO_F_ORDER_PLATFORM = 1n << 36n
/** The driver passes extra data in notifications. */
export const VIRTIO_F_NOTIFICATION_DATA = 1n << 38n
/** One queue can be reset alone. */
export const VIRTIO_F_RING_RESET = 1n << 40n

/** Ring features that the queues here implement; transports add them to a device's own. */
export const RING_FEATURES =
  VIRTIO_F_INDIRECT_DESC | VIRTIO_F_EVENT_IDX | VIRTIO_F_VERSION_1 | VIRTIO_F_RING_PACKED

/** True when every bit of `mask` is set in `features`. */
export function hasFeature(features: bigint, mask: bigint): boolean {
  return (features & mask) === mask
}
