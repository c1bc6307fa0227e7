import { readFileSync } from "node:fs"
import type { ImageDisk } from "../store/stored-image.js"

/** A file as a guest would see it. */
export interface SeenFile {
  readonly nid: number
  readonly mode: number
  readonly uid: number
  readonly gid: number
  readonly mtime: number
  readonly nsec: number
  readonly nlink: number
  readonly rdev: number
  /** Content of files, text of symlinks. */
  readonly content: Buffer
  readonly xattrs: ReadonlyMap<string, string>
}

const XATTR_PREFIX = [
  "",
  "user.",
  "system.posix_acl_access",
  "system.posix_acl_default",
  "trusted.",
  "",
  "security.",
]

/** Reads a disk's files into memory, one after the other. */
export function readDiskBytes(disk: ImageDisk): Buffer {
  return Buffer.concat(disk.parts.map(part => readFileSync(part.path)))
}

/**
 * A second reading of the EROFS format, written from the header file and not from the writer: every path
 * (latin1 text, the root is "") with what a guest would see.
 */
export function readErofs(disk: Buffer): Map<string, SeenFile> {
  const reader = new ErofsReader(disk)
  const files = new Map<string, SeenFile>()
  reader.walk(disk.readUInt16LE(1024 + 14), "", files)
  return files
}

class ErofsReader {
  readonly #disk: Buffer

  constructor(disk: Buffer) {
    if (disk.readUInt32LE(1024) !== 0xe0f5e1e2) throw new Error("no superblock")
    this.#disk = disk
  }

  walk(nid: number, path: string, files: Map<string, SeenFile>): void {
    const file = this.#inode(nid)
    files.set(path, file)
    if ((file.mode & 0o170000) !== 0o040000) return
    for (const [name, child] of this.#directory(file.content)) {
      if (name !== "." && name !== "..") this.walk(child, path === "" ? name : `${path}/${name}`, files)
    }
  }

  #inode(nid: number): SeenFile {
    const at = nid * 32
    const inode = this.#disk.subarray(at, at + 64)
    const format = inode.readUInt16LE(0)
    if ((format & 1) !== 1) throw new Error("not an extended inode")
    const icount = inode.readUInt16LE(2)
    const mode = inode.readUInt16LE(4)
    const size = Number(inode.readBigUInt64LE(8))
    const xattrSize = icount === 0 ? 0 : 12 + 4 * (icount - 1)
    const hasContent = [0o040000, 0o100000, 0o120000].includes(mode & 0o170000)
    return {
      nid,
      mode,
      uid: inode.readUInt32LE(24),
      gid: inode.readUInt32LE(28),
      mtime: Number(inode.readBigInt64LE(32)),
      nsec: inode.readUInt32LE(40),
      nlink: inode.readUInt32LE(44),
      rdev: hasContent ? 0 : inode.readUInt32LE(16),
      content: hasContent
        ? format >> 1 === 4
          ? this.#chunks(inode.readUInt32LE(16), size, at + 64 + xattrSize)
          : this.#content(format, inode.readUInt32LE(16), size, at + 64 + xattrSize)
        : Buffer.alloc(0),
      xattrs: this.#xattrs(at + 64, xattrSize),
    }
  }

  #content(format: number, block: number, size: number, tailAt: number): Buffer {
    const inline = format >> 1 === 2
    const outside = inline ? size - (size % 4096) : size
    if (inline && (tailAt % 4096) + (size % 4096) > 4096) throw new Error("tail crosses a block")
    const blocks = this.#disk.subarray(block * 4096, block * 4096 + outside)
    if (blocks.length !== outside) throw new Error("content beyond the disk")
    return Buffer.concat([blocks, this.#disk.subarray(tailAt, tailAt + (size - outside))])
  }

  #chunks(format: number, size: number, mapAt: number): Buffer {
    if (format > 31) throw new Error("unknown chunk format")
    if ((this.#disk.readUInt32LE(1024 + 80) & 4) === 0) throw new Error("chunks without the feature flag")
    const content = Buffer.alloc(size)
    const chunk = 4096 * 2 ** format
    for (let i = 0; i * chunk < size; i++) {
      const block = this.#disk.readUInt32LE(mapAt + 4 * i)
      if (block === 0xffffffff) continue
      const length = Math.min(chunk, size - i * chunk)
      if (block * 4096 + length > this.#disk.length) throw new Error("content beyond the disk")
      this.#disk.copy(content, i * chunk, block * 4096, block * 4096 + length)
    }
    return content
  }

  *#directory(content: Buffer): Generator<[string, number]> {
    let last = ""
    for (let at = 0; at < content.length; at += 4096) {
      const block = content.subarray(at, at + 4096)
      const count = block.readUInt16LE(8) / 12
      for (let i = 0; i < count; i++) {
        const from = block.readUInt16LE(i * 12 + 8)
        const to = i + 1 < count ? block.readUInt16LE((i + 1) * 12 + 8) : block.length
        const name = block.toString("latin1", from, to).replace(/\0+$/, "")
        if (name <= last) throw new Error(`names out of order: ${last}, ${name}`)
        last = name
        yield [name, Number(block.readBigUInt64LE(i * 12))]
      }
    }
  }

  #xattrs(at: number, size: number): Map<string, string> {
    const xattrs = new Map<string, string>()
    for (let entry = at + 12; entry < at + size; ) {
      const nameLength = this.#disk.readUInt8(entry)
      const valueLength = this.#disk.readUInt16LE(entry + 2)
      const valueAt = entry + 4 + nameLength
      const name = `${XATTR_PREFIX[this.#disk.readUInt8(entry + 1)]}${this.#disk.toString("latin1", entry + 4, valueAt)}`
      xattrs.set(name, this.#disk.toString("latin1", valueAt, valueAt + valueLength))
      entry = Math.ceil((valueAt + valueLength) / 4) * 4
    }
    return xattrs
  }
}
