/** Numbers of the qcow2 format. @see "The QCOW2 Image Format", docs/interop/qcow2.txt of QEMU */

/** `QFI\xfb`. */
export const QCOW_MAGIC = 0x514649fb

/** Where fields lie in the header, all big-endian. */
export const HEADER = {
  magic: 0,
  version: 4,
  backingFileOffset: 8,
  backingFileSize: 16,
  clusterBits: 20,
  size: 24,
  cryptMethod: 32,
  l1Size: 36,
  l1TableOffset: 40,
  refcountTableOffset: 48,
  refcountTableClusters: 56,
  nbSnapshots: 60,
  /** From here on version 3 only. */
  incompatibleFeatures: 72,
  autoclearFeatures: 88,
  refcountOrder: 96,
  headerLength: 100,
  compressionType: 104,
} as const

export const HEADER_LENGTH_V2 = 72
export const HEADER_LENGTH_V3 = 104

/** Bits of `incompatible_features`: who does not know one must not open the image. */
export const INCOMPATIBLE = {
  /** Reference counts may be wrong. */
  dirty: 1n << 0n,
  /** Somebody found the image damaged. */
  corrupt: 1n << 1n,
  externalData: 1n << 2n,
  /** `compression_type` is not deflate. */
  compressionType: 1n << 3n,
  extendedL2: 1n << 4n,
} as const

/** Types of header extensions. */
export const EXTENSION = { end: 0, backingFormat: 0xe2792aca } as const

/** By `compression_type`. */
export const COMPRESSIONS = ["deflate", "zstd"] as const

/** The reference count of version 2 has 16 bits. */
export const REFCOUNT_ORDER_V2 = 4

export const MIN_CLUSTER_BITS = 9
/** Smaller ones are what nobody makes: a request of the size that Linux sends would be in thousands of pieces. */
export const MIN_SUPPORTED_CLUSTER_BITS = 12
export const MAX_CLUSTER_BITS = 21
export const MAX_REFCOUNT_ORDER = 6
/** As QEMU has them. */
export const MAX_L1_BYTES = 32 * 1024 * 1024
export const MAX_REFCOUNT_TABLE_BYTES = 8 * 1024 * 1024
export const MAX_BACKING_NAME = 1023
/** Bytes of an entry of the L1, L2 and refcount tables. */
export const ENTRY_SIZE = 8
/** Unit of the length of a compressed cluster. */
export const COMPRESSED_SECTOR = 512
