import { fdatasync, fdatasyncSync, ftruncate, read, write, writeSync } from "node:fs"
import { promisify } from "node:util"
import { IO_PUNCH_HOLE, IoBatch } from "@ts-vmm/native"
import { BlockError } from "../errors.js"

const readAt = promisify(read)
const writeAt = promisify(write)
const truncate = promisify(ftruncate)
const sync = promisify(fdatasync)

/** A piece of an image that is to be written. */
export interface ImageWrite {
  /** Bytes from the file's start. */
  readonly offset: number
  readonly bytes: Uint8Array
}

/** Whole ranges of an open image, read and written. The fd stays the caller's. */
export class ImageFile {
  readonly fd: number
  /** What errors call it. */
  readonly name: string

  constructor(fd: number, name: string) {
    this.fd = fd
    this.name = name
  }

  /** @throws BlockError `format` when the file ends before the range does */
  async read(offset: number, length: number): Promise<Buffer> {
    if (!Number.isSafeInteger(offset + length)) throw this.#outside()
    const bytes = Buffer.alloc(length)
    for (let done = 0; done < length; ) {
      const { bytesRead } = await readAt(this.fd, bytes, done, length - done, offset + done)
      if (bytesRead === 0) throw this.#outside()
      done += bytesRead
    }
    return bytes
  }

  async write({ offset, bytes }: ImageWrite): Promise<void> {
    for (let done = 0; done < bytes.length; ) {
      const { bytesWritten } = await writeAt(this.fd, bytes, done, bytes.length - done, offset + done)
      done += bytesWritten
    }
  }

  writeNow({ offset, bytes }: ImageWrite): void {
    for (let done = 0; done < bytes.length; )
      done += writeSync(this.fd, bytes, done, bytes.length - done, offset + done)
  }

  /** Makes the file so long; what is new reads as zeroes. */
  extend(size: number): Promise<void> {
    return truncate(this.fd, size)
  }

  /** Gives the host the room of a range, which nobody needs any more. Where that cannot be it keeps it. */
  punch(offset: number, length: number): void {
    const batch = new IoBatch(1, 1)
    batch.setSegment(0, 0, 0, length)
    batch.setOp(0, IO_PUNCH_HOLE, this.fd, offset, 0, 1)
    batch.runSync([new ArrayBuffer(1)], 1)
  }

  sync(): Promise<void> {
    return sync(this.fd)
  }

  syncNow(): void {
    fdatasyncSync(this.fd)
  }

  #outside(): BlockError {
    return new BlockError("format", `${this.name} ends before what it refers to`)
  }
}
