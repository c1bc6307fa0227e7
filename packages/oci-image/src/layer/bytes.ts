/** More than any single value has. */
const BUFFER_SIZE = 256 * 1024

/** Writes little-endian values and text, piece by piece, to wherever they go. Text is bytes (latin1). */
export class ByteWriter {
  readonly #buffer = Buffer.allocUnsafe(BUFFER_SIZE)
  readonly #sink: (bytes: Buffer) => void
  #used = 0

  /** @param sink - takes the next bytes, which are only valid during the call */
  constructor(sink: (bytes: Buffer) => void) {
    this.#sink = sink
  }

  /** Hands over what there is. */
  flush(): void {
    this.#sink(this.#buffer.subarray(0, this.#used))
    this.#used = 0
  }

  u8(value: number): void {
    const at = this.#grow(1)
    this.#buffer.writeUInt8(value, at)
  }

  u16(value: number): void {
    const at = this.#grow(2)
    this.#buffer.writeUInt16LE(value, at)
  }

  u32(value: number): void {
    const at = this.#grow(4)
    this.#buffer.writeUInt32LE(value, at)
  }

  f64(value: number): void {
    const at = this.#grow(8)
    this.#buffer.writeDoubleLE(value, at)
  }

  text(value: string): void {
    const at = this.#grow(value.length)
    this.#buffer.write(value, at, "latin1")
  }

  bytes(value: Buffer): void {
    const at = this.#grow(value.length)
    value.copy(this.#buffer, at)
  }

  #grow(size: number): number {
    if (this.#used + size > BUFFER_SIZE) this.flush()
    const at = this.#used
    this.#used += size
    return at
  }
}

/** Collects what `write` writes. */
export function bytesOf(write: (out: ByteWriter) => void): Buffer {
  const pieces: Buffer[] = []
  const out = new ByteWriter(bytes => pieces.push(Buffer.from(bytes)))
  write(out)
  out.flush()
  return Buffer.concat(pieces)
}

/** Reads what {@link ByteWriter} wrote. @throws RangeError beyond the end */
export class ByteReader {
  readonly #buffer: Buffer
  #at: number

  constructor(buffer: Buffer, at: number) {
    this.#buffer = buffer
    this.#at = at
  }

  get left(): number {
    return this.#buffer.length - this.#at
  }

  u8(): number {
    return this.#buffer.readUInt8(this.#take(1))
  }

  u16(): number {
    return this.#buffer.readUInt16LE(this.#take(2))
  }

  u32(): number {
    return this.#buffer.readUInt32LE(this.#take(4))
  }

  f64(): number {
    return this.#buffer.readDoubleLE(this.#take(8))
  }

  text(size: number): string {
    const at = this.#take(size)
    return this.#buffer.toString("latin1", at, at + size)
  }

  bytes(size: number): Buffer {
    const at = this.#take(size)
    return this.#buffer.subarray(at, at + size)
  }

  #take(size: number): number {
    if (size > this.left) throw new RangeError("ends too early")
    const at = this.#at
    this.#at += size
    return at
  }
}
