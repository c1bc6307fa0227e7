import { crc32c } from "../erofs/crc32c.js"
import { ImageError, printable } from "../errors.js"
import { ext4Acl, isAcl } from "./acl.js"
import {
  BLOCK_SIZE,
  EXT4_XATTR_MAGIC,
  INODE,
  INODE_SIZE,
  XATTR_BLOCK_HEADER_SIZE,
  XATTR_ENTRY_SIZE,
  XATTR_INDEX,
} from "./defs.js"

/** Attributes of an inode: some stand in it, the others in a block. */
export interface EncodedXattrs {
  /** What stands behind the inode's fields; empty without attributes there. */
  readonly inline: Buffer
  /** Has no checksum yet. */
  readonly block: Buffer | undefined
}

interface Attribute {
  readonly index: number
  /** Bytes, without the prefix that the index stands for. */
  readonly name: Buffer
  readonly value: Buffer
}

const INLINE_HEADER_SIZE = 4
const INLINE_SIZE = INODE_SIZE - INODE.xattrs
/** Entries end with four zero bytes. */
const END_SIZE = 4
/** Offsets in `struct ext4_xattr_header`. */
const HEADER = { magic: 0, refcount: 4, blocks: 8, hash: 12, checksum: 16 } as const
/** Offsets in `struct ext4_xattr_entry`. */
const ENTRY = { nameLength: 0, nameIndex: 1, valueOffset: 2, valueSize: 8, hash: 12 } as const

/**
 * Encodes attributes in the order that Linux looks them up in: what fits goes into the inode, the rest into one block.
 *
 * @throws ImageError `limit` for more than a block holds, `entry-xattr` for what ext4 has no place for
 */
export function encodeXattrs(xattrs: ReadonlyMap<string, Buffer> | undefined): EncodedXattrs {
  const inside: Attribute[] = []
  const outside: Attribute[] = []
  let room = INLINE_SIZE - INLINE_HEADER_SIZE - END_SIZE
  for (const attribute of [...(xattrs ?? [])].map(attributeOf).sort(compare)) {
    const fits = sizeOf(attribute) <= room
    ;(fits ? inside : outside).push(attribute)
    if (fits) room -= sizeOf(attribute)
  }
  return {
    inline: inside.length > 0 ? encodeInline(inside) : Buffer.alloc(0),
    block: outside.length > 0 ? encodeBlock(outside) : undefined,
  }
}

/** Adds a block's checksum. @param seed - `ChecksumSeeds.xattrBlock` of where it will be */
export function sealXattrBlock(block: Buffer, seed: number): void {
  block.writeUInt32LE(crc32c(seed, block), HEADER.checksum)
}

function attributeOf([whole, value]: [string, Buffer]): Attribute {
  const found = XATTR_INDEX.find(([prefix]) => whole.startsWith(prefix))
  const name = Buffer.from(whole.slice(found?.[0].length), "latin1")
  if (!found || name.length > 255)
    throw new ImageError("entry-xattr", `ext4 has no place for the attribute ${printable(whole)}`)
  return { index: found[1], name, value: isAcl(whole) ? ext4Acl(value) : value }
}

function compare(a: Attribute, b: Attribute): number {
  return a.index - b.index || a.name.length - b.name.length || Buffer.compare(a.name, b.name)
}

function sizeOf({ name, value }: Attribute): number {
  return XATTR_ENTRY_SIZE + align(name.length) + align(value.length)
}

function align(size: number): number {
  return (size + 3) & ~3
}

function encodeInline(attributes: readonly Attribute[]): Buffer {
  const bytes = Buffer.alloc(INLINE_SIZE)
  bytes.writeUInt32LE(EXT4_XATTR_MAGIC, 0)
  putEntries(bytes.subarray(INLINE_HEADER_SIZE), 0, attributes)
  return bytes
}

function encodeBlock(attributes: readonly Attribute[]): Buffer {
  const size = attributes.reduce(
    (sum, attribute) => sum + sizeOf(attribute),
    XATTR_BLOCK_HEADER_SIZE + END_SIZE,
  )
  if (size > BLOCK_SIZE) {
    const message = `ext4 holds at most ${BLOCK_SIZE} bytes of a file's extended attributes; here they take ${size}`
    throw new ImageError("limit", message, { limit: BLOCK_SIZE, value: size })
  }
  const bytes = Buffer.alloc(BLOCK_SIZE)
  bytes.writeUInt32LE(EXT4_XATTR_MAGIC, HEADER.magic)
  bytes.writeUInt32LE(1, HEADER.refcount)
  bytes.writeUInt32LE(1, HEADER.blocks)
  const starts = putEntries(bytes, XATTR_BLOCK_HEADER_SIZE, attributes)
  let sum = 0
  attributes.forEach((attribute, i) => {
    const hash = entryHash(attribute)
    bytes.writeUInt32LE(hash, (starts[i] as number) + ENTRY.hash)
    sum = ((sum << 16) ^ (sum >>> 16) ^ hash) >>> 0
  })
  bytes.writeUInt32LE(sum, HEADER.hash)
  return bytes
}

/** Entries grow from the front, values from the back. @returns where each entry is */
function putEntries(bytes: Buffer, from: number, attributes: readonly Attribute[]): number[] {
  let [at, valueAt] = [from, bytes.length]
  return attributes.map(({ index, name, value }) => {
    const start = at
    bytes.writeUInt8(name.length, at + ENTRY.nameLength)
    bytes.writeUInt8(index, at + ENTRY.nameIndex)
    bytes.writeUInt32LE(value.length, at + ENTRY.valueSize)
    name.copy(bytes, at + XATTR_ENTRY_SIZE)
    valueAt -= align(value.length)
    value.copy(bytes, valueAt)
    if (value.length > 0) bytes.writeUInt16LE(valueAt, at + ENTRY.valueOffset)
    at += XATTR_ENTRY_SIZE + align(name.length)
    return start
  })
}

/** Of name and value, by which Linux finds equal blocks. */
function entryHash({ name, value }: Attribute): number {
  let hash = 0
  for (const byte of name) hash = ((hash << 5) ^ (hash >>> 27) ^ byte) >>> 0
  const padded = Buffer.concat([value, Buffer.alloc(align(value.length) - value.length)])
  for (let at = 0; at < padded.length; at += 4)
    hash = ((hash << 16) ^ (hash >>> 16) ^ padded.readUInt32LE(at)) >>> 0
  return hash
}
