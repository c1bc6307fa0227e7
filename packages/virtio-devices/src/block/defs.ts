/** Numbers of the block device. @see virtio 1.3, section 5.2 */

/** Sectors are 512 bytes in every request, whatever block size the device reports (5.2.4). */
export const SECTOR_SIZE = 512

// Feature bits (5.2.3).
/** `seg_max` is valid: most data segments in one request. */
export const VIRTIO_BLK_F_SEG_MAX = 1n << 2n
export const VIRTIO_BLK_F_RO = 1n << 5n
/** `blk_size` is valid. */
export const VIRTIO_BLK_F_BLK_SIZE = 1n << 6n
export const VIRTIO_BLK_F_FLUSH = 1n << 9n
export const VIRTIO_BLK_F_TOPOLOGY = 1n << 10n
export const VIRTIO_BLK_F_MQ = 1n << 12n
export const VIRTIO_BLK_F_DISCARD = 1n << 13n
export const VIRTIO_BLK_F_WRITE_ZEROES = 1n << 14n

// Request types (5.2.6).
export const VIRTIO_BLK_T_IN = 0
export const VIRTIO_BLK_T_OUT = 1
export const VIRTIO_BLK_T_FLUSH = 4
export const VIRTIO_BLK_T_GET_ID = 8
export const VIRTIO_BLK_T_DISCARD = 11
export const VIRTIO_BLK_T_WRITE_ZEROES = 13

// Status byte (5.2.6).
export const VIRTIO_BLK_S_OK = 0
export const VIRTIO_BLK_S_IOERR = 1
export const VIRTIO_BLK_S_UNSUPP = 2

/** `struct virtio_blk_req` up to the data: type u32, reserved u32, sector u64. */
export const REQUEST_HEADER_SIZE = 16
/** Bytes that GET_ID fills: the serial number, NUL-padded, not terminated at full length. */
export const VIRTIO_BLK_ID_BYTES = 20
/** `struct virtio_blk_discard_write_zeroes`: sector u64, num_sectors u32, flags u32. */
export const DISCARD_SEGMENT_SIZE = 16
/** Its one flag: write-zeroes may give the space back. */
export const VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP = 1

/** Offsets in the configuration space (`struct virtio_blk_config`, 5.2.4). */
export const CONFIG = {
  capacity: 0,
  segMax: 12,
  blkSize: 20,
  physicalBlockExp: 24,
  alignmentOffset: 25,
  minIoSize: 26,
  optIoSize: 28,
  writeback: 32,
  numQueues: 34,
  maxDiscardSectors: 36,
  maxDiscardSeg: 40,
  discardSectorAlignment: 44,
  maxWriteZeroesSectors: 48,
  maxWriteZeroesSeg: 52,
  writeZeroesMayUnmap: 56,
} as const
/** Bytes of configuration space up to and with `write_zeroes_may_unmap` and its padding. */
export const CONFIG_SIZE = 60
