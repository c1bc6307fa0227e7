/**
 * Numbers of the memory device, virtio 1.3, section 5.15.
 */

/** The one queue, 5.15.2. */
export const MEM_QUEUE = 0

/** The driver does not touch memory that is not plugged, 5.15.3. */
export const VIRTIO_MEM_F_UNPLUGGED_INACCESSIBLE = 1n << 1n

/** Fields of `struct virtio_mem_config`, byte offsets of le64 values, 5.15.4; there are no nodes. */
export const CONFIG = {
  blockSize: 0,
  addr: 16,
  regionSize: 24,
  usableRegionSize: 32,
  pluggedSize: 40,
  requestedSize: 48,
} as const
/** Bytes of `struct virtio_mem_config`. */
export const CONFIG_SIZE = 56

/** Bytes of `struct virtio_mem_req`: le16 type, padding, le64 addr, le16 nb_blocks, padding, 5.15.6. */
export const REQUEST_SIZE = 24
/** Bytes of `struct virtio_mem_resp`: le16 type, padding, le16 state, 5.15.6. */
export const RESPONSE_SIZE = 10

// Requests, 5.15.6.
export const VIRTIO_MEM_REQ_PLUG = 0
export const VIRTIO_MEM_REQ_UNPLUG = 1
export const VIRTIO_MEM_REQ_UNPLUG_ALL = 2
export const VIRTIO_MEM_REQ_STATE = 3

// Responses, 5.15.6.
export const VIRTIO_MEM_RESP_ACK = 0
/** Not now: more than is requested. */
export const VIRTIO_MEM_RESP_NACK = 1
export const VIRTIO_MEM_RESP_BUSY = 2
/** No such blocks, or not in that state. */
export const VIRTIO_MEM_RESP_ERROR = 3

// States of blocks, 5.15.6.
export const VIRTIO_MEM_STATE_PLUGGED = 0
export const VIRTIO_MEM_STATE_UNPLUGGED = 1
export const VIRTIO_MEM_STATE_MIXED = 2

/** Unit in which memory is plugged: what a page table maps at once, and Linux takes as it is. */
export const BLOCK_SIZE = 2 ** 21
/** Linux adds memory in sections of this size. */
export const REGION_ALIGNMENT = 2 ** 27
