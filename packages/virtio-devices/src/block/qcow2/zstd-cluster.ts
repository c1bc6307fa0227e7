/** RFC 8878, 3.1.1. */
const MAGIC = 0xfd2fb528
/** Blocks of one cluster: each stands for at most 128 KiB, and takes that much work at most. */
const BLOCK_AVERAGE_MIN = 1024
const MORE_BLOCKS = 16

/** Bytes of the fields of a frame's header, by its descriptor's bits. */
const DICTIONARY_ID_SIZES = [0, 1, 2, 4]
const CONTENT_SIZE_SIZES = [0, 2, 4, 8]
const BLOCK_RLE = 1

/**
 * Unpacks the first zstd frame in `packed`; what follows it is the next cluster's.
 *
 * @param size bytes of a cluster: nothing is unpacked behind it, and what the frame leaves out is zeroes
 * @throws Error whatever is wrong with it
 */
export async function unpackZstd(packed: Buffer, size: number): Promise<Buffer> {
  const frame = packed.subarray(0, frameEnd(packed, size / BLOCK_AVERAGE_MIN + MORE_BLOCKS))
  // Few images need it.
  const { decompress } = await import("fzstd")
  const bytes = decompress(frame, new Uint8Array(size))
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length)
}

/** @throws RangeError when the frame goes on behind the end; Error */
function frameEnd(packed: Buffer, maxBlocks: number): number {
  if (packed.readUInt32LE(0) !== MAGIC) throw new Error("no zstd frame")
  const descriptor = packed.readUInt8(4)
  const isSingleSegment = (descriptor & 0x20) !== 0
  const hasChecksum = (descriptor & 0x04) !== 0
  const contentSize = CONTENT_SIZE_SIZES[descriptor >> 6]! || Number(isSingleSegment)
  let at = 5 + Number(!isSingleSegment) + DICTIONARY_ID_SIZES[descriptor & 3]! + contentSize
  for (let blocks = 1, isLast = false; !isLast; blocks++) {
    if (blocks > maxBlocks) throw new Error("a zstd frame of too many blocks")
    const header = packed.readUIntLE(at, 3)
    isLast = (header & 1) !== 0
    at += 3 + (((header >> 1) & 3) === BLOCK_RLE ? 1 : header >> 3)
  }
  at += hasChecksum ? 4 : 0
  if (at > packed.length) throw new RangeError("a zstd frame without an end")
  return at
}
