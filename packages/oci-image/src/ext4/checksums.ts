import { crc32c } from "../erofs/crc32c.js"

/** Seeds of checksums: each is over what tells its object from others of the kind, so that none passes for another. */
export class ChecksumSeeds {
  /** Of the file system: over its UUID. */
  readonly fileSystem: number

  constructor(uuid: Buffer) {
    this.fileSystem = crc32c(0xffff_ffff, uuid)
  }

  /** Of what belongs to an inode: over its number and its generation, which is 0. */
  inode(number: number): number {
    return crc32c(crc32c(this.fileSystem, u32(number)), u32(0))
  }

  /** Of a block of extended attributes: over where it is. */
  xattrBlock(block: number): number {
    return crc32c(crc32c(this.fileSystem, u32(block)), u32(0))
  }

  /** Of a group's descriptor. */
  group(number: number): number {
    return crc32c(this.fileSystem, u32(number))
  }
}

function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32LE(value)
  return bytes
}
