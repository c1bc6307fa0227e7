import { closeSync, constants, fdatasync, fstatSync, openSync } from "node:fs"
import { promisify } from "node:util"
import { MAX_MAPPING_SIZE, Mapping } from "@ts-vmm/native"
import type { DeviceMemoryPart } from "../device-memory.js"
import { PMEM_ALIGNMENT } from "./defs.js"
import { PmemError } from "./errors.js"

const PAGE_SIZE = 4096
const sync = promisify(fdatasync)

/** A file, or the beginning of one, that is a piece of persistent memory. */
export interface PmemPart {
  readonly path: string
  /** Bytes, whole pages of 4096. The file is not shorter, and must not become so. */
  readonly size: number
}

/** How files become persistent memory. */
export interface PmemOptions {
  /** Default true: nothing that the guest does changes the files. */
  readonly readOnly?: boolean
}

/** Files mapped end to end, with zeroes behind them up to the next 2 MiB. */
export class PmemFiles {
  readonly parts: readonly DeviceMemoryPart[]
  readonly size: number
  /** Of files that can be written. */
  readonly #fds: number[] = []
  readonly #mappings: Mapping[] = []

  /** @throws PmemError; SysError */
  constructor(files: readonly PmemPart[], { readOnly = true }: PmemOptions = {}) {
    try {
      if (files.length === 0) throw new PmemError("part-size", "persistent memory needs a file")
      for (const file of files) this.#map(file, readOnly)
      const bytes = files.reduce((sum, { size }) => sum + size, 0)
      this.size = Math.ceil(bytes / PMEM_ALIGNMENT) * PMEM_ALIGNMENT
      if (this.size > bytes)
        this.#mappings.push(Mapping.create({ name: "pmem-end", size: this.size - bytes }))
      const last = this.size > bytes ? this.#mappings.length - 1 : -1
      this.parts = this.#mappings.map(({ hostAddress, size }, index) => ({
        ...{ hostAddress, size },
        readOnly: readOnly || index === last,
      }))
    } catch (error) {
      this.close()
      throw error
    }
  }

  /** What the guest wrote is in the files when it resolves; on a thread of the pool. @throws what fdatasync does */
  async flush(): Promise<void> {
    await Promise.all(this.#fds.map(fd => sync(fd)))
  }

  /** For after the end of the guest. */
  close(): void {
    for (const mapping of this.#mappings.splice(0)) mapping.close()
    for (const fd of this.#fds.splice(0)) closeSync(fd)
  }

  #map({ path, size }: PmemPart, readOnly: boolean): void {
    if (!(Number.isSafeInteger(size) && size > 0 && size % PAGE_SIZE === 0))
      throw new PmemError("part-size", `${path}: ${size} bytes are no whole pages`)
    const fd = openRegular(path, size, readOnly)
    try {
      for (let offset = 0; offset < size; offset += MAX_MAPPING_SIZE) {
        const piece = Math.min(size - offset, MAX_MAPPING_SIZE)
        this.#mappings.push(Mapping.map({ fd, offset, size: piece, writable: !readOnly }))
      }
    } catch (cause) {
      closeSync(fd)
      throw new PmemError("file", `${path} cannot be mapped: ${(cause as Error).message}`, { cause })
    }
    // A mapping has a descriptor of its own.
    if (readOnly) closeSync(fd)
    else this.#fds.push(fd)
  }
}

/** @throws PmemError `file` for what is no file of that size */
function openRegular(path: string, size: number, readOnly: boolean): number {
  const fd = openOf(path, readOnly)
  const stat = fstatSync(fd)
  if (stat.isFile() && stat.size >= size) return fd
  closeSync(fd)
  const what = stat.isFile() ? `has ${stat.size} bytes, not ${size}` : "is no regular file"
  throw new PmemError("file", `${path} ${what}`)
}

/** Not blocking: what a name leads to may be a FIFO. */
function openOf(path: string, readOnly: boolean): number {
  try {
    return openSync(path, (readOnly ? constants.O_RDONLY : constants.O_RDWR) | constants.O_NONBLOCK)
  } catch (cause) {
    throw new PmemError("file", `${path} cannot be opened: ${(cause as Error).message}`, { cause })
  }
}
