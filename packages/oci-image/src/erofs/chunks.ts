import { BLOCK_SIZE, EROFS_BLOCK_MAP_ENTRY_SIZE, EROFS_NULL_ADDR } from "./defs.js"

/** How a sparse file is divided into chunks of equal size, each of them all content or all hole. */
export interface ChunkMap {
  /** A chunk has 2^bits blocks. */
  readonly bits: number
  readonly chunks: number
  /** First block and number of blocks of each run of content, pair after pair. */
  readonly runs: readonly number[]
}

/** Largest chunks: 1 GiB. Every kernel takes them, and the map of a huge hole is small. */
const MAX_BITS = 18

/**
 * Divides a file into the largest chunks whose borders are those of its runs.
 *
 * @param size - bytes of the file
 * @param runs - first block and number of blocks of each run of content, pair after pair, sorted
 */
export function chunkMap(size: number, runs: readonly number[]): ChunkMap {
  const blocks = Math.ceil(size / BLOCK_SIZE)
  let bits = Math.min(MAX_BITS, Math.ceil(Math.log2(Math.max(1, blocks))))
  for (let i = 0; i < runs.length; i += 2) {
    const start = runs[i] as number
    const end = start + (runs[i + 1] as number)
    bits = Math.min(bits, alignment(start))
    // The last chunk may be shorter than the others.
    if (end < blocks) bits = Math.min(bits, alignment(end))
  }
  return { bits, chunks: Math.ceil(blocks / 2 ** bits), runs }
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
 * @param block - where the content of all runs stands on the disk, one after the other
 */
export function encodeChunkMap(map: ChunkMap, block: number): Buffer {
  const out = Buffer.alloc(chunkMapSize(map))
  for (let i = 0; i < map.chunks; i++) out.writeUInt32LE(EROFS_NULL_ADDR, i * EROFS_BLOCK_MAP_ENTRY_SIZE)
  const perChunk = 2 ** map.bits
  let at = block
  for (let i = 0; i < map.runs.length; i += 2) {
    const first = (map.runs[i] as number) / perChunk
    const count = map.runs[i + 1] as number
    for (let done = 0; done < count; done += perChunk)
      out.writeUInt32LE(at + done, (first + done / perChunk) * EROFS_BLOCK_MAP_ENTRY_SIZE)
    at += count
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
