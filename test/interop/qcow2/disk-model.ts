import { readSync, writeSync } from "node:fs"
import { type BlockBackend, ExtentList, ZERO_EXTENT } from "@ts-vmm/virtio-devices/block"
import type { Random } from "../../fuzz/random.js"

/** Reads through a backend, as the device does. */
export async function readDisk(disk: BlockBackend, offset: number, length: number): Promise<Buffer> {
  await disk.prepare?.(offset, length, "read")
  const extents = new ExtentList()
  disk.locate(offset, length, extents)
  const bytes = Buffer.alloc(length)
  for (let row = 0, at = 0; row < extents.count; row++) {
    const size = extents.lengths[row]!
    if (extents.fds[row] !== ZERO_EXTENT) {
      const got = readSync(extents.fds[row]!, bytes, at, size, extents.offsets[row]!)
      if (got !== size) throw new Error(`${got} of ${size} bytes at ${offset}`)
    }
    at += size
  }
  return bytes
}

/** Writes through a backend, as the device does. @param onWrite told of where it went in the image's file */
export async function writeDisk(
  disk: BlockBackend,
  offset: number,
  bytes: Buffer,
  onWrite: (write: { offset: number; bytes: Buffer }) => void = () => undefined,
): Promise<void> {
  await disk.prepare?.(offset, bytes.length, "write")
  const extents = new ExtentList()
  disk.locate(offset, bytes.length, extents)
  for (let row = 0, at = 0; row < extents.count; row++) {
    const part = bytes.subarray(at, at + extents.lengths[row]!)
    writeSync(extents.fds[row]!, part, 0, part.length, extents.offsets[row]!)
    onWrite({ offset: extents.offsets[row]!, bytes: Buffer.from(part) })
    at += part.length
  }
}

/** Has a range read as zeroes, as the device does. */
export async function zeroDisk(disk: BlockBackend, offset: number, length: number): Promise<void> {
  await disk.erase?.(offset, length, "write-zeroes")
}

/** Some sectors of a disk, and what is to be written there. */
export function randomWrite(random: Random, diskBytes: number, maxBytes: number) {
  const sectors = random.between(1, Math.floor(maxBytes / 512))
  const offset = 512 * random.below(diskBytes / 512 - sectors)
  return { offset, bytes: Buffer.alloc(sectors * 512, random.between(1, 255)) }
}
