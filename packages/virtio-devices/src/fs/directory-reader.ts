import { constants } from "node:os"
import type { Handle } from "./handle-table.js"
import { DIRENT64 } from "./host-abi.js"
import type { Inode } from "./inode-table.js"
import { DIRENT_SIZE, ENTRY_OUT_SIZE } from "./protocol.js"
import type { FuseReply } from "./reply.js"
import type { SharedFolder } from "./shared-folder.js"

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
 * Reads directories as the guest wants them: from any position that it was told of, as many entries as fit. Positions
 * are the host file system's own, all 64 bits of them.
 *
 * What was read too far is kept for whoever goes on from there: going back to it would cost large directories dearly.
 */
export class DirectoryReader {
  readonly #buffer = new Uint8Array(BUFFER_SIZE)
  readonly #view = new DataView(this.#buffer.buffer)
  readonly #folder: SharedFolder
  readonly #reply: FuseReply
  /** Whose entries are in the buffer, from {@link #at} up to {@link #length}. */
  #handle: Handle | undefined
  #at = 0
  #length = 0
  /** Position of the next entry. */
  #position = 0n

  constructor(folder: SharedFolder, reply: FuseReply) {
    this.#folder = folder
    this.#reply = reply
  }

  /**
   * Puts entries of `directory` into the reply.
   *
   * @param handle - its own
   * @param size - most bytes of the answer
   * @param plus - for READDIRPLUS: writes what a lookup of the name gives
   * @returns bytes of the answer, or a negative errno
   */
  read(directory: Inode, handle: Handle, position: bigint, size: number, plus?: WriteEntry): number {
    const { bytes } = this.#reply
    const head = (plus ? ENTRY_OUT_SIZE : 0) + DIRENT_SIZE
    const most = Math.min(size, bytes.length)
    let written = 0
    if (this.#handle !== handle || this.#position !== position) this.#goTo(handle, position)
    for (;;) {
      const length = this.#at < this.#length ? this.#length : this.#fill(directory, handle)
      if (length <= 0) return written > 0 ? written : length
      const name = this.#nameAt(this.#at)
      const entrySize = (head + name.length + 7) & ~7
      if (written + entrySize > most) return written > 0 ? written : -EINVAL
      const isDot = name[0] === 0x2e && (name.length === 1 || (name.length === 2 && name[1] === 0x2e))
      bytes.fill(0, written, written + entrySize)
      plus?.({ name, isDot }, written)
      this.#write(written + head - DIRENT_SIZE, this.#at, name)
      written += entrySize
      this.#position = this.#view.getBigInt64(this.#at + DIRENT64.offset, true)
      this.#at += this.#view.getUint16(this.#at + DIRENT64.recordLength, true)
    }
  }

  #goTo(handle: Handle, position: bigint): void {
    this.#handle = handle
    this.#position = position
    this.#at = 0
    this.#length = 0
  }

  /** @returns bytes of entries from the position on, 0 at the end, or a negative errno */
  #fill(directory: Inode, handle: Handle): number {
    const position = this.#position
    const isThere = handle.position === position
    const length = this.#folder.readDirectory(directory, handle.fd, position, isThere, this.#buffer)
    this.#at = 0
    this.#length = Math.max(length, 0)
    // After an error nobody knows how far the kernel got.
    handle.position = length > 0 ? this.#lastPosition(length) : length === 0 ? position : undefined
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
  #write(to: number, at: number, name: Uint8Array): void {
    const reply = this.#reply
    reply.bytes.set(this.#buffer.subarray(at, at + 16), to)
    reply.view.setUint32(to + 16, name.length, true)
    reply.view.setUint32(to + 20, this.#buffer[at + DIRENT64.type] as number, true)
    reply.bytes.set(name, to + DIRENT_SIZE)
  }
}
