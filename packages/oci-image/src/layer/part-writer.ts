import { BLOCK_SIZE } from "../erofs/defs.js"
import { ioError } from "../errors.js"
import { type PartFile, writeAll } from "./part-file.js"

const BUFFER_SIZE = 1024 * 1024
const ZEROS = Buffer.alloc(BLOCK_SIZE)

/** A full buffer and where it belongs. */
interface Piece {
  readonly buffer: Buffer
  readonly position: number
}

/**
 * Writes a data part: file contents one after the other, each from a 4 KiB boundary on. Taking bytes is
 * synchronous and copies them once; {@link drain} writes full buffers, one of them always in flight.
 */
export class PartWriter {
  readonly #file: PartFile
  #buffer: Buffer = Buffer.allocUnsafeSlow(BUFFER_SIZE)
  #used = 0
  #full: Piece[] = []
  readonly #free: Buffer[] = []
  /** Where the current buffer will be written. */
  #base = 0
  /** End of what was handed to the file so far: beyond {@link size} after a step back. */
  #reached = 0
  #inFlight: Promise<void> = Promise.resolve()

  constructor(file: PartFile) {
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

  /** Appends at most a block of zeros. */
  zeros(count: number): void {
    if (count > 0) this.append(ZEROS.subarray(0, count))
  }

  /** Fills up to the next block boundary with zeros. */
  pad(): void {
    this.zeros(-this.size & (BLOCK_SIZE - 1))
  }

  /** Takes back what was appended from `block` on; what is already in the file is written over. */
  rewind(block: number): void {
    const size = block * BLOCK_SIZE
    this.#used = Math.max(0, size - this.#base)
    this.#base = Math.min(size, this.#base)
  }

  #take(size: number): void {
    this.#used += size
    if (this.#used < BUFFER_SIZE) return
    this.#full.push({ buffer: this.#buffer, position: this.#base })
    this.#base += BUFFER_SIZE
    this.#used = 0
    this.#buffer = this.#free.pop() ?? Buffer.allocUnsafeSlow(BUFFER_SIZE)
  }

  /** Writes what is full, without waiting for the last of it. @throws ImageError `io` */
  async drain(): Promise<void> {
    while (this.#full.length > 0) {
      await this.#inFlight
      const { buffer, position } = this.#full.shift() as Piece
      this.#inFlight = this.#write(buffer, position).then(() => void this.#free.push(buffer))
      // The next await sees the failure; until then it must not count as unhandled.
      this.#inFlight.catch(() => undefined)
    }
  }

  /** Writes everything and waits for it. @throws ImageError `io` */
  async finish(): Promise<void> {
    this.pad()
    await this.drain()
    await this.#inFlight
    await this.#write(this.#buffer.subarray(0, this.#used), this.#base)
    this.#base += this.#used
    this.#used = 0
    if (this.#reached > this.size) await this.#file.truncate(this.size)
  }

  /** Pieces are written in the order in which they were filled: a later one wins over one that was taken back. */
  async #write(bytes: Buffer, position: number): Promise<void> {
    this.#reached = Math.max(this.#reached, position + bytes.length)
    try {
      await writeAll(this.#file, bytes, position)
    } catch (error) {
      throw ioError(error, "cannot write image data")
    }
  }
}
