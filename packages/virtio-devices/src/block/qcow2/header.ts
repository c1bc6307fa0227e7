import { SECTOR_SIZE } from "../defs.js"
import { BlockError } from "../errors.js"
import * as defs from "./defs.js"
import type { ImageFile } from "./image-file.js"

/** What a qcow2 image says about itself, checked. Offsets and sizes in bytes. */
export interface Qcow2Header {
  readonly version: 2 | 3
  readonly clusterBits: number
  readonly clusterSize: number
  /** Of the disk. */
  readonly size: number
  readonly l1Offset: number
  readonly l1Entries: number
  readonly refcountTableOffset: number
  readonly refcountTableClusters: number
  /** Width of a reference count. */
  readonly refcountBits: number
  readonly snapshots: number
  /** The file that has what this one does not. */
  readonly backing: BackingFile | undefined
  /** Its reference counts may be wrong. */
  readonly isDirty: boolean
  /** Somebody marked it as damaged. */
  readonly isCorrupt: boolean
  /** Of compressed clusters. */
  readonly compression: "deflate" | "zstd"
  /** Features that a writer who does not know them has to switch off. */
  readonly hasAutoclear: boolean
}

/** What an image calls its backing file: text from the image, which may say anything. */
export interface BackingFile {
  readonly name: string
  /** As `raw` or `qcow2`. */
  readonly format: string | undefined
}

const { HEADER } = defs
const KNOWN = defs.INCOMPATIBLE.dirty | defs.INCOMPATIBLE.corrupt | defs.INCOMPATIBLE.compressionType
const NO_BACKING = { backing: undefined }

/**
 * Reads and checks the header.
 *
 * @param fileSize bytes
 * @throws BlockError `format`, `unsupported`
 */
export async function readHeader(file: ImageFile, fileSize: number): Promise<Qcow2Header> {
  const fail = (what: string): never => {
    throw new BlockError("format", `${file.name}: ${what}`)
  }
  if (fileSize < defs.HEADER_LENGTH_V2) fail("too short for a qcow2 image")
  const bytes = await file.read(0, Math.min(fileSize, 1 << defs.MIN_CLUSTER_BITS))
  if (bytes.readUInt32BE(HEADER.magic) !== defs.QCOW_MAGIC) fail("no qcow2 image")
  const version = bytes.readUInt32BE(HEADER.version)
  if (version !== 2 && version !== 3) throw unsupported(file, `qcow2 version ${version}`)
  const clusterBits = bytes.readUInt32BE(HEADER.clusterBits)
  if (clusterBits < defs.MIN_CLUSTER_BITS || clusterBits > defs.MAX_CLUSTER_BITS)
    fail(`clusters of 2^${clusterBits} bytes`)
  if (clusterBits < defs.MIN_SUPPORTED_CLUSTER_BITS)
    throw unsupported(file, `a cluster of ${2 ** clusterBits} bytes`)
  const tail = version === 3 ? readTail(file, bytes) : TAIL_V2
  if (bytes.readUInt32BE(HEADER.cryptMethod) !== 0) throw unsupported(file, "encryption")
  const number = (at: number) => Number(bytes.readBigUInt64BE(at))
  const header = {
    version,
    clusterBits,
    clusterSize: 2 ** clusterBits,
    size: number(HEADER.size),
    l1Offset: number(HEADER.l1TableOffset),
    l1Entries: bytes.readUInt32BE(HEADER.l1Size),
    refcountTableOffset: number(HEADER.refcountTableOffset),
    refcountTableClusters: bytes.readUInt32BE(HEADER.refcountTableClusters),
    snapshots: bytes.readUInt32BE(HEADER.nbSnapshots),
    ...tail,
    ...NO_BACKING,
  } satisfies Qcow2Header
  checkTables(header, fileSize, fail)
  return { ...header, backing: await readBacking(file, bytes, header, tail.headerLength) }
}

const TAIL_V2 = {
  headerLength: defs.HEADER_LENGTH_V2,
  refcountBits: 2 ** defs.REFCOUNT_ORDER_V2,
  isDirty: false,
  isCorrupt: false,
  compression: "deflate",
  hasAutoclear: false,
} as const

/** What version 3 added. */
function readTail(file: ImageFile, bytes: Buffer) {
  if (bytes.length < defs.HEADER_LENGTH_V3) throw new BlockError("format", `${file.name}: its header is cut`)
  const headerLength = bytes.readUInt32BE(HEADER.headerLength)
  if (headerLength < defs.HEADER_LENGTH_V3 || headerLength > bytes.length || headerLength % 8 !== 0)
    throw new BlockError("format", `${file.name}: a header of ${headerLength} bytes`)
  const features = bytes.readBigUInt64BE(HEADER.incompatibleFeatures)
  if (features & defs.INCOMPATIBLE.externalData) throw unsupported(file, "data in a file of its own")
  if (features & defs.INCOMPATIBLE.extendedL2) throw unsupported(file, "subclusters")
  if (features & ~KNOWN) throw unsupported(file, `features 0x${(features & ~KNOWN).toString(16)}`)
  const order = bytes.readUInt32BE(HEADER.refcountOrder)
  if (order > defs.MAX_REFCOUNT_ORDER)
    throw new BlockError("format", `${file.name}: reference counts of 2^${order} bits`)
  const type = headerLength > HEADER.compressionType ? bytes[HEADER.compressionType]! : 0
  const compression = defs.COMPRESSIONS[type]
  if (!compression) throw unsupported(file, `compression ${type}`)
  return {
    headerLength,
    refcountBits: 2 ** order,
    isDirty: (features & defs.INCOMPATIBLE.dirty) !== 0n,
    isCorrupt: (features & defs.INCOMPATIBLE.corrupt) !== 0n,
    compression,
    hasAutoclear: bytes.readBigUInt64BE(HEADER.autoclearFeatures) !== 0n,
  }
}

function checkTables(header: Qcow2Header, fileSize: number, fail: (what: string) => never): void {
  const { size, clusterSize, l1Entries, l1Offset } = header
  if (!Number.isSafeInteger(size) || size < SECTOR_SIZE) fail(`a disk of ${size} bytes`)
  const l1Bytes = l1Entries * defs.ENTRY_SIZE
  if (l1Bytes > defs.MAX_L1_BYTES) fail(`an L1 table of ${l1Entries} entries`)
  if (l1Entries < Math.ceil(size / (clusterSize * (clusterSize / defs.ENTRY_SIZE))))
    fail(`an L1 table of ${l1Entries} entries for ${size} bytes`)
  const isInFile = (offset: number, length: number) =>
    offset % clusterSize === 0 && offset >= clusterSize && offset + length <= fileSize
  if (!isInFile(l1Offset, l1Bytes)) fail(`an L1 table at ${l1Offset}`)
  const { refcountTableOffset, refcountTableClusters } = header
  const refcountBytes = refcountTableClusters * clusterSize
  if (refcountBytes === 0 || refcountBytes > defs.MAX_REFCOUNT_TABLE_BYTES)
    fail(`a refcount table of ${refcountTableClusters} clusters`)
  if (!isInFile(refcountTableOffset, refcountBytes)) fail(`a refcount table at ${refcountTableOffset}`)
}

/** The name of the backing file lies behind the header's extensions, all in the first cluster. */
async function readBacking(
  file: ImageFile,
  start: Buffer,
  { clusterSize }: Qcow2Header,
  headerLength: number,
): Promise<BackingFile | undefined> {
  const offset = Number(start.readBigUInt64BE(HEADER.backingFileOffset))
  if (offset === 0) return undefined
  const length = start.readUInt32BE(HEADER.backingFileSize)
  if (
    length === 0 ||
    length > defs.MAX_BACKING_NAME ||
    offset < headerLength ||
    offset + length > clusterSize
  )
    throw new BlockError("format", `${file.name}: the name of its backing file lies nowhere`)
  const first = await file.read(0, offset + length)
  return {
    name: first.toString("utf8", offset),
    format: readBackingFormat(first.subarray(headerLength, offset)),
  }
}

function readBackingFormat(extensions: Buffer): string | undefined {
  for (let at = 0; at + 8 <= extensions.length; ) {
    const type = extensions.readUInt32BE(at)
    const length = extensions.readUInt32BE(at + 4)
    if (type === defs.EXTENSION.end) return undefined
    if (type === defs.EXTENSION.backingFormat) return extensions.toString("utf8", at + 8, at + 8 + length)
    at += 8 + Math.ceil(length / 8) * 8
  }
  return undefined
}

function unsupported(file: ImageFile, what: string): BlockError {
  return new BlockError(
    "unsupported",
    `${file.name}: ${what} is not supported; qemu-img convert makes a plain image`,
  )
}
