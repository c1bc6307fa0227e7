import { BLOCK_SIZE, EROFS_DIRENT_SIZE } from "./defs.js"

/** One name in a directory; `name` is bytes (latin1 text). */
export interface Dirent {
  readonly name: string
  readonly nid: number
  readonly fileType: number
}

/**
 * Where each block of a directory begins: the first entry of every block. Entries fill blocks greedily, in
 * byte order of their names, which is what the kernel's binary search expects.
 */
function blockStarts(names: readonly string[]): number[] {
  const starts = [0]
  let used = 0
  for (const [i, name] of names.entries()) {
    const size = EROFS_DIRENT_SIZE + name.length
    if (used + size > BLOCK_SIZE) {
      starts.push(i)
      used = 0
    }
    used += size
  }
  return starts
}

/**
 * Bytes of a directory with these names: whole blocks, and what the last one uses.
 *
 * @param names - sorted, `.` and `..` among them
 */
export function directorySize(names: readonly string[]): number {
  const starts = blockStarts(names)
  const last = names.slice(starts.at(-1)).reduce((sum, name) => sum + EROFS_DIRENT_SIZE + name.length, 0)
  return (starts.length - 1) * BLOCK_SIZE + last
}

/**
 * Encodes a directory: in every block the entries first, then their names.
 *
 * @param entries - sorted by name, `.` and `..` among them
 * @see struct erofs_dirent
 */
export function encodeDirectory(entries: readonly Dirent[]): Buffer {
  const names = entries.map(e => e.name)
  const starts = blockStarts(names)
  const out = Buffer.alloc(directorySize(names))
  for (const [block, start] of starts.entries()) {
    encodeBlock(out.subarray(block * BLOCK_SIZE), entries.slice(start, starts[block + 1]))
  }
  return out
}

function encodeBlock(out: Buffer, entries: readonly Dirent[]): void {
  let nameAt = entries.length * EROFS_DIRENT_SIZE
  for (const [i, entry] of entries.entries()) {
    const at = i * EROFS_DIRENT_SIZE
    out.writeUInt32LE(entry.nid % 2 ** 32, at)
    out.writeUInt32LE(Math.floor(entry.nid / 2 ** 32), at + 4)
    out.writeUInt16LE(nameAt, at + 8)
    out.writeUInt8(entry.fileType, at + 10)
    nameAt += out.write(entry.name, nameAt, "latin1")
  }
}
