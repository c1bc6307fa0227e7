const BLOCK_MAX = 128 * 1024
const FRAME_MAGIC = [0x28, 0xb5, 0x2f, 0xfd]
/** One segment, whose size follows in four bytes. */
const SINGLE_SEGMENT_SIZE_4 = 0xa0

/** A zstd frame of blocks that are not compressed: Node 20 has no encoder. @see RFC 8878, 3.1.1 */
export function storedZstd(bytes: Buffer): Buffer {
  const header = Buffer.from([...FRAME_MAGIC, SINGLE_SEGMENT_SIZE_4, 0, 0, 0, 0])
  header.writeUInt32LE(bytes.length, 5)
  const pieces: Buffer[] = [header]
  for (let at = 0; at === 0 || at < bytes.length; at += BLOCK_MAX) {
    const block = bytes.subarray(at, at + BLOCK_MAX)
    const isLast = at + BLOCK_MAX >= bytes.length
    const blockHeader = Buffer.alloc(3)
    blockHeader.writeUIntLE((block.length << 3) | (isLast ? 1 : 0), 0, 3)
    pieces.push(blockHeader, block)
  }
  return Buffer.concat(pieces)
}

/** A frame that decoders skip. @see RFC 8878, 3.1.2 */
export function skippableZstd(bytes: Buffer): Buffer {
  const header = Buffer.from([0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0])
  header.writeUInt32LE(bytes.length, 4)
  return Buffer.concat([header, bytes])
}
