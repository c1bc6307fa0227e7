import type { FileHandle } from "node:fs/promises"
import { BLOCK_SIZE } from "../erofs/defs.js"
import { ioError } from "../errors.js"

const BUFFER_SIZE = 1024 * 1024

/**
 * Writes a data part: file contents one after the other, each from a 4 KiB boundary on. Taking bytes is
 * synchronous and copies them once; {@link drain} writes full buffers, one of them always in flight.
 */
export class PartWriter {
  readonly #file: FileHandle
  #buffer: Buffer = Buffer.allocUnsafeSlow(BUFFER_SIZE)
  #used = 0
  #full: Buffer[] = []
  readonly #free: Buffer[] = []
  /** Where the current buffer will be written. */
  #base = 0
  #written = 0
  #inFlight: Promise<void> = Promise.resolve()

  constructor(file: FileHandle) {
    this.#file = file
  }

  /** Bytes so far. */
  get size(): number {
    return this.#base + this.#used
  }

  /** The block where the next content begins. Only meaningful after {@link pad}. */
  get block(): number {
    return this.size / BLOCK_SIZE
  }

  append(bytes: Buffer): void {
    for (let at = 0; at < bytes.length; ) {
      const taken = bytes.copy(this.#buffer, this.#used, at)
      at += taken
      this.#take(taken)
    }
  }

  /** Fills up to the next block boundary with zeros. */
  pad(): void {
    const missing = -this.#used & (BLOCK_SIZE - 1)
    this.#buffer.fill(0, this.#used, this.#used + missing)
    this.#take(missing)
  }

  #take(size: number): void {
    this.#used += size
    if (this.#used < BUFFER_SIZE) return
    this.#full.push(this.#buffer)
    this.#base += BUFFER_SIZE
    this.#used = 0
    this.#buffer = this.#free.pop() ?? Buffer.allocUnsafeSlow(BUFFER_SIZE)
  }

  /** Writes what is full, without waiting for the last of it. @throws ImageError `io` */
  async drain(): Promise<void> {
    while (this.#full.length > 0) {
      await this.#inFlight
      const buffer = this.#full.shift() as Buffer
      this.#inFlight = this.#write(buffer).then(() => void this.#free.push(buffer))
      // The next await sees the failure; until then it must not count as unhandled.
      this.#inFlight.catch(() => undefined)
    }
  }

  /** Writes everything and waits for it. @throws ImageError `io` */
  async finish(): Promise<void> {
    this.pad()
    await this.drain()
    await this.#inFlight
    await this.#write(this.#buffer.subarray(0, this.#used))
    this.#base += this.#used
    this.#used = 0
  }

  async #write(bytes: Buffer): Promise<void> {
    try {
      for (let at = 0; at < bytes.length; ) {
        const { bytesWritten } = await this.#file.write(bytes, at, bytes.length - at, this.#written)
        at += bytesWritten
        this.#written += bytesWritten
      }
    } catch (error) {
      throw ioError(error, "cannot write image data")
    }
  }
}
