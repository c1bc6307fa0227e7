/**
 * Numbers of the persistent memory device, virtio 1.3, section 5.19.
 */

/** The one queue, 5.19.2. */
export const PMEM_QUEUE = 0

/** Fields of `struct virtio_pmem_config`, byte offsets of le64 values, 5.19.4. */
export const CONFIG = { start: 0, size: 8 } as const
/** Bytes of `struct virtio_pmem_config`. */
export const CONFIG_SIZE = 16

/** Bytes of `struct virtio_pmem_req`: le32 type, 5.19.6. */
export const REQUEST_SIZE = 4
/** Bytes of `struct virtio_pmem_resp`: le32 ret, 5.19.6. */
export const RESPONSE_SIZE = 4
/** Everything that the driver wrote before shall be in the file. */
export const VIRTIO_PMEM_REQ_TYPE_FLUSH = 0
/** What `ret` says: done. */
export const RET_OK = 0
/** What `ret` says: not done, 5.19.6.3. */
export const RET_FAILED = 0xffff_ffff

/** Linux refuses a start or size that is no multiple of it (`memremap_compat_align`). */
export const PMEM_ALIGNMENT = 2 ** 21
