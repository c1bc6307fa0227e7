export {
  type DeviceContext,
  type DevicePart,
  type DeviceThreads,
  type ExternalDevice,
  isExternalDevice,
  type RingHost,
  type SharedRegion,
  type VirtioDevice,
} from "./device.js"
export type { DeviceMemory, DeviceMemoryPart, SharedMemoryRegion } from "./device-memory.js"
export {
  hasFeature,
  RING_FEATURES,
  VIRTIO_F_ACCESS_PLATFORM,
  VIRTIO_F_EVENT_IDX,
  VIRTIO_F_IN_ORDER,
  VIRTIO_F_INDIRECT_DESC,
  VIRTIO_F_NOTIFICATION_DATA,
  VIRTIO_F_ORDER_PLATFORM,
  VIRTIO_F_RING_PACKED,
  VIRTIO_F_RING_RESET,
  VIRTIO_F_VERSION_1,
} from "./features.js"
export { VIRTIO_ID, type VirtioDeviceName } from "./ids.js"
export { DescriptorChain } from "./queue/chain.js"
export { createQueue } from "./queue/create-queue.js"
export { MAX_CHAIN_SEGMENTS, MAX_QUEUE_SIZE } from "./queue/defs.js"
export { QueueError, type QueueErrorCode } from "./queue/errors.js"
export { PackedQueue } from "./queue/packed-queue.js"
export { SplitQueue } from "./queue/split-queue.js"
export type { InflightTracker, QueueConfig, QueueState, VirtQueue } from "./queue/virt-queue.js"
export { monotonicClock, type RateClock, type RateLimit, RateLimiter } from "./rate-limiter.js"
export { AdaptivePoll, type WatchedRings } from "./transport/adaptive-poll.js"
export { TransportCounters } from "./transport/counters.js"
export { DeviceRuntime, type RuntimeHooks } from "./transport/device-runtime.js"
export {
  Negotiation,
  type NegotiationOffer,
  type StatusAction,
  VIRTIO_CONFIG_S_ACKNOWLEDGE,
  VIRTIO_CONFIG_S_DRIVER,
  VIRTIO_CONFIG_S_DRIVER_OK,
  VIRTIO_CONFIG_S_FAILED,
  VIRTIO_CONFIG_S_FEATURES_OK,
  VIRTIO_CONFIG_S_NEEDS_RESET,
} from "./transport/negotiation.js"
