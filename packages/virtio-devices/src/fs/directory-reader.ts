import { constants } from "node:os"
import { files } from "@ts-vmm/native"
import type { Handle } from "./handle-table.js"
import { DIRENT64, SEEK_SET } from "./host-abi.js"
import { DIRENT_SIZE, ENTRY_OUT_SIZE } from "./protocol.js"
import type { FuseReply } from "./reply.js"

/** Bytes of entries asked of the kernel at a time. */
const BUFFER_SIZE = 32 * 1024
const { EINVAL } = constants.errno

/** One entry of a directory of the host; its name lasts until the next read. */
export interface DirectoryEntry {
  readonly name: Uint8Array
  readonly isDot: boolean
}

/** Writes struct fuse_entry_out of a named file at the start of the place given. */
export type WriteEntry = (entry: DirectoryEntry, offset: number) => void

/**
 * Reads a directory as the guest wants it: from any position that it was told of, as many entries as fit. Positions are
 * the host file system's own, all 64 bits of them.
 */
export class DirectoryReader {
  readonly #buffer = new Uint8Array(BUFFER_SIZE)
  readonly #view = new DataView(this.#buffer.buffer)

  /**
   * @param size - most bytes of the answer
   * @param isShown - which names there are
   * @param plus - for READDIRPLUS: writes what a lookup of the name gives
   * @returns bytes of the answer, or a negative errno
   */
  read(
    handle: Handle,
    position: bigint,
    size: number,
    reply: FuseReply,
    isShown: (name: Uint8Array) => boolean,
    plus?: WriteEntry,
  ): number {
    const head = (plus ? ENTRY_OUT_SIZE : 0) + DIRENT_SIZE
    const most = Math.min(size, reply.bytes.length)
    let written = 0
    let next = position
    for (;;) {
      const length = this.#fill(handle, next)
      if (length <= 0) return written > 0 ? written : length
      for (let at = 0; at < length; at += this.#view.getUint16(at + DIRENT64.recordLength, true)) {
        const name = this.#nameAt(at)
        const entrySize = (head + name.length + 7) & ~7
        if (written + entrySize > most) {
          // Read too far: the next call starts where this one stops.
          handle.position = undefined
          return written > 0 ? written : -EINVAL
        }
        next = this.#view.getBigInt64(at + DIRENT64.offset, true)
        const isDot = name[0] === 0x2e && (name.length === 1 || (name.length === 2 && name[1] === 0x2e))
        if (!isDot && !isShown(name)) continue
        reply.bytes.fill(0, written, written + entrySize)
        plus?.({ name, isDot }, written)
        this.#write(reply, written + head - DIRENT_SIZE, at, name)
        written += entrySize
      }
    }
  }

  /** @returns bytes of entries from `position` on, 0 at the end, or a negative errno */
  #fill(handle: Handle, position: bigint): number {
    if (handle.position !== position) {
      const result = files.lseek(handle.fd, position, SEEK_SET)
      if (result < 0) return result
    }
    const length = files.getdents64(handle.fd, this.#buffer)
    handle.position = length > 0 ? this.#lastPosition(length) : position
    return length
  }

  #lastPosition(length: number): bigint {
    let at = 0
    for (;;) {
      const next = at + this.#view.getUint16(at + DIRENT64.recordLength, true)
      if (next >= length) return this.#view.getBigInt64(at + DIRENT64.offset, true)
      at = next
    }
  }

  #nameAt(at: number): Uint8Array {
    const start = at + DIRENT64.name
    return this.#buffer.subarray(start, this.#buffer.indexOf(0, start))
  }

  /** struct fuse_dirent: inode, position behind it, length of the name, type, name. */
  #write(reply: FuseReply, to: number, at: number, name: Uint8Array): void {
    reply.bytes.set(this.#buffer.subarray(at, at + 16), to)
    reply.view.setUint32(to + 16, name.length, true)
    reply.view.setUint32(to + 20, this.#buffer[at + DIRENT64.type] as number, true)
    reply.bytes.set(name, to + DIRENT_SIZE)
  }
}
