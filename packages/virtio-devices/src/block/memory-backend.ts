import { closeSync, constants, openSync } from "node:fs"
import { Mapping } from "@ts-vmm/native"
import type { BlockBackend, ExtentList } from "./backend.js"
import { SECTOR_SIZE } from "./defs.js"
import { BlockError } from "./errors.js"

/** A disk in memory. */
export interface MemoryBackend extends BlockBackend {
  /** The disk's bytes, live. */
  readonly bytes: Uint8Array
}

/**
 * A zeroed disk in memory, for tests and scratch space: a memfd, so that it takes the same path as a file.
 *
 * @param size bytes, a multiple of 512
 * @throws BlockError `size`
 *
 * @example
 * ```ts
 * const scratch = new BlockDevice(memoryBackend(64 * 2 ** 20))
 * ```
 */
export function memoryBackend(size: number, options: { readOnly?: boolean } = {}): MemoryBackend {
  if (!Number.isSafeInteger(size) || size < SECTOR_SIZE || size % SECTOR_SIZE !== 0) {
    throw new BlockError("size", `disk of ${size} bytes is not a whole number of sectors`, { value: size })
  }
  const { readOnly = false } = options
  const mapping = Mapping.create({ name: "disk", size })
  // A second open file description, so that a read-only disk has an fd the kernel lets nobody write through.
  const fd = openSync(`/proc/self/fd/${mapping.fd}`, readOnly ? constants.O_RDONLY : constants.O_RDWR)
  let open = true
  return {
    size,
    shareable: { fd, name: "disk in memory", readOnly, inMemory: true, discard: !readOnly },
    readOnly,
    inMemory: true,
    discard: !readOnly,
    flushFds: readOnly ? [] : [fd],
    bytes: new Uint8Array(mapping.buffer),
    locate: (offset: number, length: number, into: ExtentList) => into.add(fd, offset, length),
    close() {
      if (open) closeSync(fd)
      open = false
      mapping.close()
    },
  }
}
