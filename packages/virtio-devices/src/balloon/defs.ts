/**
 * Numbers of the memory balloon, virtio 1.3, section 5.5.
 */

/** Unit of page numbers in both directions, whatever the guest's pages are (5.5.6). */
export const BALLOON_PAGE_SIZE = 4096

// Queues, 5.5.2.
/** Pages that the guest gives away. */
export const INFLATE_QUEUE = 0
/** Pages that the guest takes back. */
export const DEFLATE_QUEUE = 1
/** The guest's memory statistics, one buffer at a time. */
export const STATISTICS_QUEUE = 2
/** Hints: pages that were free a moment ago. */
export const FREE_PAGE_QUEUE = 3
/** Reports: pages that stay free until they are answered. */
export const REPORTING_QUEUE = 4

// Feature bits, 5.5.3.
/** Statistics can be asked for. */
export const VIRTIO_BALLOON_F_STATS_VQ = 1n << 1n
/** The guest may take pages back before it kills programs for want of memory. */
export const VIRTIO_BALLOON_F_DEFLATE_ON_OOM = 1n << 2n
/** Hints of free pages, on request. */
export const VIRTIO_BALLOON_F_FREE_PAGE_HINT = 1n << 3n
/** The guest says what it fills free pages with. */
export const VIRTIO_BALLOON_F_PAGE_POISON = 1n << 4n
/** The guest reports free pages by itself. */
export const VIRTIO_BALLOON_F_PAGE_REPORTING = 1n << 5n

/** Fields of `struct virtio_balloon_config`, byte offsets of le32 values, 5.5.4. */
export const CONFIG = { numPages: 0, actual: 4, freePageHintCmdId: 8, poisonVal: 12 } as const
/** Bytes of `struct virtio_balloon_config`. */
export const CONFIG_SIZE = 16

/** Stop hinting, and keep what was hinted, 5.5.6.5. */
export const VIRTIO_BALLOON_CMD_ID_STOP = 0
/** Stop hinting, and take back what was hinted, 5.5.6.5. */
export const VIRTIO_BALLOON_CMD_ID_DONE = 1
/** Lowest command that starts hinting. */
export const FIRST_COMMAND = 2

/** Bytes of `struct virtio_balloon_stat`: le16 tag, le64 value, packed, 5.5.6.3. */
export const STATISTIC_SIZE = 10

// What statistics are about, 5.5.6.4.
/** Swapped in, bytes. */
export const VIRTIO_BALLOON_S_SWAP_IN = 0
/** Swapped out, bytes. */
export const VIRTIO_BALLOON_S_SWAP_OUT = 1
/** Major page faults. */
export const VIRTIO_BALLOON_S_MAJFLT = 2
/** Minor page faults. */
export const VIRTIO_BALLOON_S_MINFLT = 3
/** Unused memory, bytes. */
export const VIRTIO_BALLOON_S_MEMFREE = 4
/** All memory, bytes. */
export const VIRTIO_BALLOON_S_MEMTOT = 5
/** Available without swapping, bytes. */
export const VIRTIO_BALLOON_S_AVAIL = 6
/** Caches that can be dropped, bytes. */
export const VIRTIO_BALLOON_S_CACHES = 7
/** Huge pages allocated. */
export const VIRTIO_BALLOON_S_HTLB_PGALLOC = 8
/** Huge pages that could not be. */
export const VIRTIO_BALLOON_S_HTLB_PGFAIL = 9
