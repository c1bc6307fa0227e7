import { openSync } from "node:fs"
import { closeFd } from "@ts-vmm/native"
import { SECTOR_SIZE } from "../defs.js"
import { BlockError } from "../errors.js"
import * as defs from "./defs.js"
import type { BackingFile } from "./header.js"
import { ImageFile } from "./image-file.js"

/** What {@link createQcow2} makes. */
export interface Qcow2CreateOptions {
  /** Of the disk: bytes, a multiple of 512. */
  readonly size: number
  /** The image that the new one is the difference to, as its name is to be written down; none by default. */
  readonly backing?: BackingFile
}

const CLUSTER_BITS = 16
const CLUSTER_SIZE = 2 ** CLUSTER_BITS
const VERSION = 3

/**
 * Makes an empty qcow2 image, version 3 with clusters of 64 KiB. Its reference counts grow with what is written to it.
 *
 * @param path of a file that does not exist yet
 * @throws BlockError `size`, `open`, `backing` (a name that is too long)
 *
 * @example
 * ```ts
 * await createQcow2("run.qcow2", { size: 8 * 2 ** 30, backing: { name: "base.qcow2", format: "qcow2" } })
 * ```
 */
export async function createQcow2(path: string, { size, backing }: Qcow2CreateOptions): Promise<void> {
  if (!Number.isSafeInteger(size) || size < SECTOR_SIZE || size % SECTOR_SIZE !== 0)
    throw new BlockError("size", `disk of ${size} bytes is not a whole number of sectors`, { value: size })
  const l1Entries = Math.ceil(size / (CLUSTER_SIZE * (CLUSTER_SIZE / defs.ENTRY_SIZE)))
  const l1Clusters = Math.ceil((l1Entries * defs.ENTRY_SIZE) / CLUSTER_SIZE)
  if (l1Clusters * CLUSTER_SIZE > defs.MAX_L1_BYTES)
    throw new BlockError("size", `a disk of ${size} bytes is too large for qcow2`, { value: size })
  const image = layOut(size, l1Entries, l1Clusters, backing)
  const fd = openNew(path)
  try {
    const file = new ImageFile(fd, path)
    await file.write({ offset: 0, bytes: image })
    await file.extend((3 + l1Clusters) * CLUSTER_SIZE)
    await file.sync()
  } finally {
    closeFd(fd)
  }
}

/** Header, refcount table, one refcount block; the L1 table behind them is zeroes. */
function layOut(
  size: number,
  l1Entries: number,
  l1Clusters: number,
  backing: BackingFile | undefined,
): Buffer {
  const bytes = Buffer.alloc(3 * CLUSTER_SIZE)
  bytes.writeUInt32BE(defs.QCOW_MAGIC, defs.HEADER.magic)
  bytes.writeUInt32BE(VERSION, defs.HEADER.version)
  bytes.writeUInt32BE(CLUSTER_BITS, defs.HEADER.clusterBits)
  bytes.writeBigUInt64BE(BigInt(size), defs.HEADER.size)
  bytes.writeUInt32BE(l1Entries, defs.HEADER.l1Size)
  bytes.writeBigUInt64BE(BigInt(3 * CLUSTER_SIZE), defs.HEADER.l1TableOffset)
  bytes.writeBigUInt64BE(BigInt(CLUSTER_SIZE), defs.HEADER.refcountTableOffset)
  bytes.writeUInt32BE(1, defs.HEADER.refcountTableClusters)
  bytes.writeUInt32BE(defs.REFCOUNT_ORDER_V2, defs.HEADER.refcountOrder)
  bytes.writeUInt32BE(defs.HEADER_LENGTH_V3, defs.HEADER.headerLength)
  if (backing) writeBacking(bytes, backing)
  bytes.writeBigUInt64BE(BigInt(2 * CLUSTER_SIZE), CLUSTER_SIZE)
  for (let cluster = 0; cluster < 3 + l1Clusters; cluster++)
    bytes.writeUInt16BE(1, 2 * CLUSTER_SIZE + 2 * cluster)
  return bytes
}

/** The format as an extension behind the header, an end, and the name behind that. */
function writeBacking(bytes: Buffer, { name, format }: BackingFile): void {
  if (
    Buffer.byteLength(name) > defs.MAX_BACKING_NAME ||
    Buffer.byteLength(format ?? "") > defs.MAX_BACKING_NAME
  )
    throw new BlockError("backing", "the name of a backing file has at most 1023 bytes")
  let at: number = defs.HEADER_LENGTH_V3
  if (format !== undefined) {
    bytes.writeUInt32BE(defs.EXTENSION.backingFormat, at)
    const length = bytes.write(format, at + 8)
    bytes.writeUInt32BE(length, at + 4)
    at += 8 + Math.ceil(length / 8) * 8
  }
  at += 8
  const length = bytes.write(name, at)
  bytes.writeBigUInt64BE(BigInt(at), defs.HEADER.backingFileOffset)
  bytes.writeUInt32BE(length, defs.HEADER.backingFileSize)
}

function openNew(path: string): number {
  try {
    return openSync(path, "wx", 0o600)
  } catch (cause) {
    throw new BlockError("open", `disk image ${path} cannot be made: ${(cause as Error).message}`, { cause })
  }
}
