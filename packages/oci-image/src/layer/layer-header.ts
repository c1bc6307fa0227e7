import { createHash } from "node:crypto"
import { type Digest, digestHex } from "../digest.js"
import { BLOCK_SIZE } from "../erofs/defs.js"
import { bytesOf } from "./bytes.js"
import { corrupt } from "./index-checks.js"

const MAGIC = "TSVMLYR3"
const HASH_SIZE = 32
const DATA_SIZE_OFFSET = MAGIC.length + HASH_SIZE
const READ_AFTER_OFFSET = DATA_SIZE_OFFSET + 8
const FIXED_SIZE = READ_AFTER_OFFSET + 2

/** Layers that one process reads before it gives way to another. */
export const READ_AFTER_MAX = 64
/** Bytes at the start of an index within which its header ends. */
export const LAYER_HEADER_MAX = FIXED_SIZE + READ_AFTER_MAX * HASH_SIZE
/** Bytes of the checksum at the end of an index. */
export const CHECKSUM_SIZE = HASH_SIZE

/**
 * What an index begins with. Little endian.
 *
 * ```
 * magic[8] diffId[32] dataSize:f64 count:u16 readAfter[32 * count]
 * ```
 */
export interface LayerHeader {
  readonly diffId: Digest
  /** Bytes of the data part: a multiple of 4096. */
  readonly dataSize: number
  /** Blobs of the layers that the process which read this one had read before; see `LayerSeries`. */
  readonly readAfter: readonly Digest[]
}

/** Whether an image of these layers may take a part: the process that read it had read no others before. */
export function isPartOf({ readAfter }: LayerHeader, layers: readonly Digest[]): boolean {
  return readAfter.every(digest => layers.includes(digest))
}

/** Encodes the header of a layer that was the first of its process. */
export function encodeLayerHeader({ diffId, dataSize }: Pick<LayerHeader, "diffId" | "dataSize">): Buffer {
  return bytesOf(out => {
    out.text(MAGIC)
    out.bytes(Buffer.from(digestHex(diffId), "hex"))
    out.f64(dataSize)
    out.u16(0)
  })
}

/** Bytes of a header. */
export function layerHeaderSize({ readAfter }: LayerHeader): number {
  return FIXED_SIZE + HASH_SIZE * readAfter.length
}

/**
 * Decodes a header.
 *
 * @param bytes - the first {@link LAYER_HEADER_MAX} bytes of an index, or all of them
 * @throws ImageError `index-corrupt`
 */
export function decodeLayerHeader(bytes: Buffer): LayerHeader {
  if (bytes.length < FIXED_SIZE || bytes.toString("latin1", 0, MAGIC.length) !== MAGIC)
    throw corrupt("not a layer index")
  const dataSize = bytes.readDoubleLE(DATA_SIZE_OFFSET)
  if (!Number.isSafeInteger(dataSize) || dataSize < 0 || dataSize % BLOCK_SIZE !== 0)
    throw corrupt("wrong size of data")
  const count = bytes.readUInt16LE(READ_AFTER_OFFSET)
  if (count > READ_AFTER_MAX || bytes.length < FIXED_SIZE + HASH_SIZE * count)
    throw corrupt("wrong number of layers before it")
  const digestAt = (at: number): Digest => `sha256:${bytes.toString("hex", at, at + HASH_SIZE)}`
  const readAfter = Array.from({ length: count }, (_, i) => digestAt(FIXED_SIZE + HASH_SIZE * i))
  return { diffId: digestAt(MAGIC.length), dataSize, readAfter }
}

/**
 * Writes into an index after which layers its own was read; the process itself does not get to say it.
 *
 * @throws ImageError `index-corrupt`
 */
export function markReadAfter(index: Buffer, layers: readonly Digest[]): Buffer {
  const header = decodeLayerHeader(index)
  if (header.readAfter.length > 0) throw corrupt("names layers before it")
  if (layers.length === 0) return index
  const out = Buffer.concat([
    index.subarray(0, FIXED_SIZE),
    ...layers.map(digest => Buffer.from(digestHex(digest), "hex")),
    index.subarray(FIXED_SIZE),
  ])
  out.writeUInt16LE(layers.length, READ_AFTER_OFFSET)
  const end = out.length - CHECKSUM_SIZE
  createHash("sha256").update(out.subarray(0, end)).digest().copy(out, end)
  return out
}
