import { BLOCK_SIZE, EROFS_BLOCK_MAP_ENTRY_SIZE, EROFS_NULL_ADDR } from "./defs.js"
import type { Extent } from "./extents.js"

/** How a file is divided into chunks of equal size, each of them in one piece on the disk, or a hole. */
export interface ChunkMap {
  /** A chunk has 2^bits blocks. */
  readonly bits: number
  readonly chunks: number
  /** Where the content is; sorted. */
  readonly extents: readonly Extent[]
}

/** Largest chunks: 1 GiB. Every kernel takes them, and the map of a huge hole is small. */
const MAX_BITS = 18

/**
 * Divides a file into the largest chunks whose borders are those of its extents.
 *
 * @param size - bytes of the file
 * @param extents - where its content is, sorted
 */
export function chunkMap(size: number, extents: readonly Extent[]): ChunkMap {
  const blocks = Math.ceil(size / BLOCK_SIZE)
  let bits = Math.min(MAX_BITS, Math.ceil(Math.log2(Math.max(1, blocks))))
  for (const { start, count } of extents) {
    const end = start + count
    bits = Math.min(bits, alignment(start))
    // The last chunk may be shorter than the others.
    if (end < blocks) bits = Math.min(bits, alignment(end))
  }
  return { bits, chunks: Math.ceil(blocks / 2 ** bits), extents }
}

/** Bytes of a map; none without one. */
export function chunkMapSize(map: ChunkMap | undefined): number {
  return map ? map.chunks * EROFS_BLOCK_MAP_ENTRY_SIZE : 0
}

/** What stands in the inode's union field. @see struct erofs_inode_chunk_info */
export function chunkFormat(map: ChunkMap): number {
  return map.bits
}

/**
 * Encodes a map.
 *
 * @param dataStart - the block of the disk where the data parts begin
 */
export function encodeChunkMap(map: ChunkMap, dataStart: number): Buffer {
  const out = Buffer.alloc(chunkMapSize(map))
  for (let i = 0; i < map.chunks; i++) out.writeUInt32LE(EROFS_NULL_ADDR, i * EROFS_BLOCK_MAP_ENTRY_SIZE)
  const perChunk = 2 ** map.bits
  for (const { start, count, block } of map.extents) {
    const first = start / perChunk
    for (let done = 0; done < count; done += perChunk)
      out.writeUInt32LE(dataStart + block + done, (first + done / perChunk) * EROFS_BLOCK_MAP_ENTRY_SIZE)
  }
  return out
}

/** Zero bits at the end of a block number. */
function alignment(block: number): number {
  if (block === 0) return MAX_BITS
  let bits = 0
  while (bits < MAX_BITS && block % 2 ** (bits + 1) === 0) bits++
  return bits
}
